"""What a provider is asked for, and what comes of its answers in the drop folder and the prices."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from stock_assets import fetching
from stock_assets.database import Database
from stock_assets.errors import ProviderDownError, ProviderError, SetupError
from stock_assets.fetching import Fetched, Request, fetch, read_universe, wanted_tickers
from stock_assets.files import Folder, files_at
from stock_assets.settings import Settings
from tests.conftest import make_prices
from tests.test_database import register, table, take, validate

VALUES = ["close", "open", "low", "high", "volume"]
LAST = date(2019, 6, 28)
NEXT = date(2019, 7, 1)


@dataclass
class Market:
    """A provider that knows these prices, and whom it was asked for."""

    known: pd.DataFrame
    sectors: dict[str, str] = field(default_factory=lambda: {"AAPL": "Technology"})
    broken: dict[str, Exception] = field(default_factory=dict)
    asked: list[tuple[str, date, date]] = field(default_factory=list)
    name: str = "market"
    at_once: int = 1
    history: timedelta = timedelta(days=365)

    def tickers(self) -> dict[str, str]:
        """None by itself."""
        return {}

    def prices(self, ticker: str, start: date, end: date) -> pd.DataFrame:
        """What it knows."""
        self.asked.append((ticker, start, end))
        if ticker in self.broken:
            raise self.broken[ticker]
        rows = self.known[self.known["ticker"] == ticker]
        in_span = rows["date"].between(pd.Timestamp(start), pd.Timestamp(end))
        found = rows.loc[in_span, ["date", *VALUES]]
        return found.assign(adjusted_close=found["close"] / 2)

    def sector(self, ticker: str) -> str:
        """As it was told."""
        if ticker in self.broken:
            raise self.broken[ticker]
        return self.sectors.get(ticker, "")


@dataclass
class Desk:
    """Where it is fetched to: a drop folder and a database."""

    database: Database
    drops: Path
    taken: list[str] = field(default_factory=list)

    def fetch(
        self,
        market: Market,
        *tickers: str,
        last: date = LAST,
        since: date | None = None,
        **sectors: str,
    ) -> Fetched:
        """Fetch, without taking what came."""
        universe = dict.fromkeys(tickers, "") | sectors
        request = Request(market, universe, last, since)
        return fetch(request, self.database, files_at(self.drops))

    def take(self) -> list[pd.DataFrame]:
        """Have the platform take new drops; returns the sound rows of each."""
        found = []
        for path in sorted(self.drops.iterdir()):
            if path.name not in self.taken:
                self.taken.append(path.name)
                validation = validate(path.read_bytes())
                self.database.store_drop(register(self.database, path.read_bytes()), validation)
                found.append(validation.accepted)
        return found

    def prices(self, ticker: str = "AAPL") -> pd.DataFrame:
        """What the platform knows now."""
        rows = self.database.read_prices([ticker])
        return rows[["ticker", "sector", "date", *VALUES]].reset_index(drop=True)


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path / "drops")


def one_more_day(prices: pd.DataFrame, day: date = NEXT) -> pd.DataFrame:
    return pd.concat([prices, prices.tail(1).assign(date=pd.Timestamp(day))], ignore_index=True)


def divided(prices: pd.DataFrame, by: float) -> pd.DataFrame:
    """The same in smaller shares."""
    return prices.assign(**{name: (prices[name] / by).round(6) for name in VALUES[:4]})


# What comes


def test_a_new_ticker_is_dropped_as_a_csv_and_taken(desk: Desk) -> None:
    history = make_prices()
    fetched = desk.fetch(Market(history), AAPL="Technology")
    assert (fetched.news, fetched.rows, fetched.failures) == (["AAPL"], len(history), {})
    assert [path.name for path in desk.drops.iterdir()] == fetched.drops
    desk.take()
    pd.testing.assert_frame_equal(desk.prices(), history)


def test_columns_of_ours_come_first_and_others_are_kept(desk: Desk) -> None:
    desk.fetch(Market(make_prices()), AAPL="Technology")
    (path,) = desk.drops.iterdir()
    head, first = path.read_text().splitlines()[:2]
    assert head == "ticker,sector,date,close,open,low,high,volume,adjusted_close"
    close, adjusted = (float(first.split(",")[n]) for n in (3, 8))
    assert adjusted == close / 2


def test_a_new_ticker_is_asked_for_as_far_back_as_the_provider_goes(desk: Desk) -> None:
    market = Market(make_prices())
    desk.fetch(market, "AAPL")
    assert market.asked == [("AAPL", LAST - market.history, LAST)]


def test_the_first_day_may_be_named(desk: Desk) -> None:
    market = Market(make_prices())
    since = date(2019, 6, 3)
    desk.fetch(market, "AAPL", since=since)
    (rows,) = desk.take()
    assert market.asked == [("AAPL", since, LAST)]
    assert rows["date"].min() == pd.Timestamp(since)


def test_who_has_the_newest_day_is_not_asked_for(desk: Desk) -> None:
    market = Market(make_prices())
    desk.fetch(market, "AAPL")
    desk.take()
    fetched = desk.fetch(market, "AAPL")
    assert len(market.asked) == 1
    assert (fetched.unchanged, fetched.drops) == (["AAPL"], [])


def test_only_what_is_missing_is_asked_for_and_five_days_again(desk: Desk) -> None:
    history = make_prices()
    desk.fetch(Market(history), "AAPL")
    desk.take()
    market = Market(one_more_day(history))
    desk.fetch(market, "AAPL", last=NEXT)
    assert market.asked == [("AAPL", date(2019, 6, 24), NEXT)]
    (rows,) = desk.take()
    assert len(rows) == 6
    assert len(desk.prices()) == len(history) + 1


def test_where_nothing_came_nothing_is_dropped(desk: Desk) -> None:
    market = Market(make_prices())
    desk.fetch(market, "AAPL")
    desk.take()
    fetched = desk.fetch(market, "AAPL", last=NEXT)
    assert len(market.asked) == 2
    assert (fetched.unchanged, fetched.drops) == (["AAPL"], [])


def test_a_correction_of_the_last_days_is_taken(desk: Desk) -> None:
    history = make_prices()
    desk.fetch(Market(history), "AAPL")
    desk.take()
    corrected = history.copy()
    corrected.loc[corrected.index[-3], "volume"] += 1
    fetched = desk.fetch(Market(corrected), "AAPL", last=NEXT)
    assert (fetched.news, fetched.rewritten) == (["AAPL"], {})
    desk.take()
    pd.testing.assert_series_equal(desk.prices()["volume"], corrected["volume"])


def test_after_a_split_the_whole_history_is_fetched(desk: Desk) -> None:
    history = make_prices()
    desk.fetch(Market(history), "AAPL", since=date(2019, 1, 2))
    desk.take()
    first = desk.prices()["date"].min().date()
    market = Market(divided(one_more_day(history), 4))
    fetched = desk.fetch(market, "AAPL", last=NEXT)
    assert market.asked == [("AAPL", date(2019, 6, 24), NEXT), ("AAPL", first, NEXT)]
    assert fetched.rewritten == {"AAPL": pytest.approx(0.25, rel=1e-6)}
    desk.take()
    found = desk.prices()
    expected = market.known[market.known["date"] >= pd.Timestamp(first)]
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))


# Sectors


def test_the_sector_is_the_one_that_was_told(desk: Desk) -> None:
    desk.fetch(Market(make_prices(), {"AAPL": "of the provider"}), AAPL="told")
    desk.take()
    assert set(desk.prices()["sector"]) == {"told"}


def test_the_sector_stays_the_one_that_is_known(desk: Desk) -> None:
    history = make_prices()
    desk.fetch(Market(history), AAPL="told")
    desk.take()
    desk.fetch(Market(one_more_day(history), {"AAPL": "of the provider"}), "AAPL", last=NEXT)
    desk.take()
    assert set(desk.prices()["sector"]) == {"told"}


@pytest.mark.parametrize(
    ("sectors", "sector"), [({"AAPL": "Technology"}, "Technology"), ({}, "Unknown")]
)
def test_the_provider_is_asked_for_the_sector_of_a_new_ticker(
    desk: Desk, sectors: dict[str, str], sector: str
) -> None:
    desk.fetch(Market(make_prices(), sectors), "AAPL")
    desk.take()
    assert set(desk.prices()["sector"]) == {sector}


# What does not come


def test_one_without_prices_does_not_stop_the_others(desk: Desk) -> None:
    market = Market(make_prices("AAPL"), broken={"GONE": ProviderError("delisted, it seems")})
    fetched = desk.fetch(market, "AAPL", "GONE")
    assert (fetched.news, fetched.failures) == (["AAPL"], {"GONE": "delisted, it seems"})
    assert len(desk.take()) == 1


def test_nobody_is_asked_for_after_it_is_of_no_use(desk: Desk) -> None:
    history = pd.concat([make_prices(ticker) for ticker in ("A", "C", "D")])
    market = Market(history, broken={"B": ProviderDownError("25 requests a day")})
    fetched = desk.fetch(market, "A", "B", "C", "D")
    assert [ticker for ticker, *_ in market.asked] == ["A", "B"]
    assert fetched.news == ["A"]
    assert fetched.failures == {
        "B": "25 requests a day",
        "C": "not asked for: 25 requests a day",
        "D": "not asked for: 25 requests a day",
    }


def test_what_came_before_the_end_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TICKERS_IN_DROP", 2)
    history = pd.concat([make_prices(ticker) for ticker in ("A", "B", "C", "D")])
    market = Market(history, broken={"C": KeyboardInterrupt()})  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        desk.fetch(market, "A", "B", "C", "D")
    (rows,) = desk.take()
    assert set(rows["ticker"]) == {"A", "B"}
    market.broken.clear()
    desk.fetch(market, "A", "B", "C", "D")
    desk.take()
    assert [ticker for ticker, *_ in market.asked].count("A") == 1
    assert set(table(desk.database, "prices")["ticker"]) == {"A", "B", "C", "D"}


@pytest.mark.parametrize("close", ["n/a", "1e2147483648", ""])  # pandas' to_numeric dies of one
def test_rows_that_nobody_can_read_are_left_to_be_judged(desk: Desk, close: str) -> None:
    history = make_prices()[["date", *VALUES]].astype(str)
    take(desk.database, make_prices().head(4))
    history.loc[3, "close"] = close
    market = Market(history)
    market.prices = lambda *_: history  # type: ignore[method-assign]
    desk.fetch(market, "AAPL")
    (path,) = desk.drops.iterdir()
    validation = validate(path.read_bytes())
    assert (validation.rows_read, len(validation.rejected)) == (120, 1)


# Whom


def test_tickers_are_counted_while_they_come(desk: Desk) -> None:
    counts: list[int] = []
    request = Request(Market(make_prices()), {"AAPL": "", "B": ""}, LAST)
    fetch(request, desk.database, Folder(desk.drops), counts.append)
    assert counts == [1, 2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (
            "aapl:Technology, BRK.B ,XOM:Energy: Oil,",
            {"AAPL": "Technology", "BRK.B": "", "XOM": "Energy: Oil"},
        ),
    ],
)
def test_a_universe_may_be_a_list(text: str, found: dict[str, str]) -> None:
    assert read_universe(text) == found


def test_a_universe_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "universe.csv"
    path.write_text('sector,ticker\nTechnology,aapl\n"Oil, Gas",XOM\n,NA\n')
    assert read_universe(str(path)) == {"AAPL": "Technology", "XOM": "Oil, Gas", "NA": ""}


@pytest.mark.parametrize("content", [None, "symbol\nAAPL\n", "", "\x00"])
def test_a_universe_that_is_none_says_what_was_expected(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "universe.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SetupError, match="Expected a CSV with the columns ticker and sector"):
        read_universe(str(path))


@pytest.mark.parametrize(
    ("named", "universe", "own", "found"),
    [
        (["xom"], "XOM:Energy,AAPL", {"FILE": "x"}, {"XOM": "Energy"}),
        (["XOM"], "", {}, {"XOM": ""}),
        ([], "XOM:Energy", {"FILE": "x"}, {"XOM": "Energy"}),
        ([], "", {"FILE": "x"}, {"FILE": "x"}),
        ([], "", {}, {"KNOWN": ""}),
    ],
)
def test_tickers_are_named_or_set_or_the_providers_or_known(
    desk: Desk, named: list[str], universe: str, own: dict[str, str], found: dict[str, str]
) -> None:
    take(desk.database, make_prices("KNOWN", 1))
    market = Market(make_prices())
    market.tickers = lambda: own  # type: ignore[method-assign]
    assert wanted_tickers(named, market, Settings(universe=universe), desk.database) == found


def test_without_tickers_it_is_said_how_to_name_some(
    database: Database, settings: Settings
) -> None:
    with pytest.raises(SetupError, match="name some, or set STOCK_ASSETS_UNIVERSE"):
        wanted_tickers([], Market(make_prices()), settings, database)


def test_what_cannot_be_a_ticker_is_not_asked_for(database: Database, settings: Settings) -> None:
    with pytest.raises(SetupError, match=r"'\.\./X' cannot be fetched: ticker is not 1 to 15 of"):
        wanted_tickers(["../x"], Market(make_prices()), settings, database)
