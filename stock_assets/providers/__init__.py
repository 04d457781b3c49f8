"""Where daily prices come from.

What a provider needs is slow to load, and loaded where that provider is asked for.
"""

import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from stock_assets.errors import SetupError
from stock_assets.files import SCHEMES
from stock_assets.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_SCHEMES = ("https", "http", *SCHEMES)
_PLACES = {"ticker", "start", "end"}


class Provider(Protocol):
    """Where daily prices come from.

    What it does not have of a ticker is a ProviderError; the others may be asked for. It is a
    ProviderDownError where it is no use to ask on.

    Attributes:
        name: yahoo, alphavantage, or the host of an address.
        at_once: Tickers that may be asked for at the same time, by threads.
        history: How far back a ticker is asked for that is new.
    """

    name: str
    at_once: int
    history: timedelta

    def tickers(self) -> dict[str, str]:
        """The tickers that it has by itself, with their sectors: those of one file; else none."""

    def prices(self, ticker: str, start: date, end: date) -> "pd.DataFrame":
        """Prices of a ticker from one day to another, both included, ascending.

        Columns date, close, open, low, high, volume, then what the provider has besides; among
        that a sector, where it is told with the prices.
        """

    def sector(self, ticker: str) -> str:
        """The sector of a ticker; empty if the provider does not know it."""


def provider(name: str, settings: Settings) -> Provider:
    """The provider of a name, or at an address.

    Raises:
        SetupError: There is none, or it needs a package or a key.
    """
    if name == "yahoo":
        return _yahoo()
    if name == "alphavantage":
        return _alpha_vantage(settings)
    if "://" in name:
        return _csvs(name, settings)
    raise SetupError(
        f"There is no provider {name!r}. Expected yahoo, alphavantage, or the address of a CSV, "
        "such as https://host/prices.csv or s3://bucket/{ticker}.csv."
    )


def _yahoo() -> Provider:
    try:
        from stock_assets.providers.yahoo import Yahoo  # noqa: PLC0415
    except ImportError as error:
        raise SetupError(
            "The provider yahoo needs a package that is not installed: "
            "pip install 'stock-assets[yahoo]'"
        ) from error
    return Yahoo()


def _alpha_vantage(settings: Settings) -> Provider:
    from stock_assets.providers.alphavantage import AlphaVantage  # noqa: PLC0415

    if not settings.alphavantage_key.get_secret_value():
        raise SetupError(
            "The provider alphavantage needs a key: claim one on "
            "https://www.alphavantage.co/support and set STOCK_ASSETS_ALPHAVANTAGE_KEY."
        )
    return AlphaVantage(settings.alphavantage_key)


def _csvs(address: str, settings: Settings) -> Provider:
    from stock_assets.providers.csvs import Csvs  # noqa: PLC0415

    scheme, _, rest = address.partition("://")
    if scheme not in _SCHEMES or not urlsplit(address).hostname:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise SetupError(
            f"{scheme}://... is no address of a CSV. Expected one of {known} and a host or bucket."
        )
    places = set(re.findall(r"\{(.*?)\}", rest))
    if not places <= _PLACES or (places and "ticker" not in places):
        raise SetupError(
            f"The address of a CSV has {', '.join(sorted(places))} in braces. Expected {{ticker}}, "
            "then perhaps {start} and {end}; or none, where one file has all tickers."
        )
    return Csvs(address, settings.max_drop_bytes)
