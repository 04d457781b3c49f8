"""Prices of Yahoo Finance, by yfinance."""

import os
from collections.abc import Callable
from datetime import date, timedelta
from json import JSONDecodeError
from typing import Any

import pandas as pd
import yfinance as yf
from curl_cffi.requests.exceptions import HTTPError, RequestException
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFException, YFRateLimitError

from stock_assets.csv_text import PRICES
from stock_assets.errors import ProviderDownError, ProviderError
from stock_assets.providers.asking import PassingError, by_symbol, patiently

_NAMES = {
    "Close": "close",
    "Open": "open",
    "Low": "low",
    "High": "high",
    "Volume": "volume",
    "Adj Close": "adjusted_close",
    "Dividends": "dividend",
    "Stock Splits": "split",
}
_NOT_FOUND = 404


class Yahoo:
    """Prices adjusted for splits and not for dividends: what is quoted on a day is forecast.

    Days are those of the exchange. Besides it tells adjusted_close, for both, dividend, and split,
    new shares for an old one. A volume that it lacks is 0.
    """

    name = "yahoo"
    at_once = 4
    history = timedelta(days=730)

    def __init__(self) -> None:
        yf.config.debug.hide_exceptions = False
        yf.set_tz_cache_location(os.devnull)  # no folder: nothing is kept on disk

    def tickers(self) -> dict[str, str]:
        """None by itself."""
        return {}

    def prices(self, ticker: str, start: date, end: date) -> pd.DataFrame:
        """Prices of the days from start to end that it has any prices of."""

        def ask(symbol: str) -> pd.DataFrame:
            history = _told(
                symbol,
                lambda asked: asked.history(
                    start=start, end=end + timedelta(days=1), auto_adjust=False
                ),
            )
            prices = _prices(history)
            prices = prices[prices["date"].between(pd.Timestamp(start), pd.Timestamp(end))]
            if prices.empty:
                raise ProviderError(f"Yahoo has no prices of {symbol} from {start} to {end}.")
            return prices.reset_index(drop=True)

        return by_symbol(ticker, ask)

    def sector(self, ticker: str) -> str:
        """Such as Technology; funds have none."""
        try:
            info = by_symbol(ticker, lambda symbol: _told(symbol, lambda asked: asked.info))
        except ProviderDownError:
            raise
        except ProviderError:
            return ""
        return str(info.get("sector", ""))


def _told(symbol: str, ask: Callable[[yf.Ticker], Any]) -> Any:
    return patiently(lambda: _told_once(symbol, ask))


def _told_once(symbol: str, ask: Callable[[yf.Ticker], Any]) -> Any:
    """What yfinance tells; its errors, and those of its HTTP client, become ours."""
    YfData.cache_get.cache_clear()  # failures are kept there, too
    try:
        return ask(yf.Ticker(symbol))
    except (YFRateLimitError, YFDataException, RequestException, JSONDecodeError) as error:
        if isinstance(error, HTTPError) and error.response.status_code == _NOT_FOUND:
            raise _unknown(symbol, error) from error
        raise PassingError(
            f"Yahoo does not answer as it should ({error}). Try again later, or ask for less."
        ) from error
    except YFException as error:
        raise _unknown(symbol, error) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ProviderError(
            f"What Yahoo answers of {symbol} cannot be read ({type(error).__name__}: {error})."
        ) from error


def _unknown(symbol: str, error: Exception) -> ProviderError:
    return ProviderError(
        f"Yahoo has no prices of {symbol} ({error}). Expected a symbol that "
        "finance.yahoo.com has, and days on which it was traded."
    )


def _prices(history: pd.DataFrame) -> pd.DataFrame:
    """In our columns, without days that have no price at all."""
    prices = history.rename(columns=_NAMES)[[*_NAMES.values()]]
    prices = prices.dropna(subset=list(PRICES), how="all").round(6)
    prices["split"] = prices["split"].replace(0.0, 1.0)
    prices.insert(0, "date", pd.DatetimeIndex(prices.index).tz_localize(None).as_unit("ns"))
    return prices
