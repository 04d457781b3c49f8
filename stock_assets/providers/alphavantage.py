"""Prices of Alpha Vantage, by its API, as far as a free key goes."""

import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from pydantic import SecretStr

from stock_assets.csv_text import number_of
from stock_assets.errors import ProviderDownError, ProviderError
from stock_assets.providers.asking import PATIENCE, PassingError, by_symbol, get, patiently

_ADDRESS = "https://www.alphavantage.co/query"
_MAX_BYTES = 1 << 26  # 20 years of a ticker are 1 MB
_COMPACT_DAYS = 100  # that are told without a premium key
_PACE = 1.1  # seconds from one request to the next; a free key may make one a second
_NAMES = {  # of its numbers
    "close": "4. close",
    "open": "1. open",
    "low": "3. low",
    "high": "2. high",
    "volume": "5. volume",
}
_REFUSALS = ("Information", "Note", "Error Message")  # in the place of an answer, by 200 OK
_TOO_FAST = ("sparingly", "Burst", "per minute")


class AlphaVantage:
    """Prices as traded, adjusted for splits by us.

    Besides it tells raw_close, the close as traded, and split, new shares for an old one.
    """

    name = "alphavantage"
    at_once = 1
    history = timedelta(days=7 * (_COMPACT_DAYS // 5 - 1))

    def __init__(self, key: SecretStr) -> None:
        self._key = key
        self._next = 0.0

    def tickers(self) -> dict[str, str]:
        """None by itself."""
        return {}

    def prices(self, ticker: str, start: date, end: date) -> pd.DataFrame:
        """Prices of the days from start to end; two requests, of which a free key has 25 a day."""
        prices = by_symbol(ticker, lambda symbol: self._prices(symbol, start))
        prices = prices[prices["date"].between(pd.Timestamp(start), pd.Timestamp(end))]
        if prices.empty:
            raise ProviderError(f"Alpha Vantage has no prices of {ticker} from {start} to {end}.")
        return prices.reset_index(drop=True)

    def _prices(self, symbol: str, start: date) -> pd.DataFrame:
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        is_compact = np.busday_count(start, tomorrow) <= _COMPACT_DAYS
        size = "compact" if is_compact else "full"
        daily = self._told("TIME_SERIES_DAILY", symbol, outputsize=size)
        splits = self._told("SPLITS", symbol)
        try:
            traded = _as_traded(daily["Time Series (Daily)"])
            return _adjusted(traded, splits.get("data") or [])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _odd(symbol, f"{type(error).__name__}: {error}") from error

    def sector(self, ticker: str) -> str:
        """Such as Technology; funds have none."""
        try:
            told = by_symbol(ticker, lambda symbol: self._told("OVERVIEW", symbol))
        except ProviderDownError:
            raise
        except ProviderError:
            return ""
        sector = str(told.get("Sector", ""))
        return "" if sector == "None" else sector.title()

    def _told(self, function: str, symbol: str, **query: str) -> dict[str, Any]:
        query = {"function": function, "symbol": symbol, **query}
        return patiently(lambda: self._told_once(symbol, query))

    def _told_once(self, symbol: str, query: dict[str, str]) -> dict[str, Any]:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + _PACE
        key = self._key.get_secret_value()
        text = get(_ADDRESS, query={**query, "apikey": key}, max_bytes=_MAX_BYTES, seconds=PATIENCE)
        try:
            told = json.loads(text)
        except ValueError as error:
            raise _odd(symbol, str(error)) from error
        if not isinstance(told, dict):
            raise _odd(symbol, f"a {type(told).__name__}")
        for name in _REFUSALS:
            if name in told:
                raise _refusal(symbol, str(told[name]).replace(key, "..."))  # it tells the key
        return told


def _refusal(symbol: str, text: str) -> ProviderError:
    """The error that a refusal is; what it says is meant for readers, and changes at times."""
    if any(words in text for words in _TOO_FAST):
        return PassingError(f"Alpha Vantage was asked too fast ({text}). Try again later.")
    if "outputsize" in text:
        return ProviderError(
            f"Alpha Vantage tells this key the last {_COMPACT_DAYS} days of {symbol} alone "
            f"({text}). Ask for fewer days, or get a premium key."
        )
    if "Invalid API call" in text:
        return ProviderError(
            f"Alpha Vantage does not know {symbol} ({text}). Expected a symbol that its "
            "SYMBOL_SEARCH finds."
        )
    return ProviderDownError(
        f"Alpha Vantage refuses ({text}). Go on tomorrow, or with another key."
    )


def _odd(symbol: str, found: str) -> ProviderError:
    return ProviderError(f"What Alpha Vantage answers of {symbol} cannot be read ({found}).")


def _as_traded(days: dict[str, dict[str, str]]) -> pd.DataFrame:
    told = pd.DataFrame.from_dict(days, orient="index").sort_index()
    numbers = {ours: told[name].astype(str).map(number_of) for ours, name in _NAMES.items()}
    dates = pd.to_datetime(told.index, format="%Y-%m-%d")
    return pd.DataFrame({"date": dates, **numbers}).reset_index(drop=True)


def _adjusted(traded: pd.DataFrame, splits: list[dict[str, str]]) -> pd.DataFrame:
    """Prices and volumes as if all splits had always been.

    A split of factor f gives f shares for one. With F the product of the factors of all splits
    that took effect after a day, its prices are divided by F and its volume is multiplied by F. A
    split that is announced for a time after the newest day counts from then on.
    """
    days = traded["date"].to_numpy()
    found = sorted(
        (np.datetime64(split["effective_date"]), float(split["split_factor"])) for split in splits
    )
    found = [(day, factor) for day, factor in found if day <= days[-1]]
    effective = np.array([day for day, _ in found], "datetime64[ns]")
    following = np.cumprod([1.0, *(factor for _, factor in reversed(found))])[::-1]
    after = following[np.searchsorted(effective, days, side="right")]
    since = following[np.searchsorted(effective, days, side="left")]
    return pd.DataFrame(
        {
            "date": days,
            **{name: (traded[name] / after).round(6) for name in ("close", "open", "low", "high")},
            "volume": (traded["volume"] * after).round().astype("Int64"),
            "raw_close": traded["close"],
            "split": (since / after).round(6),
        }
    )
