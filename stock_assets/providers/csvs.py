"""Prices in CSVs of ours at an address: one file of each ticker, or one of all."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from re import fullmatch
from urllib.parse import urlsplit

import pandas as pd

from stock_assets.csv_text import TICKER, fields_of, header_of, plain_text
from stock_assets.errors import DropError, ProviderDownError, ProviderError, SetupError
from stock_assets.files import files_at
from stock_assets.providers.asking import bare, get, patiently

_SECONDS = 600.0  # that a file may take
_NAMES = ("date", "close", "open", "low", "high", "volume", "sector")


class Csvs:
    """Rows as they are written: they are judged where all rows are, by the platform.

    A row that is of no ticker is nobody's, and left out.
    """

    history = timedelta(days=36_500)  # all of it

    def __init__(self, address: str, max_bytes: int) -> None:
        self.name = urlsplit(address).hostname or ""
        self._address = address
        self._max_bytes = max_bytes
        self._is_one = "{ticker}" not in address
        self.at_once = 1 if self._is_one else 8

    def tickers(self) -> dict[str, str]:
        """All that the one file has, each with the sector of its last row."""
        if not self._is_one:
            return {}
        whole = self._whole
        return {
            ticker: whole.rows([lines[-1]])[0]["sector"] for ticker, lines in whole.lines.items()
        }

    def prices(self, ticker: str, start: date, end: date) -> pd.DataFrame:
        """The rows of a ticker, as text, but those of days before or after."""
        address = self._address
        for place, text in {"ticker": ticker, "start": str(start), "end": str(end)}.items():
            address = address.replace(f"{{{place}}}", text)
        csv = self._whole if self._is_one else self._read(address)
        rows = csv.rows(csv.lines.get(ticker, []))
        rows = [row for row in rows if not _is_outside(row["date"], start, end)]
        if not rows:
            raise ProviderError(f"{bare(address)} has no rows of {ticker} from {start} to {end}.")
        prices = pd.DataFrame(rows, dtype=str).drop(columns="ticker")
        besides = [name for name in prices if name not in _NAMES]
        return prices[[*_NAMES, *besides]].sort_values("date", kind="stable", ignore_index=True)

    def sector(self, ticker: str) -> str:  # noqa: ARG002
        """Unknown but by the rows."""
        return ""

    @cached_property
    def _whole(self) -> "_Csv":
        """The one file, without which there is nothing."""
        try:
            return self._read(self._address)
        except ProviderError as error:
            raise ProviderDownError(str(error)) from error

    def _read(self, address: str) -> "_Csv":
        content = self._content(address)
        try:
            return _Csv.of(plain_text(content, self._max_bytes))
        except DropError as error:
            raise ProviderError(f"{bare(address)}: {error}") from error

    def _content(self, address: str) -> bytes:
        if address.startswith("http"):
            return patiently(lambda: get(address, max_bytes=self._max_bytes, seconds=_SECONDS))
        scheme, _, path = address.partition("://")
        bucket, _, name = path.partition("/")
        try:
            with files_at(f"{scheme}://{bucket}").open(name) as file:
                return file.read(self._max_bytes + 1)
        except SetupError as error:
            raise ProviderDownError(str(error)) from error
        except OSError as error:
            raise ProviderError(f"{address} cannot be read ({error.strerror or error}).") from error


@dataclass(frozen=True)
class _Csv:
    """A file in our format.

    Attributes:
        header: Its columns.
        lines: The lines of each ticker.
    """

    header: list[str]
    lines: dict[str, list[str]]

    @classmethod
    def of(cls, text: bytes) -> "_Csv":
        raw = text.split(b"\n")
        header, first = header_of(raw)
        place = header.index("ticker")
        lines: dict[str, list[str]] = {}
        for line in (line.decode() for line in raw[first - 1 :]):
            ticker = "".join(fields_of(line)[place : place + 1]).strip().upper()
            if fullmatch(TICKER, ticker):
                lines.setdefault(ticker, []).append(line)
        return cls(header, lines)

    def rows(self, lines: Iterable[str]) -> list[dict[str, str]]:
        """The fields of lines by their columns; those that a line lacks are empty."""
        blanks = [""] * len(self.header)
        return [dict(zip(self.header, [*fields_of(line), *blanks], strict=False)) for line in lines]


def _is_outside(text: str, start: date, end: date) -> bool:
    """Whether a text reads as a day that is not in the span."""
    try:
        return not start <= date.fromisoformat(text.strip()) <= end
    except ValueError:
        return False
