"""Providers, asked by their real clients over real sockets; on request, the real ones.

The real ones are asked where STOCK_ASSETS_TEST_PROVIDERS is set, Alpha Vantage with the key that
STOCK_ASSETS_ALPHAVANTAGE_KEY is.
"""

import gzip
import logging
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pandas as pd
import pytest
from pydantic import SecretStr

from stock_assets.errors import ProviderDownError, ProviderError, SetupError
from stock_assets.files import files_at
from stock_assets.providers import Provider, provider
from stock_assets.settings import Settings
from tests.market_data import (
    ALPHA_VANTAGE,
    BAD_KEY,
    BURST,
    CONSENT,
    CSVS,
    DEMO,
    DOWN,
    FULL,
    MINUTE,
    NO_DAYS,
    NOT_FOUND,
    PREMIUM,
    PREMIUM_BURST,
    SHELL,
    TOO_MANY,
    YAHOO,
    Answer,
    Market,
    as_json,
    chart,
    daily,
    profile,
    splits,
    used_up,
)

yfinance = pytest.importorskip("yfinance", reason="yfinance is not installed")

KEY = "SH49HCQS63DYY62Z"
COLUMNS = ["date", "close", "open", "low", "high", "volume"]
ASKED = pytest.mark.skipif(
    "STOCK_ASSETS_TEST_PROVIDERS" not in os.environ,
    reason="STOCK_ASSETS_TEST_PROVIDERS is not set: the real providers are not asked",
)
TRIES = 6
MONDAY, FRIDAY = date(2024, 1, 8), date(2024, 1, 12)
WEEK = ["2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11", "2024-01-12"]


def yahoo() -> Provider:
    return provider("yahoo", Settings())


def alpha_vantage() -> Provider:
    return provider("alphavantage", Settings(alphavantage_key=SecretStr(KEY)))


def csvs(path: str = "all.csv", max_bytes: int = 100_000) -> Provider:
    return provider(f"https://{CSVS}/{path}", Settings(max_drop_bytes=max_bytes))


def rows(days: int, close: float = 100.0) -> list[tuple[float, float, float, float, float, int]]:
    """Rows of a chart."""
    return [(close, close + 2, close - 2, close + i, close, 1000 + i) for i in range(days)]


# Which there are


def test_a_provider_of_another_name_is_told() -> None:
    with pytest.raises(SetupError, match=r"no provider 'google'. Expected yahoo, alphavantage, or"):
        provider("google", Settings())


def test_alpha_vantage_needs_a_key() -> None:
    with pytest.raises(
        SetupError, match=r"needs a key: claim one .* STOCK_ASSETS_ALPHAVANTAGE_KEY"
    ):
        provider("alphavantage", Settings())


def test_yahoo_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stock_assets.providers.yahoo", raising=False)
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(SetupError, match=r"pip install 'stock-assets\[yahoo\]'"):
        provider("yahoo", Settings())


@pytest.mark.parametrize("address", ["ftp://user:pass@host/a.csv", "https:///a.csv", "s3:///a.csv"])
def test_an_address_of_no_kind_that_is_known_is_told(address: str) -> None:
    with pytest.raises(SetupError, match="Expected one of https://, http://, s3://") as refused:
        provider(address, Settings())
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize("path", ["{symbol}.csv", "{ticker}/{day}.csv", "all.csv?from={start}"])
def test_other_places_in_an_address_are_told(path: str) -> None:
    with pytest.raises(SetupError, match=r"in braces. Expected \{ticker\}"):
        csvs(path)


def test_names() -> None:
    names = [yahoo().name, alpha_vantage().name, csvs().name]
    assert names == ["yahoo", "alphavantage", "prices.example.com"]
    assert provider("s3://bucket/{ticker}.csv", Settings()).name == "bucket"


def test_what_providers_need_is_loaded_where_they_are_asked_for() -> None:
    script = "import stock_assets.providers, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    slow = {"yfinance", "curl_cffi", "httpx", "stamina", "pandas"}
    assert slow.isdisjoint(done.stdout.split())


# Yahoo


def test_yahoo_tells_closes_split_adjusted_and_what_it_has_besides(market: Market) -> None:
    market.chart(
        "AAPL",
        chart(
            WEEK,
            [
                (
                    182.08999633789062,
                    185.60000610351562,
                    181.5,
                    185.55999755859375,
                    184.73,
                    59144500,
                ),
                (183.9199981689453, 185.14999389648438, 182.72999572753906, 185.13999938, 184.3, 1),
                (184.35, 186.4, 183.92, 186.19, 185.35, 46792900),
                (186.54, 187.05, 183.62, 185.59, 184.76, 49128400),
                (186.06, 186.74, 185.19, 185.92, 185.08, 40444700),
            ],
            dividends={"2024-01-10": 0.24},
            splits={"2024-01-11": (4, 1)},
        ),
    )
    prices = yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert list(prices) == [*COLUMNS, "adjusted_close", "dividend", "split"]
    assert prices["date"].dtype == "datetime64[ns]"
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == WEEK
    first = prices.iloc[0]
    assert first[["close", "open", "low", "high"]].tolist() == [
        185.559998,
        182.089996,
        181.5,
        185.600006,
    ]
    assert prices["volume"].dtype == "int64"
    assert first["volume"] == 59144500
    assert prices["adjusted_close"].tolist() == [184.73, 184.3, 185.35, 184.76, 185.08]
    assert prices["dividend"].tolist() == [0, 0, 0.24, 0, 0]
    assert prices["split"].tolist() == [1, 1, 1, 4, 1]


def test_yahoo_is_asked_for_both_days_by_the_clock_of_the_exchange(market: Market) -> None:
    market.chart("AAPL", chart(WEEK, rows(5)))
    yahoo().prices("AAPL", MONDAY, FRIDAY)
    query = market.of(YAHOO, "/AAPL")[-1].query
    assert (query["period1"], query["period2"]) == ("1704690000", "1705122000")  # New York's nights
    assert query["interval"] == "1d"


def test_days_that_were_not_asked_for_are_left_out(market: Market) -> None:
    """Yahoo appends the newest day to any span."""
    days = ["2024-01-05", *WEEK, "2024-01-16"]
    market.chart("AAPL", chart(days, rows(7)))
    prices = yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == WEEK
    assert prices.index.tolist() == list(range(5))


@pytest.mark.parametrize(
    ("zone", "opens"),
    [
        ("Asia/Tokyo", "09:00"),
        ("Australia/Sydney", "10:00"),
        ("Pacific/Auckland", "10:00"),
        ("Europe/London", "08:00"),
        ("America/Sao_Paulo", "10:00"),
    ],
)
def test_days_are_those_of_the_exchange(market: Market, zone: str, opens: str) -> None:
    market.chart("X.Y", chart(WEEK, rows(5), zone=zone, opens=opens))
    prices = yahoo().prices("X.Y", MONDAY, FRIDAY)
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == WEEK


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London"])
def test_a_change_of_the_clocks_moves_no_day(market: Market, zone: str) -> None:
    days = [str(day.date()) for day in pd.bdate_range("2024-03-04", "2024-04-05")]
    market.chart("AAPL", chart(days, rows(len(days)), zone=zone))
    prices = yahoo().prices("AAPL", date(2024, 3, 4), date(2024, 4, 5))
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == days


def test_a_day_that_is_traded_now_is_told_once(market: Market) -> None:
    """Yahoo repeats it: as it was some minutes ago, and as it is."""
    days = [*WEEK[:3], WEEK[2]]
    market.chart("AAPL", chart(days, rows(4), live="12:47:03"))
    prices = yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == WEEK[:3]
    assert prices["close"].tolist() == [100, 101, 103]


def test_days_without_any_price_are_left_out_and_others_kept(market: Market) -> None:
    found = rows(5)
    empty = (None, None, None, None, None, None)
    partly = (None, 102.0, 98.0, 100.5, 100.0, 7)
    market.chart(
        "AAPL", chart(WEEK, [found[0], empty, partly, *found[3:]], dividends={WEEK[1]: 0.5})
    )
    prices = yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert prices["date"].dt.strftime("%Y-%m-%d").tolist() == [WEEK[0], *WEEK[2:]]
    assert prices["open"].isna().tolist() == [False, True, False, False]
    assert prices["close"].tolist() == [100, 100.5, 103, 104]


def test_a_delisted_ticker_is_told_and_yahoo_asked_on(market: Market) -> None:
    market.chart("AAPL", chart(WEEK, rows(5)))
    asked = yahoo()
    for ticker in ("GONE", "GONE2", "GONE3"):  # yfinance tells the first two otherwise
        with pytest.raises(
            ProviderError, match=f"Yahoo has no prices of {ticker} .* Expected"
        ) as no:
            asked.prices(ticker, MONDAY, FRIDAY)
        assert not isinstance(no.value, ProviderDownError)
    assert len(asked.prices("AAPL", MONDAY, FRIDAY)) == 5


@pytest.mark.parametrize("answer", [NO_DAYS, NOT_FOUND])
def test_a_span_without_prices_is_told(market: Market, answer: Answer) -> None:
    market.chart("AAPL", chart(WEEK, rows(5)), answer)
    with pytest.raises(ProviderError, match="Yahoo has no prices of AAPL") as no:
        yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


def test_a_span_with_other_days_alone_is_told(market: Market) -> None:
    market.chart("AAPL", chart(WEEK, rows(5)))
    with pytest.raises(ProviderError, match="no prices of AAPL from 2023-12-30 to 2024-01-01"):
        yahoo().prices("AAPL", date(2023, 12, 30), date(2024, 1, 1))


def test_the_shell_of_a_symbol_is_told(market: Market) -> None:
    market.chart("THF", SHELL)
    with pytest.raises(ProviderError, match="of THF cannot be read") as no:
        yahoo().prices("THF", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


def test_a_class_of_shares_has_a_dash_at_yahoo(market: Market) -> None:
    market.chart("BRK-B", chart(WEEK, rows(5)))
    assert len(yahoo().prices("BRK.B", MONDAY, FRIDAY)) == 5
    assert market.of(YAHOO, "chart")[0].path.endswith("/BRK.B")


def test_an_exchange_of_one_letter_keeps_its_dot(market: Market) -> None:
    market.chart("VOD.L", chart(WEEK, rows(5), zone="Europe/London", opens="08:00"))
    assert len(yahoo().prices("VOD.L", MONDAY, FRIDAY)) == 5
    assert market.of(YAHOO, "VOD-L") == []


@pytest.mark.parametrize("ticker", ["GONE", "GONE.TO", "GO.NE.B", "7203.T"])
def test_what_is_no_class_is_asked_for_as_it_is_written(market: Market, ticker: str) -> None:
    with pytest.raises(ProviderError):
        yahoo().prices(ticker, MONDAY, FRIDAY)
    assert {asked.path.rpartition("/")[2] for asked in market.of(YAHOO, "chart")} == {ticker}


def test_yahoo_that_limits_us_is_asked_again(market: Market, waits: list[float]) -> None:
    """It is asked twice each time, by yfinance."""
    market.chart("AAPL", *[TOO_MANY] * 4, chart(WEEK, rows(5)))
    assert len(yahoo().prices("AAPL", MONDAY, FRIDAY)) == 5
    assert len(market.of(YAHOO, "chart")) == 6
    first, second = waits
    assert 1 <= first <= 2
    assert 2 <= second <= 3


@pytest.mark.parametrize(
    "answer",
    [
        TOO_MANY,
        Answer(b"", 500),
        Answer(b"<html>502 Bad Gateway</html>", 502),
        Answer(b"{", 200),
        DOWN,
        CONSENT,
        Answer(b'{"chart": {"result": [', 200, is_cut=True),
    ],
    ids=["limit", "500", "502", "garbage", "down", "consent", "cut"],
)
def test_yahoo_that_goes_on_like_this_is_down(
    market: Market, waits: list[float], answer: Answer
) -> None:
    market.chart("AAPL", answer)
    with pytest.raises(ProviderDownError, match=r"Yahoo does not answer as it should .* Try again"):
        yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert len(waits) == TRIES - 1
    assert sum(waits) < 60


@pytest.mark.parametrize(
    "answer",
    [Answer(b"", 500), Answer(b"{", 200), DOWN, Answer(b'{"chart"', 200, is_cut=True)],
    ids=["500", "garbage", "down", "cut"],
)
@pytest.mark.parametrize("before", [0, 1])
def test_trouble_that_passes_is_not_told(market: Market, answer: Answer, before: int) -> None:
    """Neither of the time zone nor of prices: yfinance would keep the trouble."""
    good = chart(WEEK, rows(5))
    market.chart("AAPL", *[good] * before, answer, answer, good)
    assert len(yahoo().prices("AAPL", MONDAY, FRIDAY)) == 5


def test_yahoo_out_of_reach_is_down(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ProviderDownError, match="Yahoo does not answer as it should"):
        yahoo().prices("AAPL", MONDAY, FRIDAY)
    assert market.asked == []


def test_several_tickers_are_asked_for_at_once(market: Market) -> None:
    asked = yahoo()
    tickers = [f"T{number}" for number in range(12)]
    for number, ticker in enumerate(tickers):
        market.chart(ticker, chart(WEEK, rows(5, 100.0 + number)))
    with ThreadPoolExecutor(asked.at_once) as threads:
        told = [*threads.map(lambda ticker: asked.prices(ticker, MONDAY, FRIDAY), tickers)]
    assert [prices["close"][0] for prices in told] == [100.0 + number for number in range(12)]
    assert len(market.of(YAHOO, "chart")) == 24


def test_yahoo_tells_a_sector(market: Market) -> None:
    market.sector("AAPL", "Technology")
    assert yahoo().sector("AAPL") == "Technology"
    assert market.of(YAHOO, "quoteSummary")[0].query["crumb"] == "dFhd2vYkS7L"


def test_yahoo_tells_no_sector_of_what_has_none(market: Market) -> None:
    assert yahoo().sector("GONE") == ""
    market.answer(YAHOO, "/v10/finance/quoteSummary/SPY", profile(None))
    for path in ("/v7/finance/quote", "/ws/fundamentals-timeseries/v1/finance/timeseries/SPY"):
        market.answer("query1.finance.yahoo.com", path, as_json({}))
    assert yahoo().sector("SPY") == ""


def test_yahoo_that_is_down_tells_no_sector(market: Market) -> None:
    market.answer(YAHOO, "/v10/finance/quoteSummary/AAPL", TOO_MANY)
    with pytest.raises(ProviderDownError):
        yahoo().sector("AAPL")


def test_yahoo_writes_nothing_to_disk(market: Market, tmp_path: object) -> None:
    """In a process whose home may not be written to."""
    market.chart("AAPL", chart(WEEK, rows(5)))
    script = (
        "import datetime, os, sys\n"
        "opened = []\n"
        "def hook(event, args):\n"
        "    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    if writes or event in ('os.mkdir', 'sqlite3.connect'):\n"
        "        opened.append((event, args[0]))\n"
        "from stock_assets.providers import provider\n"
        "from stock_assets.settings import Settings\n"
        "yahoo = provider('yahoo', Settings())\n"
        "sys.addaudithook(hook)\n"
        "day = datetime.date.fromisoformat\n"
        f"prices = yahoo.prices('AAPL', day('{MONDAY}'), day('{FRIDAY}'))\n"
        "print(len(prices), [o for o in opened if o[1] != '/dev/null'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **market.environment, "HOME": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("5 []\n", "")


# Alpha Vantage

BEFORE = ("400.00", "404.00", "396.00", "402.00", "1000")
AFTER = ("100.00", "101.00", "99.00", "100.50", "4000")


def recent(days: int) -> list[date]:
    """The last days on which an exchange was open, ascending."""
    today = datetime.now(UTC).date()
    return [day.date() for day in pd.bdate_range(end=today, periods=days)]


def test_alpha_vantage_adjusts_for_splits(market: Market) -> None:
    """One before, two inside, on a day without prices, and one that is only announced."""
    days = recent(8)
    told = {
        str(days[0]): ("800.00", "808.00", "792.00", "804.00", "501"),
        str(days[1]): BEFORE,
        str(days[2]): BEFORE,
        str(days[4]): AFTER,
        str(days[5]): AFTER,
    }
    market.api("TIME_SERIES_DAILY", "AAPL", daily(told))
    market.api(
        "SPLITS",
        "AAPL",
        splits(
            "AAPL",
            (str(days[7]), "10.0000"),
            (str(days[3]), "4.0000"),
            (str(days[1]), "2.0000"),
            ("1987-06-16", "7.0000"),
        ),
    )
    prices = alpha_vantage().prices("AAPL", days[0], days[7])
    assert list(prices) == [*COLUMNS, "raw_close", "split"]
    assert prices["date"].dtype == "datetime64[ns]"
    assert prices["date"].dt.date.tolist() == [days[0], days[1], days[2], days[4], days[5]]
    assert prices["close"].tolist() == [100.5] * 5
    assert prices["open"].tolist() == [100.0] * 5
    assert prices["low"].tolist() == [99.0] * 5
    assert prices["high"].tolist() == [101.0] * 5
    assert prices["volume"].tolist() == [4008, 4000, 4000, 4000, 4000]
    assert prices["raw_close"].tolist() == [804, 402, 402, 100.5, 100.5]
    assert prices["split"].tolist() == [1, 2, 1, 1, 1]


def test_a_split_of_three_for_two_is_rounded(market: Market) -> None:
    days = recent(2)
    told = {str(days[0]): ("10.00", "10.00", "10.00", "10.00", "101"), str(days[1]): AFTER}
    market.api("TIME_SERIES_DAILY", "AAPL", daily(told))
    market.api("SPLITS", "AAPL", splits("AAPL", (str(days[1]), "1.5000")))
    prices = alpha_vantage().prices("AAPL", days[0], days[1])
    assert prices["close"].tolist() == [6.666667, 100.5]
    assert prices["volume"].tolist() == [152, 4000]
    assert prices["split"].tolist() == [1, 1.5]


def test_alpha_vantage_tells_the_days_that_are_asked_for(market: Market) -> None:
    days = recent(6)
    market.api("TIME_SERIES_DAILY", "AAPL", daily({str(day): AFTER for day in days}))
    market.api("SPLITS", "AAPL", splits("AAPL"))
    prices = alpha_vantage().prices("AAPL", days[1], days[3])
    assert prices["date"].dt.date.tolist() == days[1:4]
    with pytest.raises(ProviderError, match="Alpha Vantage has no prices of AAPL from 1999"):
        alpha_vantage().prices("AAPL", date(1999, 1, 1), date(1999, 1, 2))


def test_a_number_that_is_missing_is_left_to_the_rules(market: Market) -> None:
    day = recent(1)[0]
    market.api("TIME_SERIES_DAILY", "AAPL", daily({str(day): ("None", "2", "1", "2", "")}))
    market.api("SPLITS", "AAPL", splits("AAPL"))
    prices = alpha_vantage().prices("AAPL", day, day)
    assert prices[COLUMNS].isna().to_numpy().tolist() == [[False, False, True, False, False, True]]


@pytest.mark.parametrize(("days", "size"), [(100, "compact"), (101, "full")])
def test_a_long_span_needs_all_days(market: Market, days: int, size: str) -> None:
    found = recent(days)
    market.api("TIME_SERIES_DAILY", "AAPL", daily({str(day): AFTER for day in found}))
    market.api("SPLITS", "AAPL", splits("AAPL"))
    assert len(alpha_vantage().prices("AAPL", found[0], found[-1])) == days
    asked = market.of(ALPHA_VANTAGE)
    assert [(one.query["function"], one.query.get("outputsize")) for one in asked] == [
        ("TIME_SERIES_DAILY", size),
        ("SPLITS", None),
    ]
    assert {one.query["apikey"] for one in asked} == {KEY}


def test_alpha_vantage_is_asked_once_a_second(market: Market, waits: list[float]) -> None:
    day = recent(1)[0]
    market.api("TIME_SERIES_DAILY", "AAPL", daily({str(day): AFTER}))
    market.api("SPLITS", "AAPL", splits("AAPL"))
    asked = alpha_vantage()
    asked.prices("AAPL", day, day)
    asked.prices("AAPL", day, day)
    first, *others = waits
    assert first == 0
    assert all(1 < wait <= 1.1 for wait in others)
    assert len(others) == 3


@pytest.mark.parametrize(
    "answer", [BURST, PREMIUM_BURST, MINUTE], ids=["burst", "premium", "minute"]
)
def test_alpha_vantage_that_was_asked_too_fast_is_asked_again(
    market: Market, waits: list[float], answer: Answer
) -> None:
    day = recent(1)[0]
    market.api("TIME_SERIES_DAILY", "AAPL", answer, answer, daily({str(day): AFTER}))
    market.api("SPLITS", "AAPL", splits("AAPL"))
    assert len(alpha_vantage().prices("AAPL", day, day)) == 1
    assert len(market.of(ALPHA_VANTAGE)) == 4
    assert len(waits) == 6
    market.api("TIME_SERIES_DAILY", "AAPL", answer)
    with pytest.raises(ProviderDownError, match="asked too fast"):
        alpha_vantage().prices("AAPL", day, day)


@pytest.mark.parametrize(
    "answer",
    [used_up(KEY), DEMO, BAD_KEY, PREMIUM],
    ids=["daily limit", "demo", "bad key", "premium"],
)
def test_alpha_vantage_that_refuses_us_is_not_asked_on(
    market: Market, waits: list[float], answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    market.api("TIME_SERIES_DAILY", "AAPL", answer)
    with pytest.raises(ProviderDownError, match="Alpha Vantage refuses") as refused:
        alpha_vantage().prices("AAPL", MONDAY, FRIDAY)
    assert len(market.of(ALPHA_VANTAGE)) == 1
    assert waits == [0]
    assert KEY not in "".join(traceback.format_exception(refused.value))
    assert KEY not in caplog.text


def test_days_that_need_another_key_are_told(market: Market) -> None:
    market.api("TIME_SERIES_DAILY", "AAPL", FULL)
    with pytest.raises(ProviderError, match=r"last 100 days of AAPL alone .* premium key") as no:
        alpha_vantage().prices("AAPL", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


def test_a_symbol_that_alpha_vantage_does_not_know_is_told(market: Market) -> None:
    with pytest.raises(ProviderError, match=r"does not know GONE .* SYMBOL_SEARCH") as no:
        alpha_vantage().prices("GONE", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)
    assert len(market.of(ALPHA_VANTAGE)) == 1


def test_a_class_of_shares_has_a_dash_at_alpha_vantage(market: Market) -> None:
    day = recent(1)[0]
    market.api("TIME_SERIES_DAILY", "BRK-B", daily({str(day): AFTER}))
    market.api("SPLITS", "BRK-B", splits("BRK-B"))
    market.api("OVERVIEW", "BRK-B", as_json({"Symbol": "BRK-B", "Sector": "FINANCIAL SERVICES"}))
    assert len(alpha_vantage().prices("BRK.B", day, day)) == 1
    assert alpha_vantage().sector("BRK.B") == "Financial Services"


def test_who_refuses_us_is_asked_for_no_dash(market: Market) -> None:
    market.api("TIME_SERIES_DAILY", "BRK.B", used_up(KEY))
    with pytest.raises(ProviderDownError):
        alpha_vantage().prices("BRK.B", MONDAY, FRIDAY)
    assert len(market.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>Bad Gateway</html>"),
        Answer(b"[]"),
        as_json({}),
        as_json({"Time Series (Daily)": {"2024-01-08": {"close": "1"}}}),
        as_json({"Time Series (Daily)": "none"}),
    ],
    ids=["html", "list", "empty", "other names", "text"],
)
def test_an_answer_of_alpha_vantage_that_cannot_be_read_is_told(
    market: Market, answer: Answer
) -> None:
    market.api("TIME_SERIES_DAILY", "AAPL", answer)
    market.api("SPLITS", "AAPL", splits("AAPL"))
    with pytest.raises(ProviderError, match="answers of AAPL cannot be read") as no:
        alpha_vantage().prices("AAPL", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


@pytest.mark.parametrize(
    ("told", "sector"),
    [
        ({"Symbol": "IBM", "Sector": "TECHNOLOGY"}, "Technology"),
        ({"Symbol": "IBM", "Sector": "REAL ESTATE & CONSTRUCTION"}, "Real Estate & Construction"),
        ({"Symbol": "IBM", "Sector": "None"}, ""),
        ({}, ""),
    ],
)
def test_alpha_vantage_tells_a_sector(market: Market, told: object, sector: str) -> None:
    market.api("OVERVIEW", "IBM", as_json(told))
    assert alpha_vantage().sector("IBM") == sector


def test_a_sector_is_empty_where_the_symbol_is_unknown_alone(market: Market) -> None:
    assert alpha_vantage().sector("GONE") == ""
    market.api("OVERVIEW", "IBM", used_up(KEY))
    with pytest.raises(ProviderDownError):
        alpha_vantage().sector("IBM")


# CSVs

HEADER = "ticker,sector,date,close,open,low,high,volume"
CSV = f"""{HEADER}
AAPL,Technology,2024-01-08,185.56,182.09,181.50,185.60,59144500
MSFT,Technology,2024-01-08,374.69,369.30,369.01,375.20,23134000
AAPL,Tech,2024-01-09,185.14,183.92,182.73,185.15,42841800
"""


def answer_csv(market: Market, text: str | bytes = CSV, path: str = "/all.csv") -> None:
    body = text.encode() if isinstance(text, str) else text
    market.answer(CSVS, path, Answer(body, headers={"Content-Type": "text/csv"}))


def test_one_file_of_all_tickers_is_downloaded_once(market: Market) -> None:
    answer_csv(market)
    asked = csvs()
    assert asked.at_once == 1
    assert asked.tickers() == {"AAPL": "Tech", "MSFT": "Technology"}
    prices = asked.prices("AAPL", MONDAY, FRIDAY)
    assert list(prices) == [*COLUMNS, "sector"]
    assert prices.to_dict("records")[0] == {
        "date": "2024-01-08",
        "close": "185.56",
        "open": "182.09",
        "low": "181.50",
        "high": "185.60",
        "volume": "59144500",
        "sector": "Technology",
    }
    assert len(prices) == 2
    assert len(asked.prices("MSFT", MONDAY, FRIDAY)) == 1
    assert asked.sector("AAPL") == ""
    assert len(market.of(CSVS)) == 1


def test_one_file_of_each_ticker_is_asked_for_by_its_address(market: Market) -> None:
    answer_csv(market, path="/AAPL.csv")
    asked = csvs("{ticker}.csv?from={start}&to={end}&token=secret")
    assert asked.at_once > 1
    assert asked.tickers() == {}
    assert len(asked.prices("AAPL", MONDAY, FRIDAY)) == 2
    (one,) = market.of(CSVS)
    assert (one.path, one.query) == (
        "/AAPL.csv",
        {"from": "2024-01-08", "to": "2024-01-12", "token": "secret"},
    )
    with pytest.raises(ProviderError, match=r"MSFT.csv answers 404 Not Found. Expected 200") as no:
        asked.prices("MSFT", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)
    assert "secret" not in str(no.value)


def test_rows_are_told_as_they_are_written(market: Market) -> None:
    """All but those of other tickers and of other days."""
    answer_csv(
        market,
        "\n".join(
            [
                "note,Date,TICKER,sector,close,open,low,high,volume",
                "x,2024-01-09,aapl , Technology,cheap,1,1,1,1",
                "x,2024-01-08,AAPL,,1,1,1,1",
                "x,2024-01-07,AAPL,Technology,1,1,1,1,1",
                "x,2024-01-13,AAPL,Technology,1,1,1,1,1",
                "x,2024-13-01,AAPL,Technology,1,1,1,1,1",
                'x,01/09/2024,"AAPL","Oil, Gas",1,1,1,1,1',
                "x,2024-01-08,AAPLE,Technology,1,1,1,1,1",
                "x,2024-01-08,???,Technology,1,1,1,1,1",
                'x,2024-01-08,AAPL,"open,1,1,1,1,1',
                "",
            ]
        ),
    )
    asked = csvs()
    assert sorted(asked.tickers()) == ["AAPL", "AAPLE"]
    prices = asked.prices("AAPL", MONDAY, FRIDAY)
    assert list(prices) == [*COLUMNS, "sector", "note"]
    assert prices[["date", "close", "volume", "sector"]].to_numpy().tolist() == [
        ["01/09/2024", "1", "1", "Oil, Gas"],
        ["2024-01-08", "1", "", ""],
        ["2024-01-09", "cheap", "1", " Technology"],
        ["2024-13-01", "1", "1", "Technology"],
    ]


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.replace("\n", "\r\n").encode(),
        gzip.compress(CSV.encode()),
    ],
    ids=["plain", "BOM", "CRLF", "gzip"],
)
def test_a_file_may_be_written_in_many_ways(market: Market, content: bytes) -> None:
    answer_csv(market, content)
    assert len(csvs().prices("AAPL", MONDAY, FRIDAY)) == 2


def test_a_file_that_lacks_columns_is_told(market: Market) -> None:
    answer_csv(market, "ticker,date,close\nAAPL,2024-01-08,1\n", "/AAPL.csv")
    lacks = "AAPL.csv: The file has no column sector, open, low, high, volume"
    with pytest.raises(ProviderError, match=lacks) as no:
        csvs("{ticker}.csv").prices("AAPL", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


@pytest.mark.parametrize("content", [CSV.encode(), gzip.compress(CSV.encode() * 9)])
def test_a_file_that_is_too_large_is_told(market: Market, content: bytes) -> None:
    answer_csv(market, content, "/AAPL.csv")
    with pytest.raises(ProviderError, match="has more than 200 bytes"):
        csvs("{ticker}.csv", 200).prices("AAPL", MONDAY, FRIDAY)


def test_a_large_answer_is_not_read_to_its_end(market: Market) -> None:
    answer_csv(market, b"x" * 50_000_000, "/AAPL.csv")
    with pytest.raises(ProviderError, match="has more than 100,000 bytes, the most that is taken"):
        csvs("{ticker}.csv").prices("AAPL", MONDAY, FRIDAY)


@pytest.mark.parametrize("text", ["ticker\n", "", "<html>Not here</html>"])
def test_without_the_one_file_there_is_nothing(market: Market, text: str) -> None:
    answer_csv(market, text)
    with pytest.raises(ProviderDownError, match=r"all.csv: The file"):
        csvs().tickers()


def test_a_ticker_without_rows_is_told(market: Market) -> None:
    answer_csv(market)
    asked = csvs()
    for ticker, start in [("IBM", MONDAY), ("MSFT", FRIDAY)]:
        with pytest.raises(ProviderError, match=f"all.csv has no rows of {ticker} from") as no:
            asked.prices(ticker, start, FRIDAY)
        assert not isinstance(no.value, ProviderDownError)


def test_a_bucket_has_one_file_of_each_ticker(bucket: str) -> None:
    files_at(bucket).write_each([("in/AAPL.csv.gz", gzip.compress(CSV.encode()))])
    asked = provider(f"{bucket}/in/{{ticker}}.csv.gz", Settings())
    assert len(asked.prices("AAPL", MONDAY, FRIDAY)) == 2
    with pytest.raises(ProviderError, match=f"{bucket}/in/IBM.csv.gz cannot be read") as no:
        asked.prices("IBM", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


def test_a_bucket_has_one_file_of_all_tickers(bucket: str) -> None:
    files_at(bucket).write_each([("all.csv", CSV.encode())])
    assert sorted(provider(f"{bucket}/all.csv", Settings()).tickers()) == ["AAPL", "MSFT"]
    with pytest.raises(ProviderError, match="has more than 100 bytes"):
        provider(f"{bucket}/all.csv", Settings(max_drop_bytes=100)).tickers()


@pytest.mark.usefixtures("connections", "s3")
def test_a_store_that_does_not_answer_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ProviderDownError, match="does not answer as it should"):
        provider("s3://elsewhere/{ticker}.csv", Settings()).prices("AAPL", MONDAY, FRIDAY)


# Hosts


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", 500),
        Answer(b"", 503),
        Answer(b"", 429),
        Answer(CSV.encode(), is_cut=True),
        Answer(gzip.compress(CSV.encode()), is_cut=True),
    ],
    ids=["500", "503", "429", "cut", "cut gzip"],
)
def test_trouble_of_a_host_passes_or_is_told(
    market: Market, waits: list[float], answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    market.answer(CSVS, "/all.csv", answer, answer, Answer(CSV.encode()))
    assert len(csvs("all.csv?token=secret").tickers()) == 2
    assert len(waits) == 2
    assert caplog.text.count("Asked again in") == 2
    market.answer(CSVS, "/all.csv", answer)
    with pytest.raises(ProviderDownError, match=r"prices.example.com/all.csv .* Try again later"):
        csvs("all.csv?token=secret").tickers()
    assert len(market.of(CSVS)) == 3 + TRIES
    assert all(2**i <= wait <= 2**i + 1 for i, wait in enumerate(waits[2:]))


@pytest.mark.parametrize("status", [400, 403, 404, 410, 451])
def test_what_does_not_pass_is_asked_for_once(
    market: Market, waits: list[float], status: int
) -> None:
    market.answer(CSVS, "/AAPL.csv", Answer(b"", status))
    with pytest.raises(ProviderError, match=f"answers {status} .* Expected 200 OK") as no:
        csvs("{ticker}.csv").prices("AAPL", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)
    assert (len(market.asked), waits) == (1, [])


def test_a_host_that_does_not_let_us_in_is_down(market: Market, waits: list[float]) -> None:
    market.answer(CSVS, "/AAPL.csv", Answer(b"", 401))
    with pytest.raises(ProviderDownError, match=r"answers 401 Unauthorized. Expected to be let in"):
        csvs("{ticker}.csv").prices("AAPL", MONDAY, FRIDAY)
    assert (len(market.asked), waits) == (1, [])


def test_a_host_tells_how_long_to_wait(market: Market, waits: list[float]) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    refusals = [Answer(b"", 429, {"Retry-After": text}) for text in ("7", then, "soon")]
    market.answer(CSVS, "/all.csv", *refusals, Answer(CSV.encode()))
    assert len(csvs().tickers()) == 2
    assert waits[0] == 7
    assert 35 < waits[1] <= 40
    assert 4 <= waits[2] <= 5


def test_a_host_that_wants_to_be_left_alone_is(market: Market, waits: list[float]) -> None:
    market.answer(CSVS, "/all.csv", Answer(b"", 503, {"Retry-After": "3600"}))
    with pytest.raises(ProviderDownError, match="answers 503"):
        csvs().tickers()
    assert (len(market.asked), waits) == (1, [])


def test_a_host_that_is_silent_is_down(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stock_assets.providers.asking.SILENCE", 0.1)
    market.answer(CSVS, "/all.csv", Answer(CSV.encode(), is_slow=True))
    with pytest.raises(
        ProviderDownError, match=r"cannot be reached \(The read operation timed out"
    ):
        csvs().tickers()
    assert len(market.of(CSVS)) == TRIES


def test_a_host_that_is_slow_without_end_is_down(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stock_assets.providers.csvs._SECONDS", 0.1)
    market.answer(CSVS, "/all.csv", Answer(CSV.encode(), trickles=True))
    with pytest.raises(ProviderDownError, match=r"all.csv took more than 0 s. Try again later"):
        csvs().tickers()


def test_a_host_that_does_not_exist_is_down(market: Market) -> None:
    with pytest.raises(
        ProviderDownError, match=r"https://nowhere.example.com/a.csv cannot be reached"
    ):
        provider("https://user:secret@nowhere.example.com/a.csv", Settings()).tickers()
    assert market.asked == []


def test_a_host_whose_certificate_nobody_trusts_is_down(
    market: Market, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    answer_csv(market)
    with pytest.raises(ProviderDownError, match="CERTIFICATE_VERIFY_FAILED"):
        csvs().tickers()
    assert (market.asked, len(waits)) == ([], TRIES - 1)


def test_redirects_are_followed(market: Market) -> None:
    answer_csv(market)
    market.answer(CSVS, "/old.csv", Answer(b"", 302, {"Location": "/all.csv"}))
    assert len(csvs("old.csv").tickers()) == 2
    market.answer(CSVS, "/circle.csv", Answer(b"", 302, {"Location": "/circle.csv"}))
    with pytest.raises(ProviderError, match=r"circle.csv does not answer as it should"):
        csvs("circle.csv").tickers()


def test_no_redirect_leaves_https(market: Market) -> None:
    answer_csv(market)
    market.answer(CSVS, "/old.csv", Answer(b"", 302, {"Location": f"http://{CSVS}/all.csv?key=x"}))
    led = f"/old.csv leads to http://{CSVS}/all.csv. Expected to be led to https://"
    with pytest.raises(ProviderError, match=led):
        csvs("old.csv").tickers()
    assert [asked.scheme for asked in market.asked] == ["https"]


def test_a_plain_address_is_asked_as_it_is(market: Market) -> None:
    answer_csv(market)
    market.answer(CSVS, "/old.csv", Answer(b"", 301, {"Location": f"https://{CSVS}/all.csv"}))
    assert len(provider(f"http://{CSVS}/old.csv", Settings()).tickers()) == 2
    assert [asked.scheme for asked in market.asked] == ["http", "https"]


def test_passwords_and_queries_stay_with_the_host(
    market: Market, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    market.answer(CSVS, "/all.csv", Answer(b"", 503), Answer(CSV.encode()))
    address = f"https://user:secret@{CSVS}/all.csv?token=private"
    asked = provider(address, Settings())
    assert len(asked.tickers()) == 2
    assert market.asked[0].headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    with pytest.raises(ProviderError) as no:
        asked.prices("IBM", MONDAY, FRIDAY)
    told = caplog.text + str(no.value)
    assert f"{CSVS}/all.csv" in caplog.text
    assert "HTTP Request: GET" in caplog.text
    assert "secret" not in told
    assert "private" not in told
    assert len(waits) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", 500),
        Answer(b"", 404),
        Answer(b"{", 200),
        Answer(b"{}", is_cut=True),
        used_up(KEY),
    ],
    ids=["500", "404", "garbage", "cut", "used up"],
)
def test_the_key_stays_with_alpha_vantage(
    market: Market, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    market.api("TIME_SERIES_DAILY", "AAPL", answer)
    with pytest.raises(ProviderError) as no:
        alpha_vantage().prices("AAPL", MONDAY, FRIDAY)
    assert market.asked[0].query["apikey"] == KEY
    assert "HTTP Request: GET https://www.alphavantage.co/query " in caplog.text
    assert KEY not in caplog.text
    assert KEY not in "".join(traceback.format_exception(no.value))


# The real ones


@pytest.mark.providers
@ASKED
@pytest.mark.parametrize("ticker", ["AAPL", "BRK.B", "VOD.L", "7203.T"])
def test_the_real_yahoo(ticker: str) -> None:
    prices = yahoo().prices(ticker, date(2023, 6, 1), date(2023, 6, 30))
    assert 19 <= len(prices) <= 22
    assert prices["date"].is_monotonic_increasing
    assert prices[["close", "open", "low", "high", "volume"]].gt(0).all(axis=None)


@pytest.mark.providers
@ASKED
def test_the_real_yahoo_tells_splits_sectors_and_who_is_unknown() -> None:
    prices = yahoo().prices("AAPL", date(2020, 8, 24), date(2020, 9, 4))
    (split,) = prices[prices["split"] != 1].to_dict("records")
    assert (split["date"], split["split"]) == (pd.Timestamp("2020-08-31"), 4)
    assert prices["close"].between(100, 150).all()
    assert yahoo().sector("AAPL") == "Technology"
    with pytest.raises(ProviderError) as no:
        yahoo().prices("NOSUCHTICKER", MONDAY, FRIDAY)
    assert not isinstance(no.value, ProviderDownError)


@pytest.mark.providers
@ASKED
@pytest.mark.skipif(
    "STOCK_ASSETS_ALPHAVANTAGE_KEY" not in os.environ, reason="there is no key of Alpha Vantage"
)
def test_the_real_alpha_vantage() -> None:
    asked = provider("alphavantage", Settings())
    days = recent(20)
    prices = asked.prices("IBM", days[0], days[-1])
    assert 15 <= len(prices) <= 20
    assert prices[["close", "open", "low", "high", "volume"]].gt(0).all(axis=None)
    assert asked.sector("IBM") == "Technology"
    with pytest.raises(ProviderError) as no:
        asked.prices("NOSUCHTICKER", days[0], days[-1])
    assert not isinstance(no.value, ProviderDownError)
