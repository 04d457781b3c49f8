"""The service's answers about tickers, forecasts and health, from both databases."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import httpx
import pandas as pd
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from httpx import Response

from stock_assets.api import answers, memory
from stock_assets.api.app import FORM_BYTES, MOST_JSON_BYTES, create_app
from stock_assets.api.reader import Reader, Wanted
from stock_assets.database import Champion, Database
from stock_assets.settings import Settings
from tests.browser import free_port
from tests.conftest import empty_database, make_prices
from tests.test_database import forecast, take, training

MARKET = {  # sectors
    "AAP": "Retail",
    "AAPL": "Technology",
    "BRK.B": "Financials",
    "GAS": "Oil_Gas",
    "IBM": "Technology",
    "OIL": "100% Oil",
    "TECH": "Biotech",
    "XAAPL": "Technology",
}
UNTOLD = "GAS"  # has no forecast
EARLIER, NEWEST = date(2019, 5, 31), date(2019, 6, 28)
FIELDS = (
    *("ticker", "sector", "days", "last_date", "last_close"),
    *("change", "width", "mae_ratio", "forecast_at"),
)
DIGITS = [*range(1, 11)]
NO_DATABASE = "The database does not answer; the service's log tells more. Try again in a moment."
Outage = Callable[[], AbstractContextManager[None]]


class Client:
    """Asks a service in this process, from its start to its end."""

    def __init__(self, app: FastAPI) -> None:
        self._runner = asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", timeout=60
        )

    def __enter__(self) -> Self:
        self._runner.run(self._lifespan.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def request(self, method: str, path: str, **options: Any) -> Response:
        """The answer to a request."""
        return self._runner.run(self._http.request(method, path, **options))

    def get(self, path: str, **options: Any) -> Response:
        """The answer to a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Response:
        """The answer to a POST."""
        return self.request("POST", path, **options)

    def at_once(self, method: str, paths: list[str]) -> list[Response]:
        """The answers to requests that all come at the same time."""

        async def all_of_them() -> list[Response]:
            return await asyncio.gather(*(self._http.request(method, path) for path in paths))

        return self._runner.run(all_of_them())


@dataclass
class Market:
    """A service on a database that has something of everything; nobody writes to it."""

    client: Client
    database: Database

    def tickers(self, **params: Any) -> list[str]:
        """Those that are listed."""
        return [row["ticker"] for row in self.rows(**params)]

    def rows(self, **params: Any) -> list[dict[str, Any]]:
        """What the list says of them."""
        return list(body(self.client.get("/tickers", params=params))["tickers"])


def body(answer: Response, status: int = 200) -> Any:
    """What was answered."""
    assert answer.status_code == status, answer.text
    return answer.json()


def problem(answer: Response, status: int) -> str:
    """What an answer that is no success has to say."""
    told = body(answer, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert told.keys() == {"type", "title", "status", "detail", "request_id"}
    assert (told["type"], told["status"]) == ("about:blank", status)
    assert told["title"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["detail"].strip()
    return str(told["detail"])


def settings_of(home: Path, database_url: str, **changes: Any) -> Settings:
    """An installation whose Dagster does not answer."""
    closed = {"home": home, "dagster_url": f"http://127.0.0.1:{free_port()}"}
    return Settings().model_copy(update={**closed, "database_url": database_url, **changes})


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that this process executes meanwhile."""
    heard: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", hear)


def fill(database: Database) -> None:
    """Prices of all; forecasts of all but one, by two models, of two days, the first scored."""
    prices = {
        name: make_prices(name, 100 + 7 * len(name)).assign(sector=sector)
        for name, sector in MARKET.items()
    }
    told = [name for name in MARKET if name != UNTOLD]
    take(database, *(rows[rows["date"] <= f"{EARLIER}"] for rows in prices.values()))
    for at, name in enumerate(told, 1):
        rows = training(name, days=90 + at)
        for row in rows:
            row["mae_ratio"] = None if name == "OIL" else 1 + at / 100 + (row["model"] != "naive")
            row["origins"] = 0 if name == "OIL" else 40
        database.save_training(rows, {name: 1})
        database.save_forecasts(forecast(name, as_of=EARLIER, close=90.0 + at), {name: 1})
    take(database, *(rows[rows["date"] > f"{EARLIER}"] for rows in prices.values()))
    database.score_forecasts()
    for at, name in enumerate(told, 1):
        newest = forecast(name, as_of=NEWEST, close=95.0 + at).sample(frac=1, random_state=at)
        newest["hi_80"] = 100.0 + at + newest["h"]
        newest["lo_95"] = newest["lo_80"] - newest["h"]
        database.save_forecasts(newest, {name: 2})
    database.crown(Champion("naive", "none of them beats it beyond noise", pinned=False))
    with database.engine.begin() as connection:
        for at, name in enumerate(told, 1):
            connection.execute(
                sa.text("UPDATE forecasts SET created_at = :at WHERE ticker = :ticker"),
                {"at": datetime(2019, 7, at, 12, tzinfo=UTC), "ticker": name},
            )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def market(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    home = tmp_path_factory.mktemp("market")
    address = f"sqlite:///{home / 'predictions.db'}"
    if request.param == "postgresql":
        address = empty_database(request.getfixturevalue("postgres_url"), "market")
    database = Database(address)
    fill(database)
    with Client(create_app(settings_of(home, address))) as client:
        yield Market(client, database)
    database.engine.dispose()


@pytest.fixture
def client(database: Database, settings: Settings) -> Iterator[Client]:
    """A service on a database that is empty at first."""
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        yield client


@pytest.fixture
def unreached(settings: Settings) -> Iterator[Client]:
    """A service whose database does not answer, nor its Dagster."""
    address = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with Client(create_app(settings_of(settings.home, address))) as client:
        yield client


# The list of tickers


def test_list_has_every_ticker_and_the_end_of_its_newest_forecast(market: Market) -> None:
    told = body(market.client.get("/tickers"))
    assert (told["total"], told["next"]) == (len(MARKET), None)
    rows = {row["ticker"]: row for row in told["tickers"]}
    assert {name: row["sector"] for name, row in rows.items()} == MARKET
    prices = make_prices("IBM", 121)
    age = rows["IBM"].pop("forecast_age_seconds")
    at = datetime(2019, 7, 4, 12, tzinfo=UTC)
    assert age == pytest.approx((datetime.now(UTC) - at).total_seconds(), abs=60)
    assert rows["IBM"] == {
        "ticker": "IBM",
        "sector": "Technology",
        "first_date": f"{prices['date'].iloc[0]:%F}",
        "last_date": "2019-06-28",
        "days": 121,
        "champion": "naive",
        "last_close": prices["close"].iloc[-1],
        "close": 99.0,
        "lo_80": 90.0,
        "hi_80": 114.0,
        "mae_ratio": 1.04,
        "forecast_at": "2019-07-04T12:00:00Z",
        "is_current": True,
    }


def test_ticker_without_a_forecast_is_listed_without_one(market: Market) -> None:
    (row,) = market.rows(q=UNTOLD, limit=1)
    told = ("champion", "last_close", "close", "lo_80", "hi_80", "mae_ratio", "forecast_at")
    assert {row[name] for name in (*told, "forecast_age_seconds")} == {None}
    assert row["is_current"] is False


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [*MARKET]),
        ("ibm", ["IBM"]),
        ("oil", ["OIL", "GAS"]),
        ("i", ["IBM", "AAP", "BRK.B", "GAS", "OIL", "TECH"]),
        ("aapl", ["AAPL", "XAAPL"]),
        ("tech", ["TECH", "AAPL", "IBM", "XAAPL"]),
        ("ECHNO", ["AAPL", "IBM", "XAAPL"]),
        (" IBM ", ["IBM"]),
        ("brk.b", ["BRK.B"]),
        ("brkxb", []),
        ("%", ["OIL"]),
        ("_", ["GAS"]),
        ("/", []),
        ("\\", []),
        ("'; --", []),
        ("ß", []),
    ],
)
def test_text_is_found_in_names_and_sectors_best_match_first(
    market: Market, text: str, found: list[str]
) -> None:
    told = body(market.client.get("/tickers", params={"q": text}))
    assert [row["ticker"] for row in told["tickers"]] == found
    assert told["total"] == len(found)


def sort_key(row: dict[str, Any], field: str) -> Any:
    """What a row is sorted by."""
    if field == "change":
        return row["close"] and row["close"] / row["last_close"] - 1
    if field == "width":
        return row["close"] and (row["hi_80"] - row["lo_80"]) / row["last_close"]
    return row[field]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_list_is_sorted_by_any_field_with_what_is_missing_last(
    market: Market, field: str, sign: str
) -> None:
    rows = market.rows(sort=sign + field)
    assert sorted(row["ticker"] for row in rows) == [*MARKET]
    keys = [sort_key(row, field) for row in rows]
    known = [key for key in keys if key is not None]
    assert keys == [*known, *[None] * (len(keys) - len(known))]
    assert known == sorted(known, reverse=sign == "-")
    for one, other in pairwise(zip(keys, rows, strict=True)):
        assert one[0] != other[0] or one[1]["ticker"] < other[1]["ticker"]


def test_every_field_that_can_be_sorted_by_is_tested() -> None:
    assert f"({'|'.join(FIELDS)})" in answers.SORT


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize(
    "params", [{}, {"sort": "-sector"}, {"q": "%"}, {"q": "T", "sort": "days"}]
)
def test_next_pages_are_the_whole_list(market: Market, params: dict[str, str], size: int) -> None:
    whole = market.tickers(**params)
    told = body(market.client.get("/tickers", params=params | {"limit": str(size)}))
    found = [row["ticker"] for row in told["tickers"]]
    while told["next"]:
        assert len(told["tickers"]) == size
        told = body(market.client.get(told["next"]))
        assert (told["total"], bool(told["tickers"])) == (len(whole), True)
        found += [row["ticker"] for row in told["tickers"]]
    assert found == whole


def test_offset_after_the_end_is_an_empty_page_of_the_same_list(market: Market) -> None:
    assert body(market.client.get("/tickers?offset=1000&q=tech")) == {
        "total": 4,
        "tickers": [],
        "next": None,
    }


def test_list_of_an_empty_database_is_empty(client: Client) -> None:
    assert body(client.get("/tickers")) == {"total": 0, "tickers": [], "next": None}


# One ticker


def test_ticker_has_its_last_closes_ascending(market: Market) -> None:
    prices = make_prices("BRK.B", 135)
    known = [
        {"date": f"{day:%F}", "close": close}
        for day, close in zip(prices["date"], prices["close"], strict=True)
    ]
    told = body(market.client.get("/tickers/brk.b"))
    assert told["closes"] == known
    assert (told["ticker"], told["sector"], told["days"]) == ("BRK.B", "Financials", 135)
    assert (told["first_date"], told["last_date"]) == (known[0]["date"], "2019-06-28")
    assert body(market.client.get("/tickers/BRK.B?closes=3"))["closes"] == known[-3:]
    assert body(market.client.get("/tickers/BRK.B?closes=0"))["closes"] == []


def test_ticker_has_its_models_the_best_first(market: Market) -> None:
    models = body(market.client.get("/tickers/IBM"))["models"]
    assert models[0] == {
        "model": "naive",
        "is_champion": True,
        "days": 94,
        "trained_to": "2019-06-28",
        "origins": 40,
        "mae_ratio": 1.04,
        "coverage_80": 0.75,
        "coverage_95": 0.9,
    }
    assert [model["model"] for model in models] == ["naive", "linear_regression"]


def test_ticker_has_the_models_of_its_present_training_only(
    client: Client, database: Database
) -> None:
    take(database, make_prices())
    database.save_training(training(version="v1"), {"AAPL": 1})
    newer = [row | {"days": 119} for row in training(version="v2")]
    newer[0]["mae_ratio"], newer[1]["mae_ratio"] = 0.25, None
    database.save_training(newer, {"AAPL": 1})
    told = body(client.get("/tickers/AAPL"))["models"]
    assert [(model["model"], model["days"]) for model in told] == [
        ("linear_regression", 119),
        ("naive", 119),
    ]


def test_ticker_has_scores_of_what_people_were_shown_the_newest_first(market: Market) -> None:
    actual = make_prices("AAPL", 128).set_index("date")["close"]
    scores = body(market.client.get("/tickers/AAPL"))["scores"]
    assert [score["h"] for score in scores] == [h for h in DIGITS if h % 7 not in {1, 2}]
    assert {(score["model"], score["as_of"]) for score in scores} == {("naive", f"{EARLIER}")}
    first = scores[0]
    close = actual[first["date"]]
    assert (first["date"], first["close"], first["actual_close"]) == ("2019-06-03", 92.0, close)
    assert first["inside_80"] is bool(90 <= close <= 110)
    assert body(market.client.get("/tickers/AAPL?scores=2"))["scores"] == scores[:2]
    assert body(market.client.get("/tickers/AAPL?scores=0"))["scores"] == []


def test_scores_of_newer_forecasts_come_first(client: Client, database: Database) -> None:
    prices = make_prices()
    take(database, prices[:-20])
    database.save_training(training(), {"AAPL": 1})
    days = [day.date() for day in prices["date"].iloc[-22:-20]]
    for day in days:
        database.save_forecasts(forecast(as_of=day), {"AAPL": 1})
    take(database, prices)
    database.score_forecasts()
    scores = body(client.get("/tickers/AAPL"))["scores"]
    told = [(score["as_of"], -score["h"]) for score in scores]
    assert told == sorted(told, reverse=True)
    assert {as_of for as_of, _ in told} == {f"{day}" for day in days}


# A forecast


def test_forecast_is_the_champions_newest(market: Market) -> None:
    told = body(market.client.get("/predict/ibm"))
    days = told.pop("days")
    assert told == {
        "ticker": "IBM",
        "sector": "Technology",
        "as_of": "2019-06-28",
        "last_close": make_prices("IBM", 121)["close"].iloc[-1],
        "model": "naive",
        "model_version": "v1",
        "is_champion": True,
        "reason": "none of them beats it beyond noise",
        "mae_ratio": 1.04,
        "coverage_80": 0.75,
        "coverage_95": 0.9,
        "forecast_at": "2019-07-04T12:00:00Z",
        "is_current": True,
    }
    assert days[0] == {
        "h": 1,
        "date": "2019-06-29",
        "close": 99.0,
        "lo_80": 90.0,
        "hi_80": 105.0,
        "lo_95": 89.0,
        "hi_95": 120.0,
    }


@pytest.mark.parametrize("params", [{}, {"model": "linear_regression"}, {"as_of": "2019-06-01"}])
def test_forecast_is_of_ten_days_in_their_order(market: Market, params: dict[str, str]) -> None:
    for name in MARKET.keys() - {UNTOLD}:
        days = body(market.client.get(f"/predict/{name}", params=params))["days"]
        assert [day["h"] for day in days] == DIGITS
        assert [day["date"] for day in days] == sorted({day["date"] for day in days})
        for day in days:
            bounds = [day[name] for name in ("lo_95", "lo_80", "close", "hi_80", "hi_95")]
            assert bounds == sorted(bounds)


def test_forecast_by_another_model_says_who_the_champion_is(market: Market) -> None:
    told = body(market.client.get("/predict/AAPL?model=linear_regression"))
    assert (told["model"], told["is_champion"]) == ("linear_regression", False)
    assert told["reason"] == "The champion is naive: none of them beats it beyond noise"


@pytest.mark.parametrize(
    ("as_of", "found"),
    [
        ("2019-05-31", EARLIER),
        ("2019-06-27", EARLIER),
        ("2019-06-28", NEWEST),
        ("9999-12-31", NEWEST),
    ],
)
def test_as_of_tells_the_newest_that_was_made_by_then(
    market: Market, as_of: str, found: date
) -> None:
    told = body(market.client.get("/predict/AAPL", params={"as_of": as_of}))
    assert told["as_of"] == f"{found}"
    assert told["is_current"] is (found == NEWEST)
    assert told["days"][0]["close"] == {EARLIER: 92.0, NEWEST: 97.0}[found]


@pytest.mark.parametrize("as_of", ["2019-05-30", "0001-01-01"])
def test_as_of_before_the_first_forecast_says_so(market: Market, as_of: str) -> None:
    said = problem(market.client.get("/predict/AAPL", params={"as_of": as_of}), 409)
    assert said.startswith(f"AAPL has prices but no forecast that was made by {as_of}.")


def test_no_model_is_the_champion(market: Market) -> None:
    champion = body(market.client.get("/predict/AAPL"))
    assert body(market.client.get("/predict/AAPL?model=")) == champion


def test_model_and_as_of_go_together(market: Market) -> None:
    params = {"model": "linear_regression", "as_of": "2019-06-01"}
    told = body(market.client.get("/predict/AAPL", params=params))
    assert (told["model"], told["as_of"]) == ("linear_regression", "2019-05-31")


def test_short_history_is_the_reason_for_the_baseline(market: Market) -> None:
    told = body(market.client.get("/predict/OIL"))
    assert told["reason"] == "95 days of history are too few to train on."
    assert told["mae_ratio"] is None


def test_champion_that_was_says_who_it_is_now(client: Client, database: Database) -> None:
    tell(database)
    assert body(client.get("/predict/AAPL"))["reason"] == "No champion is chosen yet."
    take(database, make_prices(days=1).assign(date=pd.Timestamp(2019, 7, 1)))
    database.crown(Champion("linear_regression", "it wins", pinned=False))
    told = follow(client, "/predict/AAPL")
    assert (told["model"], told["is_champion"]) == ("naive", True)
    assert told["reason"] == (
        "It was when this was told; now the champion is linear_regression: it wins"
    )


def test_forecast_is_not_current_after_newer_prices(client: Client, database: Database) -> None:
    tell(database, as_of=date(2019, 6, 27))
    assert body(client.get("/predict/AAPL"))["is_current"] is True
    assert body(client.get("/tickers"))["tickers"][0]["is_current"] is True
    take(database, make_prices(days=9))
    assert follow(client, "/predict/AAPL")["is_current"] is False
    assert body(client.get("/tickers"))["tickers"][0]["is_current"] is False


def test_forecast_is_not_current_after_a_correction(client: Client, database: Database) -> None:
    tell(database)
    take(database, make_prices(days=9).assign(close=lambda prices: prices["low"]))
    assert body(client.get("/predict/AAPL"))["is_current"] is False


def test_ticker_with_prices_alone_has_no_forecast_yet(market: Market) -> None:
    said = problem(market.client.get(f"/predict/{UNTOLD}"), 409)
    assert said == "GAS has prices but no forecast yet. Ask for one: POST /train/GAS."


def test_model_that_has_no_forecast_is_not_known(market: Market) -> None:
    said = problem(market.client.get("/predict/aapl?model=prophet"), 404)
    assert said == "AAPL has no forecast by prophet. There are: linear_regression, naive."


def test_parameter_does_not_take_the_place_of_the_address(market: Market) -> None:
    assert body(market.client.get("/predict/AAPL?ticker=IBM"))["ticker"] == "AAPL"


@pytest.mark.parametrize("path", ["/predict/appl", "/predict/APPL?model=naive", "/tickers/Appl"])
def test_unknown_ticker_is_told_with_the_nearest(market: Market, path: str) -> None:
    said = problem(market.client.get(path), 404)
    assert said.startswith("No prices of APPL. Did you mean AAPL, XAAPL, AAP? Upload a CSV that")


def test_unknown_ticker_of_an_empty_database_is_told(client: Client) -> None:
    said = "No prices of AAPL. Upload a CSV that has them: POST /upload."
    for path in ("/predict/AAPL", "/tickers/AAPL", "/train/AAPL"):
        assert problem(client.get(path), 404) == said


# Many at once


def batch(client: Client, *names: str) -> list[dict[str, Any]]:
    """What is told of these."""
    return list(body(client.post("/batch-predict", json={"tickers": names}))["forecasts"])


def test_batch_is_told_in_its_order_with_errors_in_their_places(market: Market) -> None:
    told = batch(market.client, "ibm", "APPL", "AAPL", UNTOLD, "IBM", "appl", "BRK.B")
    assert [one["ticker"] for one in told] == [
        *("IBM", "APPL", "AAPL", UNTOLD, "IBM", "APPL", "BRK.B"),
    ]
    alone = {name: body(market.client.get(f"/predict/{name}")) for name in ("IBM", "AAPL", "BRK.B")}
    assert [one["forecast"] for one in told] == [alone.get(one["ticker"]) for one in told]
    errors = {one["ticker"]: one["error"] for one in told if one["error"]}
    assert errors.keys() == {"APPL", UNTOLD}
    assert errors["APPL"].startswith("No prices of APPL. Did you mean AAPL")
    assert "POST /train/GAS" in errors[UNTOLD]


def test_batch_reads_forecasts_once_whatever_its_size(client: Client, database: Database) -> None:
    names = [f"T{n:03}" for n in range(300)]
    tell(database, *names)
    counts = []
    batch(client, "NONE")  # it has connected by now
    for some in (names[:1], names[1:3], names[3:]):
        with statements() as heard:
            told = batch(client, *some)
        assert [one["ticker"] for one in told] == some
        assert all(one["forecast"]["ticker"] == one["ticker"] for one in told)
        assert sum("JOIN forecasts" in statement for statement in heard) == 1
        counts.append(len([one for one in heard if "writes" not in one and "BEGIN" not in one]))
    assert len(set(counts)) == 1


def test_forecasts_of_one_kind_are_one_query(market: Market) -> None:
    reader = Reader(market.database.url.render_as_string(hide_password=False))
    wanted = [
        Wanted(name, model, by)
        for name in ("AAPL", "IBM", "NONE")
        for model in (None, "linear_regression")
        for by in (None, EARLIER, date(2019, 1, 1))
    ]
    reader.writes()  # it has connected by now
    with statements() as heard:
        told = reader.forecasts(wanted)
    assert sum("JOIN forecasts" in statement for statement in heard) == 6
    assert told.keys() == {
        one for one in wanted if one.ticker != "NONE" and one.by != date(2019, 1, 1)
    }
    reader.engine.dispose()


def test_batch_of_the_most_that_may_be_asked_is_told(market: Market) -> None:
    unknown = [f"Z{n}" for n in range(999)]
    told = batch(market.client, *unknown, "IBM")
    assert [one["forecast"] is None for one in told] == [True] * 999 + [False]
    assert {one["error"] for one in told[:2]} == {
        f"No prices of {name}. Upload a CSV that has them: POST /upload." for name in ("Z0", "Z1")
    }


@pytest.mark.parametrize("path", ["/batch-predict", "/train"])
@pytest.mark.parametrize(
    ("tickers", "said"),
    [
        ([], "tickers: List should have at least 1 item"),
        (["A"] * 1_001, "tickers: List should have at most 1000 items"),
        (["A", "B C"], "tickers.1: String should match pattern"),
        (["A" * 16], "tickers.0: String should have at most 15 characters"),
        (["A\0"], "tickers.0: "),
        ([7], "tickers.0: Input should be a valid string, not 7."),
        ("AAPL", "tickers: Input should be a valid list, not 'AAPL'."),
        (None, "tickers: Input should be a valid list"),
    ],
)
def test_many_that_are_not_as_expected_are_told_by_their_place(
    market: Market, path: str, tickers: Any, said: str
) -> None:
    assert problem(market.client.post(path, json={"tickers": tickers}), 422).startswith(said)


# What is remembered


def tell(database: Database, *names: str, as_of: date = NEWEST) -> None:
    """Forecasts of tickers, of AAPL if none is named; and what all tickers tell together."""
    names = names or ("AAPL",)
    prices = pd.concat(make_prices(name, 9) for name in names)
    take(database, prices[prices["date"] <= f"{as_of}"])
    revisions = dict.fromkeys(names, 1)
    database.save_training([row for name in names for row in training(name)], revisions)
    database.save_forecasts(pd.concat(forecast(name, as_of=as_of) for name in names), revisions)
    of_market = {"version": "m1", "trained_to": as_of, "artifact": "models/m1.skops"}
    database.save_market_model({**of_market, "tickers": len(names), "days": 9 * len(names)})


def follow(client: Client, path: str, news: str = "/drops/none-1") -> Any:
    """What is told to somebody who has just asked what became of something."""
    assert client.get(news).status_code >= 400
    return body(client.get(path))


@pytest.mark.parametrize("news", ["/drops/none-1", "/runs/1"])
def test_answer_is_remembered_until_who_asks_was_told_of_news(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, news: str
) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 3600.0)
    tell(database)
    known = body(client.get("/predict/AAPL"))
    with statements() as heard:
        assert body(client.get("/predict/AAPL")) == known
    assert heard == []
    database.save_forecasts(forecast(close=101.0), {"AAPL": 1})
    assert body(client.get("/predict/AAPL")) == known
    assert follow(client, "/predict/AAPL", news)["days"][0]["close"] == 101.0


def test_answer_is_new_a_moment_after_somebody_wrote(client: Client, database: Database) -> None:
    tell(database)
    body(client.get("/predict/AAPL"))
    database.save_forecasts(forecast(close=101.0), {"AAPL": 1})
    written = time.monotonic()
    while body(client.get("/predict/AAPL"))["days"][0]["close"] != 101.0:
        assert time.monotonic() < written + 2


def test_ticker_that_was_unknown_is_told_as_soon_as_there_is_a_forecast(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 3600.0)
    problem(client.get("/predict/AAPL"), 404)
    tell(database)
    assert batch(client, "AAPL")[0]["forecast"] == body(client.get("/predict/AAPL"))


# Health


def test_service_is_alive_whatever_does_not_answer(unreached: Client) -> None:
    assert body(unreached.get("/healthz")) == {"status": "ok"}


def test_readiness_tells_which_part_does_not_answer(
    market: Market, unreached: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    dagster_down = body(market.client.get("/readyz"), 503)
    assert dagster_down["database"] == "ok"
    assert "STOCK_ASSETS_DAGSTER_URL" in dagster_down["dagster"]
    both_down = body(unreached.get("/readyz"), 503)
    assert both_down == {"database": NO_DATABASE, "dagster": dagster_down["dagster"]}
    logged = capsys.readouterr().out
    assert "The database postgresql://nobody@127.0.0.1:" in logged
    assert "Connection refused" in logged
    assert "Dagster at http://127.0.0.1:" in logged


def test_metrics_count_answers_by_route_and_status(market: Market) -> None:
    def counted(labels: str) -> float:
        lines = market.client.get("/metrics").text.splitlines()
        name = f"stock_assets_api_requests_total{{{labels}}} "
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    of_known = 'method="GET",route="/predict/{ticker}",status="200"'
    of_unknown = 'method="GET",route="/predict/{ticker}",status="404"'
    of_none = 'method="GET",route="none",status="404"'
    before = [counted(labels) for labels in (of_known, of_unknown, of_none)]
    for path in ("/predict/IBM", "/predict/AAPL", "/predict/NONE", "/no/such/address"):
        market.client.get(path)
    after = [counted(labels) for labels in (of_known, of_unknown, of_none)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 1]


def test_metrics_are_as_prometheus_reads_them(market: Market) -> None:
    answer = market.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    assert names > {
        "stock_assets_api_requests_total",
        "stock_assets_api_request_duration_seconds",
        "stock_assets_api_uploaded_bytes_total",
        "stock_assets_api_trainings_total",
    }


# Problems


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nothing", 404, "There is no such address."),
        ("GET", "/page/nothing.js", 404, "There is no such address."),
        ("GET", "/predict", 404, "There is no such address."),
        ("GET", "/predict/a/b", 404, "There is no such address."),
        ("GET", "/drops/none-1", 404, "No drop none-1."),
        ("GET", "/drops/%00", 422, "drop: "),
        ("GET", "/drops/a.csv", 422, "drop: "),
        ("GET", "/tickers?q=A%00", 422, "q: "),
        ("GET", "/predict/AAPL?model=%00", 422, "model: "),
        ("DELETE", "/tickers", 405, "This address does not take that method."),
        ("GET", "/upload", 405, "This address does not take that method."),
        ("GET", "/train", 405, "This address does not take that method."),
        ("GET", "/predict/BRK%20B", 422, "ticker: String should match pattern"),
        ("GET", f"/predict/{'A' * 16}", 422, "ticker: String should have at most 15 "),
        ("GET", "/predict/A%00", 422, "ticker: "),
        ("GET", "/predict/AAPL?as_of=June", 422, "as_of: "),
        ("GET", "/predict/AAPL?as_of=2019-02-29", 422, "as_of: "),
        ("GET", f"/predict/AAPL?model={'m' * 65}", 422, "model: "),
        ("GET", "/tickers?limit=0", 422, "limit: Input should be greater than or equal to 1"),
        ("GET", "/tickers?limit=1001", 422, "limit: "),
        ("GET", "/tickers?limit=many", 422, "limit: "),
        ("GET", "/tickers?offset=-1", 422, "offset: "),
        ("GET", "/tickers?sort=price", 422, "sort: "),
        ("GET", "/tickers?sort=ticker%0A", 422, "sort: "),
        ("GET", f"/tickers?q={'q' * 61}", 422, "q: "),
        ("GET", "/tickers/AAPL?closes=5001", 422, "closes: "),
        ("GET", "/tickers/AAPL?scores=-1", 422, "scores: "),
        ("GET", f"/drops/{'d' * 65}", 422, "drop: "),
        ("GET", "/runs/a_b", 422, "run: "),
        ("POST", "/train/A%20B", 422, "ticker: "),
        ("POST", "/upload", 415, "The body is no form."),
        ("GET", "/runs/1", 503, "Dagster at http://127.0.0.1:"),
    ],
)
def test_what_goes_wrong_is_told_as_a_problem(
    market: Market, method: str, path: str, status: int, said: str
) -> None:
    assert problem(market.client.request(method, path), status).startswith(said)


def test_two_faults_are_told_at_once(market: Market) -> None:
    said = problem(market.client.get("/tickers?limit=x&sort=y"), 422)
    assert "limit: " in said
    assert "sort: " in said


@pytest.mark.parametrize("path", ["/batch-predict", "/train"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The body: Field required."),
        (
            b'{"tickers": ["AAPL"',
            "The body: JSON decode error (Expecting ',' delimiter at character 19).",
        ),
        (b"[]", "The body: Input should be a valid dictionary"),
        (b"{}", "tickers: Field required."),
        (b'{"tickers": ["\xff"]}', "The body cannot be read. Expected a JSON document in UTF-8."),
        (b"[" * 100_000, "The body cannot be read."),
    ],
)
def test_body_that_is_no_such_json_is_told(
    market: Market, path: str, content: bytes, said: str
) -> None:
    headers = {"Content-Type": "application/json"}
    assert said in problem(market.client.post(path, content=content, headers=headers), 422)


@pytest.mark.parametrize("path", ["/batch-predict", "/train"])
def test_body_that_is_too_large_is_not_read(market: Market, path: str) -> None:
    async def blocks() -> AsyncIterator[bytes]:  # without a length
        for _ in range(MOST_JSON_BYTES // 1024 + 1):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    for content in (b" " * (MOST_JSON_BYTES + 1), blocks()):
        answer = market.client.post(path, content=content, headers=headers)
        assert problem(answer, 413) == "The body is too large for this address."


@pytest.mark.parametrize("path", ["/batch-predict", "/upload"])
def test_body_that_says_it_is_too_large_is_not_begun(market: Market, path: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("It is read.")
        yield b""

    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": f"{1 << 40}"}
    problem(market.client.post(path, content=unread(), headers=headers), 413)


def test_upload_that_is_too_large_is_told_whatever_it_says_of_its_length(
    settings: Settings,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
        while True:
            yield b" " * 1024

    small = settings_of(settings.home, f"sqlite:///{settings.home / 'p.db'}", max_drop_bytes=1_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with Client(create_app(small)) as client:
        for content in (b" " * (1_001 + FORM_BYTES), endless()):
            said = problem(client.post("/upload", content=content, headers=headers), 413)
            assert said.startswith(
                "The file has more than 1,000 bytes, the most that is taken (STO"
            )
    assert not [*(small.home / "drops").iterdir()]


@pytest.mark.parametrize(
    ("path", "allowed"), [("/tickers", "GET"), ("/upload", "POST"), ("/train/AAPL", "GET, POST")]
)
def test_method_that_is_not_taken_is_told_with_those_that_are(
    market: Market, path: str, allowed: str
) -> None:
    answer = market.client.request("PUT", path)
    problem(answer, 405)
    assert answer.headers["allow"] == allowed


PATHS = ("/tickers", "/tickers/AAPL", "/predict/AAPL", "/drops/none-1", "/train/AAPL")


@pytest.mark.parametrize("path", PATHS)
def test_database_that_does_not_answer_is_told(unreached: Client, path: str) -> None:
    assert problem(unreached.get(path), 503) == NO_DATABASE


def test_service_goes_on_when_the_database_comes_back(
    postgres_database: str, settings: Settings, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 0.0)
    database = Database(postgres_database)
    tell(database)
    with Client(create_app(settings_of(settings.home, postgres_database))) as client:
        known = body(client.get("/predict/AAPL"))
        with outage():
            for path in PATHS:
                assert problem(client.get(path), 503) == NO_DATABASE
            assert body(client.get("/readyz"), 503)["database"] == NO_DATABASE
            batch = client.post("/batch-predict", json={"tickers": ["AAPL"]})
            assert problem(batch, 503) == NO_DATABASE
        assert body(client.get("/predict/AAPL")) == known
        assert body(client.get("/readyz"), 503)["database"] == "ok"
    database.engine.dispose()


@pytest.fixture
def outage(postgres_url: str, postgres_database: str) -> Outage:
    """Has nobody connected to the database, nor let in, for a while."""
    name = sa.make_url(postgres_database).database

    @contextmanager
    def begin() -> Iterator[None]:
        server = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"
                ),
                {"n": name},
            )
            yield
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        server.dispose()

    return begin


def test_file_that_is_no_database_is_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"sqlite:///{settings.home / 'predictions.db'}"
    (settings.home / "predictions.db").write_bytes(b"no database" * 1000)
    with Client(create_app(settings_of(settings.home, address))) as client:
        assert problem(client.get("/tickers"), 503) == NO_DATABASE
    assert "file is not a database" in capsys.readouterr().out


# What is described


def test_every_operation_documents_its_problems_and_examples(market: Market) -> None:
    described = body(market.client.get("/openapi.json"))
    schemas = described["components"]["schemas"]
    assert schemas["Problem"]["properties"].keys() >= {"title", "status", "detail", "request_id"}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            told = {s: answer for s, answer in operation["responses"].items() if s >= "4"}
            if path not in {"/healthz", "/readyz"}:
                assert told.keys() >= {"401", "403", "429"}, path
                for answer in told.values():
                    assert [*answer["content"]] == ["application/problem+json"], path
            for parameter in operation.get("parameters", []):
                assert parameter["schema"]["examples"], (path, parameter["name"])
    for name, schema in schemas.items():
        for field, told in schema.get("properties", {}).items():
            is_plain = "$ref" not in str(told) and told.get("type") != "boolean"
            assert not is_plain or told["examples"], (name, field)
