"""Prices fetched from a provider, and written as CSVs into the drop folder.

A ticker is asked for the days that are missing and the last few again, for corrections. Where these
are not what they were, its history was rewritten, by a split for one, and all of it is fetched.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from stock_assets.csv_text import COLUMNS, RULES, TICKER, number_of
from stock_assets.database import Database, LastPrices
from stock_assets.errors import ProviderDownError, ProviderError, SetupError
from stock_assets.files import Files
from stock_assets.providers import Provider
from stock_assets.settings import Settings

ASKED_AGAIN = 5  # trading days
TICKERS_IN_DROP = 100  # what they have is kept before the next are asked for
UNKNOWN_SECTOR = "Unknown"
_VALUES = ["close", "open", "low", "high", "volume"]
_REWRITTEN = 1e-4  # log return of one close; what is less is a correction of that day


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        provider: Who is asked.
        universe: Tickers, each with its sector or an empty text.
        last: The newest trading day that is over.
        since: The first day; if not set, whatever is missing.
    """

    provider: Provider
    universe: Mapping[str, str]
    last: date
    since: date | None = None


@dataclass
class Fetched:
    """What came of asking.

    Attributes:
        drops: Names of the CSVs in the drop folder.
        rows: In them.
        news: Tickers with new or corrected prices.
        unchanged: Tickers with none: not asked for, as the newest day is there, or nothing came.
        rewritten: Tickers whose history was fetched anew, and what an old close is now, divided by
            what it was: 0.25 after a split of four for one.
        failures: Why others have nothing.
    """

    drops: list[str] = field(default_factory=list)
    rows: int = 0
    news: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rewritten: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def read_universe(text: str) -> dict[str, str]:
    """Tickers and their sectors, of a CSV with these columns or of a list.

    Args:
        text: The path or address of a .csv, or ``AAPL:Technology,XOM:Energy``, where a sector may
            be left out.

    Raises:
        SetupError: The file cannot be read or has other columns.
    """
    if not text.lower().endswith(".csv"):
        pairs = (entry.partition(":") for entry in text.split(",") if entry.strip())
        return {ticker.strip().upper(): sector.strip() for ticker, _, sector in pairs}
    try:
        table = pd.read_csv(text, dtype=str, keep_default_na=False)
        tickers, sectors = table["ticker"].str.strip().str.upper(), table["sector"].str.strip()
    except (OSError, KeyError, ValueError) as error:
        raise SetupError(
            f"STOCK_ASSETS_UNIVERSE, {text}, cannot be read: {error}. Expected a CSV with the "
            "columns ticker and sector, or a list such as AAPL:Technology,XOM:Energy"
        ) from error
    return dict(zip(tickers, sectors, strict=True))


def wanted_tickers(
    named: Collection[str], provider: Provider, settings: Settings, database: Database
) -> dict[str, str]:
    """Tickers to fetch, with their sectors where somebody told them.

    They are the named ones, else the universe, else all that the provider has by itself, else all
    that there are prices of.

    Raises:
        SetupError: There are none, or one cannot be a ticker.
    """
    universe = read_universe(settings.universe)
    if named:
        tickers = [name.strip().upper() for name in named]
        universe = {ticker: universe.get(ticker, "") for ticker in tickers}
    known = database.ticker_states
    found = universe or provider.tickers() or {state.ticker: "" for state in known()}
    wrong = [ticker for ticker in found if not re.fullmatch(TICKER, ticker)]
    if wrong:
        raise SetupError(f"{wrong[0]!r} cannot be fetched: {RULES['ticker']}")
    if not found:
        raise SetupError("No tickers to fetch: name some, or set STOCK_ASSETS_UNIVERSE")
    return found


def fetch(
    request: Request,
    database: Database,
    drops: Files,
    told: Callable[[int], None] = lambda _: None,
) -> Fetched:
    """Ask for the prices of tickers, and write what is new into the drop folder.

    A CSV appears there after each hundred tickers, so what came is kept if this is ended. It has
    the columns of our format, and behind them what else the provider tells.

    Args:
        request: What is asked for.
        database: Knows what is there.
        drops: The drop folder.
        told: Is called with how many tickers are done, again and again.
    """
    found, questions = Fetched(), _Questions(request)
    drops.make()
    tickers = sorted(request.universe)
    for first in range(0, len(tickers), TICKERS_IN_DROP):
        batch = tickers[first : first + TICKERS_IN_DROP]
        known = database.last_prices(batch, ASKED_AGAIN)
        tables: list[pd.DataFrame] = []
        with ThreadPoolExecutor(request.provider.at_once) as threads:
            answers = threads.map(questions.ask, batch, [known.get(ticker) for ticker in batch])
            for number, (ticker, answer) in enumerate(zip(batch, answers, strict=True), first + 1):
                tables += _note(found, ticker, answer)
                told(number)
        if tables:
            content = _csv(pd.concat(tables))
            which = hashlib.sha256(content).hexdigest()[:8]  # a name is never taken from another
            name = f"{request.provider.name}-{request.last}-{batch[0]}-{which}.csv"
            drops.write_each([(name, content)])
            found.drops.append(name)
            found.rows += sum(map(len, tables))
    return found


@dataclass(frozen=True)
class _Answer:
    """New prices of a ticker, and what an old close is now, divided by what it was."""

    prices: pd.DataFrame
    change: float


class _Questions:
    """What is asked of a provider, until it is of no use to ask."""

    def __init__(self, request: Request) -> None:
        self._request, self._provider = request, request.provider
        self._down: ProviderDownError | None = None

    def ask(self, ticker: str, known: LastPrices | None) -> _Answer | str | None:
        """What is new of a ticker; why there is nothing; None where nothing changed."""
        request = self._request
        if request.since is None and known and known.last >= request.last:
            return None
        if self._down:
            return f"not asked for: {self._down}"
        try:
            answer = self._prices(ticker, known)
            if answer is None or "sector" in answer.prices:
                return answer
            named = request.universe[ticker] or (known.sector if known else self._sector(ticker))
        except ProviderDownError as error:
            self._down = error
            return str(error)
        except ProviderError as error:
            return str(error)
        return _Answer(answer.prices.assign(sector=named), answer.change)

    def _prices(self, ticker: str, known: LastPrices | None) -> _Answer | None:
        last, since = self._request.last, self._request.since
        if not known:
            first = since or last - self._provider.history
            return _Answer(self._provider.prices(ticker, first, last), 1.0)
        told = self._provider.prices(ticker, since or known.days.index[0].date(), last)
        change = _change(told, known.days)
        if abs(np.log(change)) > _REWRITTEN:
            first = min(known.first, since or known.first)
            return _Answer(self._provider.prices(ticker, first, last), change)
        return _Answer(told, 1.0) if _is_new(told, known.days) else None

    def _sector(self, ticker: str) -> str:
        try:
            return self._provider.sector(ticker) or UNKNOWN_SECTOR
        except ProviderDownError:
            raise
        except ProviderError:
            return UNKNOWN_SECTOR


def _note(found: Fetched, ticker: str, answer: _Answer | str | None) -> Iterator[pd.DataFrame]:
    """Add what came of a ticker to what was found; its rows, if there are new ones."""
    if answer is None:
        found.unchanged.append(ticker)
    elif isinstance(answer, str):
        found.failures[ticker] = answer
    else:
        found.news.append(ticker)
        if answer.change != 1.0:
            found.rewritten[ticker] = answer.change
        yield answer.prices.assign(ticker=ticker)


def _numbers(prices: pd.DataFrame) -> pd.DataFrame:
    """The values by day; a URL's are text, which nobody has judged yet."""
    numbers = {name: prices[name].astype(str).map(number_of) for name in _VALUES}
    return pd.DataFrame(numbers).set_axis(pd.to_datetime(prices["date"], errors="coerce"))


def _change(told: pd.DataFrame, known: pd.DataFrame) -> float:
    """What the oldest close that both have is now, divided by what it was; 1 if there is none."""
    now, before = _numbers(told)["close"].align(known["close"], join="inner")
    ratio = (now / before).dropna()
    return float(ratio.iloc[0]) if len(ratio) and ratio.iloc[0] > 0 else 1.0


def _is_new(told: pd.DataFrame, known: pd.DataFrame) -> bool:
    """Whether a day is told that was not known, or otherwise than it was."""
    now = _numbers(told)
    return not now.astype(float).equals(known.reindex(now.index))


def _csv(table: pd.DataFrame) -> bytes:
    others = [name for name in table.columns if name not in COLUMNS]
    ordered = table[[*COLUMNS, *others]]
    return ordered.to_csv(index=False, date_format="%Y-%m-%d", lineterminator="\n").encode()
