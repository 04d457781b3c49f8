"""Where the time of an ingest goes: functions of the platform, each with a clock around it.

A function's time is its own: what another clocked one spends within it is that one's.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psutil

PARTS = {
    "read": [
        ("stock_assets.storage", "Store.keep_drop"),
        ("stock_assets.storage", "Store.drop_digest"),
        ("stock_assets.storage", "Store.read_drop"),
        ("stock_assets.prices", "plain_text"),
        ("stock_assets.prices", "_rows"),
        ("stock_assets.prices", "_typed"),
    ],
    "validate": [("stock_assets.defs.assets", "validate_csv")],
    "store": [
        ("stock_assets.price_records", "PriceRecords.register_drop"),
        ("stock_assets.price_records", "PriceRecords.store_drop"),
        ("stock_assets.price_records", "PriceRecords.rejected"),
    ],
    "features": [
        ("stock_assets.price_records", "PriceRecords.read_prices"),
        ("stock_assets.defs.assets", "compute_features"),
        ("stock_assets.defs.assets", "feature_drift"),
        ("stock_assets.intervals", "interval_widths"),
        ("stock_assets.storage", "Store.write_features"),
        ("stock_assets.storage", "Store.read_features"),
        ("stock_assets.forecast_records", "ForecastRecords.save_interval_widths"),
    ],
    "fit": [
        ("stock_assets.models", "LeastSquares.fit"),
        ("stock_assets.models", "RandomForest.fit"),
        ("stock_assets.forecasting", "train_pooled"),
    ],
    "backtest": [
        ("stock_assets.forecasting", "_out_of_sample"),
        ("stock_assets.forecasting", "_judged"),
    ],
    "keep models": [
        ("stock_assets.forecasting", "training_versions"),
        ("stock_assets.forecasting", "market_version"),
        ("stock_assets.forecasting", "dump_pooled"),
        ("stock_assets.models", "Artifact.dump"),
        ("stock_assets.storage", "Store.write_artifact"),
        ("stock_assets.defs.assets", "training_metadata"),
    ],
    "forecast": [
        ("stock_assets.forecast_records", "ForecastRecords.current_models"),
        ("stock_assets.storage", "Store.read_artifact"),
        ("stock_assets.models", "Artifact.load"),
        ("stock_assets.models", "Artifact.take"),
        ("stock_assets.forecasting", "load_pooled"),
        ("stock_assets.forecasting", "forecast"),
        ("stock_assets.defs.assets", "forecast_metadata"),
    ],
    "write": [
        ("stock_assets.forecast_records", "ForecastRecords.save_training"),
        ("stock_assets.forecast_records", "ForecastRecords.save_market_model"),
        ("stock_assets.forecast_records", "ForecastRecords.save_forecasts"),
        ("stock_assets.forecast_records", "ForecastRecords.mark_training_due"),
    ],
    "check and score": [
        ("stock_assets.defs.checks", "results"),
        ("stock_assets.forecast_records", "ForecastRecords.score_forecasts"),
        ("stock_assets.forecast_records", "ForecastRecords.live_records"),
        ("stock_assets.forecast_records", "ForecastRecords.live_errors"),
        ("stock_assets.forecast_records", "ForecastRecords.leaderboard"),
        ("stock_assets.defs.assets", "decide_champion"),
    ],
    "Dagster": [
        ("stock_assets.local_runs", "LocalRuns._run"),
        ("stock_assets.local_runs", "LocalRuns.plan"),
        ("stock_assets.local_runs", "LocalRuns.__init__"),
    ],
}


class Clocks:
    """Own time of each part, wall and CPU seconds; `start` is all before, `other` all the rest."""

    def __init__(self) -> None:
        """Load the platform and put the clocks in."""
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open = ["other"]
        for part, functions in PARTS.items():
            for module, path in functions:
                self._clock(part, module, path)
        begun = time.time() - psutil.Process().create_time()
        self._spent["start"] = [begun, time.process_time()]
        self._since = (time.perf_counter(), time.process_time())

    def told(self) -> dict[str, dict[str, float]]:
        """Wall and CPU seconds by part."""
        self._switch()
        return {part: {"wall": wall, "cpu": cpu} for part, (wall, cpu) in self._spent.items()}

    def _switch(self) -> None:
        now = (time.perf_counter(), time.process_time())
        spent = self._spent[self._open[-1]]
        for number in range(2):
            spent[number] += now[number] - self._since[number]
        self._since = now

    def _clock(self, part: str, module: str, path: str) -> None:
        import importlib

        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        found = vars(owner)[name]
        wrap = classmethod if isinstance(found, classmethod) else lambda function: function
        setattr(owner, name, wrap(self._clocked(part, getattr(found, "__func__", found))))

    def _clocked(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def clocked(*args: Any, **options: Any) -> Any:
            self._switch()
            # A fit within a backtest is the backtest's.
            self._open.append("backtest" if "backtest" in self._open else part)
            try:
                return function(*args, **options)
            finally:
                self._switch()
                self._open.pop()

        return clocked
