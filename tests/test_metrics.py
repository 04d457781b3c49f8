"""What Prometheus scrapes: facts of the database, sources that are down or slow, groups."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prometheus_client import Counter as Counted
from prometheus_client import Histogram

from dashboards import queries
from stock_assets import champion, metrics
from stock_assets.api import figures as read
from stock_assets.api import monitor
from stock_assets.api.app import create_app
from stock_assets.api.figures import read_figures
from stock_assets.database import Champion, Database
from stock_assets.metrics import Fact, Group
from stock_assets.settings import Settings
from tests.commands import wait_until
from tests.conftest import as_csv, make_prices
from tests.series import Series
from tests.test_api import Client, settings_of
from tests.test_database import forecast, market, register, take, training, validate

TODAY = date(2019, 7, 3)
FACTS = [fact for fact in vars(metrics).values() if isinstance(fact, Fact)]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look at a database migrates it, which takes longer than a scrape waits."""
    monkeypatch.setattr(monitor, "PATIENCE_SECONDS", 10.0)


def figures(database: Database, today: date = TODAY) -> Series:
    """What is told of a database."""
    with database.engine.connect() as connection:
        told = metrics.exposition([Group.DATA, Group.ML], read_figures(connection, today))
    return Series.of(told.decode())


# The names


def test_every_metric_is_named_as_prometheus_wants_it() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("There is no promtool.")
    text = metrics.exposition([*Group], {fact: {("x",) * len(fact.labels): 1} for fact in FACTS})
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (linted.returncode, linted.stdout.decode(), linted.stderr.decode()) == (0, "", "")


def test_every_metric_has_our_prefix_and_says_what_it_is() -> None:
    counted = [one for one in vars(metrics).values() if isinstance(one, Counted | Histogram)]
    names = [*(fact.name for fact in FACTS), *(one._name for one in counted)]
    assert len(names) == len(set(names))
    assert all(name.startswith("stock_assets_") for name in names)
    helps = [*(fact.help for fact in FACTS), *(one._documentation for one in counted)]
    assert [text for text in helps if not text.endswith(".") or len(text) < 15] == []


def test_live_figures_are_of_as_many_days_as_the_champion_is_judged_by() -> None:
    assert read.LIVE_DAYS == champion.LIVE_DAYS
    assert f"LIMIT {champion.LIVE_DAYS}" in queries.LAST_60


# Of the database


def test_empty_database_has_nothing_of_everything(database: Database) -> None:
    told = figures(database)
    assert told.of_name("drops") == {("registered",): 0, ("accepted",): 0, ("refused",): 0}
    assert told.of_name("tickers") == {("current",): 0, ("stale",): 0, ("missing",): 0}
    nothing = ("rows_read_total", "rows_rejected_total", "forecasts", "scored_sessions")
    assert [told[(name,)] for name in nothing] == [0, 0, 0, 0]
    missing = ("last_drop_timestamp_seconds", "market_model_timestamp_seconds", "live_error_ratio")
    assert [told.of_name(name) for name in missing] == [{}, {}, {}]


def test_rows_and_rejections_add_up_over_drops(database: Database) -> None:
    first = make_prices(days=9)
    first.loc[:2, "close"] = -1
    first.loc[1:4, "sector"] = ""
    second = make_prices("IBM", 5)
    second.loc[:0, "sector"] = ""
    for content in (as_csv(first), as_csv(second) + b"IBM,1\nIBM,1,2\n"):
        database.store_drop(register(database, content), validate(content))
    waiting = register(database, b"waits")
    database.refuse_drop(register(database, b"no CSV").key, "It is no CSV.")

    told = figures(database)
    assert told.of_name("drops") == {("registered",): 1, ("accepted",): 1 + 1, ("refused",): 1}
    counts = [
        told[(f"rows_{name}_total",)] for name in ("read", "accepted", "collapsed", "rejected")
    ]
    assert counts[0] == sum(counts[1:])
    assert told.of_name("row_rejections_total") == {
        ("close is not a number above 0",): 3,
        ("low is above open or close",): 3,
        ("sector is empty",): 5,
        ("has more or fewer fields than the header",): 2,
    }
    age = datetime.now(UTC).timestamp() - told["last_drop_timestamp_seconds",]
    assert 0 <= age < 60
    content = as_csv(make_prices("LATE", 3))
    database.store_drop(waiting, validate(content))  # it is counted when it is taken
    assert figures(database)["rows_read_total",] == counts[0] + 3


def test_same_drop_taken_twice_counts_once(database: Database) -> None:
    content = as_csv(make_prices(days=9)) + b"AAPL,1\n"
    drop = register(database, content)
    database.store_drop(drop, validate(content))
    before = figures(database)
    database.store_drop(drop, validate(content))
    assert figures(database) == before


def test_tickers_are_told_by_what_their_forecast_knows(database: Database) -> None:
    take(database, make_prices("AAPL"), make_prices("IBM"), make_prices("MSFT"))
    for name in ("AAPL", "IBM"):
        database.save_training(training(name), {name: 1})
        database.save_forecasts(forecast(name), {name: 1})
    later = make_prices("IBM", 1).assign(date=pd.Timestamp(2019, 7, 1))
    take(database, later)
    told = figures(database)
    assert told.of_name("tickers") == {("current",): 1, ("stale",): 1, ("missing",): 1}
    assert told["tickers_behind",] == 2
    assert told.of_name("champion_tickers") == {("naive",): 1}


@pytest.mark.parametrize(
    ("today", "passed"),
    [
        ("2019-06-28", 0),
        ("2019-06-29", 0),
        ("2019-06-30", 1),
        ("2019-07-03", 4),
        ("2020-01-01", 10),
    ],
)
def test_trading_days_without_prices_are_those_that_were_forecast(
    database: Database, today: str, passed: int
) -> None:
    take(
        database,
        make_prices("AAPL"),
        make_prices("OLD").assign(date=lambda rows: rows["date"] - timedelta(30)),
    )
    for name, day in (("AAPL", date(2019, 6, 28)), ("OLD", date(2019, 5, 29))):
        database.save_training(training(name), {name: 1})
        database.save_forecasts(forecast(name, as_of=day), {name: 1})  # of each day that follows
    assert figures(database, date.fromisoformat(today))["sessions_without_prices",] == passed


def test_newer_prices_that_no_forecast_knows_yet_count_too(database: Database) -> None:
    take(database, make_prices("AAPL"))
    database.save_training(training(), {"AAPL": 1})
    database.save_forecasts(forecast(), {"AAPL": 1})
    take(database, make_prices("AAPL", 1).assign(date=pd.Timestamp(2019, 7, 1)), make_prices("IBM"))
    database.save_training(training("IBM"), {"IBM": 1})
    database.save_forecasts(forecast("IBM"), {"IBM": 1})
    assert figures(database, date(2019, 7, 4))["sessions_without_prices",] == 2


def test_live_figures_are_those_of_the_last_days(database: Database) -> None:
    prices = make_prices("AAPL", 100)
    take(database, prices[:20])
    database.save_training(training(), {"AAPL": 1})
    days = [day.date() for day in prices["date"][19:95]]
    for day in days:
        rows = forecast(as_of=day, close=float(prices["close"].iloc[50]))
        rows.loc[rows["model"] == "naive", "close"] = 100.0
        database.save_forecasts(rows, {"AAPL": 1})
    take(database, prices)
    database.score_forecasts()
    database.crown(Champion("naive", "none is better", pinned=False))
    told = figures(database)
    records = database.live_records(60).set_index("model")
    assert told["scored_sessions",] == 60
    for model in ("linear_regression", "naive", "champion"):
        record = records.loc[model]
        assert told["live_error_ratio", model] == pytest.approx(record["mae_ratio"])
        assert told["interval_coverage_ratio", "80", model] == pytest.approx(record["coverage_80"])
        assert told["interval_coverage_ratio", "95", model] == pytest.approx(record["coverage_95"])
    assert told["live_error_ratio", "naive"] == pytest.approx(1)
    assert told["live_error_ratio", "linear_regression"] != pytest.approx(1)


def test_backtests_are_those_of_the_present_training(database: Database) -> None:
    take(database, make_prices("AAPL"), make_prices("IBM"), make_prices("NEW", 5))
    for version, ratio in (("v1", 0.5), ("v2", 0.9)):
        for name, more in (("AAPL", 0.0), ("IBM", 0.2), ("NEW", None)):
            rows = training(name, version)
            for row in rows:
                row["mae_ratio"] = None if more is None else ratio + more
            database.save_training(rows, {name: 1})
    database.save_market_model(market("a"))
    told = figures(database)
    ratios = told.of_name("backtest_error_ratio")
    assert ratios == {("linear_regression",): pytest.approx(1), ("naive",): pytest.approx(1)}
    age = datetime.now(UTC).timestamp() - told["market_model_timestamp_seconds",]
    assert 0 <= age < 60


def test_stored_forecasts_are_counted(database: Database) -> None:
    take(database, make_prices("AAPL"))
    database.save_training(training(), {"AAPL": 1})
    database.save_forecasts(forecast(), {"AAPL": 1})
    wait_until("statistics", lambda: figures(database)["forecasts",] == 20, seconds=30)


# Sources that do not answer


@contextmanager
def silent() -> Iterator[str]:
    """An address where somebody listens and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def scraped(client: Client, **params: Any) -> Series:
    """What a service tells Prometheus."""
    answer = client.get("/metrics", params=params)
    assert answer.status_code == 200, answer.text
    return Series.of(answer.text)


def test_source_that_is_down_is_told_and_the_others_are_there(
    database: Database, settings: Settings
) -> None:
    take(database, make_prices())
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        told = scraped(client)
        assert told.of_name("source_up") == {("database",): 1, ("dagster",): 0}
        assert told["tickers", "missing"] == 1
        assert told.of_name("runs") == {}
        assert told["volume_free_bytes", "drops"] > 0
    database.engine.dispose()


def test_database_that_is_down_is_told(settings: Settings) -> None:
    address = "postgresql://nobody@127.0.0.1:9/nothing"
    with Client(create_app(settings_of(settings.home, address))) as client:
        told = scraped(client)
        assert told.of_name("source_up") == {("database",): 0, ("dagster",): 0}
        assert told.of_name("drops") == {}


def test_slow_source_is_not_waited_for(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = database.url.render_as_string(hide_password=False)
    monkeypatch.setattr(monitor, "PATIENCE_SECONDS", 0.15)
    with silent() as dagster:
        app = create_app(settings_of(settings.home, address, dagster_url=dagster))
        with Client(app) as client:
            scraped(client)
            begun = time.monotonic()
            told = scraped(client)
            assert time.monotonic() - begun < 2  # it would be given 15 s
            assert told.of_name("source_up")["dagster",] == 0
    database.engine.dispose()


def test_facts_are_read_once_for_many_scrapes(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        scraped(client)
        take(database, make_prices())
        assert scraped(client).of_name("tickers")["missing",] == 0
        monkeypatch.setattr(monitor, "FRESH_SECONDS", 0.0)
        wait_until("news", lambda: scraped(client)["tickers", "missing"] == 1, seconds=30)


def test_facts_that_are_old_are_not_told(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        assert scraped(client)["source_up", "database"] == 1
        goes_on = threading.Event()

        def hangs(*_: object) -> None:
            goes_on.wait(30)

        monkeypatch.setattr(monitor, "PATIENCE_SECONDS", 0.01)
        monkeypatch.setattr(monitor, "read_figures", hangs)
        monkeypatch.setattr(monitor, "FRESH_SECONDS", 0.0)
        assert scraped(client)["source_up", "database"] == 1  # as it was a moment ago
        monkeypatch.setattr(monitor, "OLD_SECONDS", 0.0)
        told = scraped(client)
        goes_on.set()
        assert told["source_up", "database"] == 0
        assert told.of_name("drops") == {}


# Groups


@pytest.mark.parametrize("group", [*Group])
def test_group_has_its_metrics_and_no_others(
    database: Database, settings: Settings, group: Group
) -> None:
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        told = client.get("/metrics", params={"group": group}).text
        declared = {fact.name for fact in FACTS if fact.group == group}
        names = {line.split()[2] for line in told.splitlines() if line.startswith("# TYPE")}
        ours = {name for name in names if name.startswith("stock_assets_")}
        if group == Group.API:
            assert "process_cpu_seconds_total" in names
            ours = {name for name in ours if not name.startswith("stock_assets_api_")}
        else:
            assert names == ours
        assert ours <= declared
        assert bool(ours) == (group != Group.DAGSTER)  # which does not answer here


def test_groups_that_are_named_come_together(database: Database, settings: Settings) -> None:
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(settings.home, address))) as client:
        told = scraped(client, group=["data", "ml"])
        assert {"drops", "scored_sessions"} <= {name for name, *_ in told}
        assert not told.of_name("source_up")


def test_unknown_group_is_refused(settings: Settings) -> None:
    with Client(create_app(settings)) as client:
        answer = client.get("/metrics", params={"group": "cpu"})
        assert answer.status_code == 422
        assert "'api', 'data', 'ml' or 'dagster'" in answer.json()["detail"]


def test_volumes_are_told_before_their_folders_are_there(home: Path, settings: Settings) -> None:
    far = home / "a" / "b"
    with Client(create_app(settings.model_copy(update={"drops": far}))) as client:
        told = scraped(client, group="data")
    usage = shutil.disk_usage(home)
    assert told["volume_size_bytes", "drops"] == usage.total
    assert told["volume_free_bytes", "drops"] == pytest.approx(usage.free, rel=0.05)
    assert not far.exists()
