"""One side of a comparison, as a process of its own: ``python -m tests.bench.sides NAME ...``.

Each reads a CSV of prices, writes forecasts (ticker, h, close), and prints what it has to tell as
one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

AHEAD = 10


def script(source: str, target: str) -> dict[str, Any]:
    """What a user would write: scikit-learn, one ticker after the other."""
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    prices = pd.read_csv(source, parse_dates=["date"]).sort_values(["ticker", "date"])
    fitting, told = _Lap(), []
    for ticker, group in prices.groupby("ticker"):
        table = group.reset_index(drop=True)
        close = table["close"]
        features = pd.DataFrame(
            {
                "return": close.pct_change(),
                "volume_change": table["volume"].pct_change().replace(np.inf, 0),
                "high_low": table["high"] / table["low"] - 1,
                "close_open": close / table["open"] - 1,
                **{f"lag_{lag}": close.pct_change().shift(lag) for lag in range(1, 6)},
            }
        ).fillna(0)
        targets = pd.concat([close.shift(-h) / close - 1 for h in range(1, AHEAD + 1)], axis=1)
        rows = targets.notna().all(axis=1)
        for model in (LinearRegression(), RandomForestRegressor(random_state=0)):
            with fitting:
                model.fit(features[rows].to_numpy(), targets[rows].to_numpy())
            path = model.predict(features.to_numpy()[-1:])[0]
            told += [
                (ticker, type(model).__name__, h, close.iloc[-1] * (1 + move))
                for h, move in enumerate(path, start=1)
            ]
    columns = ["ticker", "model", "h", "close"]
    forest = pd.DataFrame(told, columns=columns).query("model == 'RandomForestRegressor'")
    forest.to_csv(target, index=False)
    return {"fit": fitting.told()}


def mlforecast(source: str, target: str) -> dict[str, Any]:
    """mlforecast: one global model of each kind, on lagged differences of the logarithm."""
    import numpy as np
    import pandas as pd
    from mlforecast import MLForecast
    from mlforecast.target_transforms import Differences
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    prices = pd.read_csv(source, parse_dates=["date"]).sort_values(["ticker", "date"])
    series = pd.DataFrame(
        {
            "unique_id": prices["ticker"],
            "ds": prices.groupby("ticker").cumcount(),
            "y": np.log(prices["close"]),
        }
    )
    forecaster = MLForecast(
        models={
            "linear_regression": LinearRegression(),
            "gradient_boosting": HistGradientBoostingRegressor(random_state=0),
        },
        freq=1,
        lags=[1, 2, 3, 4, 5, 6],
        target_transforms=[Differences([1])],
    )
    path = forecaster.fit(series).predict(AHEAD)
    told = path.assign(
        ticker=path["unique_id"],
        h=path.groupby("unique_id").cumcount() + 1,
        close=np.exp(path["gradient_boosting"]),
    )
    told[["ticker", "h", "close"]].to_csv(target, index=False)
    return {}


def floor(source: str, *_: str) -> dict[str, Any]:
    """Fitting alone, of the models of the chain, with everything at hand."""
    import numpy as np
    import pandas as pd

    from stock_assets.features import WARM_UP, price_features
    from stock_assets.forecasting import Panel, targets

    prices = pd.read_csv(source, parse_dates=["date"]).sort_values(["ticker", "date"])
    panel = Panel.of(price_features(prices))
    y, rows = targets(panel.close, panel.spans), panel.spans + np.array([WARM_UP, -AHEAD])
    models = same_models().values()
    for model in models:
        model.fit(panel.x, y, rows[:2])  # compiled code is loaded
    fitting = _Lap()
    with fitting:
        for model in models:
            for first in range(0, len(rows), 100):
                model.fit(panel.x, y, rows[first : first + 100])
    return {"fit": fitting.told()}


def same_models() -> dict[str, Any]:
    """The models of the script, as this platform fits them."""
    from stock_assets.models import LeastSquares, RandomForest

    forest = RandomForest(trees=100, min_samples_leaf=1, max_features=1, max_samples=1)
    return {"linear_regression": LeastSquares(), "random_forest": forest}


def chain(source: str, home: str) -> dict[str, Any]:
    """`stock-assets ingest` with the models of the script, and a clock in each part."""
    os.environ["STOCK_ASSETS_MODELS"] = ",".join(same_models())
    from stock_assets.models import MODELS

    MODELS.update(same_models())
    return ingest(home, source)


def ingest(home: str, source: str) -> dict[str, Any]:
    """`stock-assets ingest` as it is, with a clock in each part."""
    os.environ["STOCK_ASSETS_HOME"] = home
    from tests.bench.clocks import Clocks

    clocks = Clocks()
    from stock_assets.cli import main

    sys.argv = ["stock-assets", "ingest", source]
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
    return dict(clocks.told())


def prepare(source: str) -> dict[str, Any]:
    """All that comes before the ranges of tickers: prices, widths, pooled models."""
    clocks, installation, requests = _planned(Path(source))
    installation._runs.refresh(requests[0])
    return dict(clocks.told())


def worker(number: str, workers: str) -> dict[str, Any]:
    """One worker's share of the ranges of tickers, trained and forecast."""
    clocks, installation, requests = _planned()
    for request in requests[1:][int(number) :: int(workers)]:
        installation._runs.refresh(request)
    return dict(clocks.told())


def _planned(*sources: Path) -> tuple[Any, Any, list[Any]]:
    from rich.console import Console

    from tests.bench.clocks import Clocks

    clocks = Clocks()
    from stock_assets.files import files_at
    from stock_assets.installation import Installation

    installation = Installation(Console(quiet=True))
    installation.ingest([(files_at(source.parent), source.name) for source in sources])
    tickers = installation.known_tickers(None)
    return (
        clocks,
        installation,
        [request for request, _ in installation._runs.plan(tickers, train=True)],
    )


def walk(source: str, first: str, last: str) -> dict[str, Any]:
    """The backtest of every candidate, trained anew each week."""
    from datetime import date

    import pandas as pd

    from stock_assets import backtest
    from stock_assets.models import candidates
    from stock_assets.settings import current_settings

    prices = pd.read_csv(source, parse_dates=["date"]).sort_values(
        ["ticker", "date"], ignore_index=True
    )
    found = backtest.walk(
        prices,
        candidates(current_settings().models),
        history=100,
        first=date.fromisoformat(first),
        last=date.fromisoformat(last),
    )
    return {"trainings": sum(1 for _ in found)}


def ui(home: str) -> dict[str, Any]:
    """The web UI in a real browser."""
    from tests.bench.ui import pages

    return dict(pages(home))


class _Lap:
    """Adds up what is done within it."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()

    def told(self) -> dict[str, float]:
        return {"wall": self.wall, "cpu": self.cpu}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
