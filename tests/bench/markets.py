"""Prices to measure on: real ones where they are, random walks elsewhere."""

import numpy as np
import pandas as pd

from stock_assets.csv_text import COLUMNS
from tests.conftest import SHARED_PRICES, make_prices

DAYS, AHEAD = 100, 10
_STEP = 60  # days between windows of one real ticker, where more tickers are asked for than exist


def is_real() -> bool:
    """Whether the real prices are there."""
    return SHARED_PRICES.exists()


def market(tickers: int, days: int = DAYS + AHEAD) -> pd.DataFrame:
    """So many days of so many tickers; the last ten are kept back as outcomes by `known`.

    Where more tickers are asked for than are real, earlier windows of the real ones are given
    the dates of the last and another name.
    """
    if not is_real():
        walks = [make_prices(f"T{number:05}", days, seed=number) for number in range(tickers)]
        return pd.concat(walks, ignore_index=True)
    real = everything()
    full = real.groupby("ticker").filter(lambda table: len(table) == real["date"].nunique())
    names, dates = full["ticker"].unique(), np.sort(full["date"].unique())
    parts = []
    for window in range(-(-tickers // len(names))):
        end = len(dates) - _STEP * window
        part = full[full["date"].isin(dates[end - days : end])]
        moved = dict(zip(dates[end - days : end], dates[-days:], strict=True))
        name = part["ticker"] if window == 0 else part["ticker"] + f".{window}"
        parts.append(part.assign(ticker=name, date=part["date"].map(moved)))
    everyone = pd.concat(parts, ignore_index=True)
    everyone = everyone[everyone["ticker"].isin(everyone["ticker"].unique()[:tickers])]
    return everyone[list(COLUMNS)].sort_values(["ticker", "date"], ignore_index=True)


def everything() -> pd.DataFrame:
    """All real prices."""
    prices: pd.DataFrame = pd.read_csv(SHARED_PRICES, parse_dates=["date"])
    return prices.sort_values(["ticker", "date"], ignore_index=True)


def known(prices: pd.DataFrame) -> pd.DataFrame:
    """All but the last ten days."""
    dates = np.sort(prices["date"].unique())
    rows: pd.DataFrame = prices[prices["date"] <= dates[-AHEAD - 1]]
    return rows


def error(prices: pd.DataFrame, told: pd.DataFrame) -> float:
    """Mean absolute log error of forecasts (ticker, h, close) against the last ten days."""
    dates = np.sort(prices["date"].unique())[-AHEAD:]
    number = {day: h for h, day in enumerate(dates, start=1)}
    actual = prices.assign(h=prices["date"].map(number)).dropna(subset="h")
    both = told.merge(actual, on=["ticker", "h"], suffixes=("_told", ""))
    return float(np.abs(np.log(both["close"] / both["close_told"])).mean())
