"""The platform as of a day tells what the backtest says it would have told on that day."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from stock_assets import backtest
from stock_assets.defs import assets
from stock_assets.models import candidates
from stock_assets.settings import current_settings
from tests.conftest import make_prices
from tests.test_assets import OF_TICKER, Platform

TICKERS = ("AAPL", "MSFT", "NEW", "XOM")
KEY = ["ticker", "as_of", "h", "model"]


@pytest.fixture(scope="module")
def prices() -> pd.DataFrame:
    """Four tickers, one of them with too short a history to train on."""
    full = [make_prices(name, 150, seed=seed) for seed, name in enumerate(("AAPL", "MSFT", "XOM"))]
    table = pd.concat([*full, make_prices("NEW", 70)])
    return table.assign(sector=table["ticker"].map(dict.fromkeys(("XOM",), "Energy")).fillna("IT"))


@pytest.fixture(scope="module")
def days(prices: pd.DataFrame) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(sorted(prices["date"].unique()))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(tmp_path, instance)


def told(platform: Platform) -> pd.DataFrame:
    """Every stored forecast, as a log return from the last close, with its intervals."""
    with platform.database.engine.connect() as connection:
        rows = pd.read_sql("SELECT * FROM forecasts", connection, parse_dates=["as_of"])
    return rows.set_index(KEY).sort_index()


def expected(prices: pd.DataFrame, day: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """The same rows by the backtest, of one training and the days up to another."""
    weeks = backtest.walk(
        prices, candidates(current_settings().models), first=day.date(), last=last.date()
    )
    found = next(weeks)
    frames = []
    for model, paths in found.paths.items():
        if model in (backtest.CHAMPION, backtest.OWN_CHAMPION, *backtest.REFERENCES):
            continue
        for h in range(1, 11):
            close = found.origins["last_close"]
            half = found.half_widths[model][:, :, h - 1]
            path = paths[:, h - 1]
            frames.append(
                found.origins[["ticker", "as_of"]].assign(
                    h=h,
                    model=model,
                    close=close * np.exp(path),
                    lo_80=close * np.exp(path - half[:, 0]),
                    hi_80=close * np.exp(path + half[:, 0]),
                    lo_95=close * np.exp(path - half[:, 1]),
                    hi_95=close * np.exp(path + half[:, 1]),
                    is_champion=(model == found.champions[day.date()]),
                )
            )
    rows = pd.concat(frames).dropna(subset=["close"])
    return rows.set_index(KEY).sort_index()


def test_fresh_platform_tells_what_the_backtest_says(
    platform: Platform, prices: pd.DataFrame, days: pd.DatetimeIndex
) -> None:
    day = days[-11]
    platform.ingest(prices[prices["date"] <= day])
    platform.refresh(*TICKERS)
    rows, wanted = told(platform), expected(prices, day, day)
    assert rows.index.equals(wanted.index)
    figures = ["close", "lo_80", "hi_80", "lo_95", "hi_95"]
    np.testing.assert_allclose(rows[figures], wanted[figures], rtol=1e-9)
    assert rows["is_champion"].astype(bool).tolist() == wanted["is_champion"].tolist()


def test_platform_fed_day_by_day_tells_what_the_backtest_says(
    platform: Platform, prices: pd.DataFrame, days: pd.DatetimeIndex
) -> None:
    first, last = days[-13], days[-11]
    untrained = [
        asset for asset in OF_TICKER if asset not in (assets.market_model, assets.ticker_models)
    ]
    platform.ingest(prices[prices["date"] <= first])
    platform.refresh(*TICKERS)
    for day in days[-12:-10]:
        platform.ingest(prices[prices["date"] == day])
        platform.refresh(*TICKERS, selection=untrained)
    rows, wanted = told(platform), expected(prices, first, last)
    assert sorted(set(rows.index.get_level_values("as_of"))) == list(days[-13:-10])
    assert rows.index.equals(wanted.index)
    figures = ["close", "lo_80", "hi_80", "lo_95", "hi_95"]
    np.testing.assert_allclose(rows[figures], wanted[figures], rtol=1e-9)


def test_prices_after_the_day_change_nothing(prices: pd.DataFrame, days: pd.DatetimeIndex) -> None:
    day = days[-11]
    later = prices["date"] > day
    columns = ["close", "open", "low", "high"]
    other = prices.assign(
        **{name: prices[name].where(~later, prices[name] * 2) for name in columns}
    )
    np.testing.assert_array_equal(
        expected(prices, day, day)["close"], expected(other, day, day)["close"]
    )
