"""Sensors and schedules on real files, a real database and a real Dagster instance."""

import gzip
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from stock_assets.database import Database
from stock_assets.defs.automation import (
    DROPS_AT_ONCE,
    MARKET_TAG,
    SENSORS,
    drop_sensor,
    hourly_fetch,
    market_is_due,
    nightly_fetch,
    nightly_forecast,
    refresh_sensor,
    run_requests,
    weekly_training,
)
from stock_assets.errors import SetupError
from stock_assets.files import UNFINISHED, Bucket, files_at
from stock_assets.prices import validate_csv
from stock_assets.ranges import GAP
from stock_assets.sessions import EXCHANGE_TIME
from stock_assets.settings import Settings
from stock_assets.storage import Store
from tests.conftest import as_csv, make_prices, names
from tests.test_database import forecast, take, training


@dataclass
class Sensors:
    """The two sensors, their cursors, and what they look at."""

    settings: Settings
    database: Database
    store: Store
    instance: dg.DagsterInstance
    cursor: str | None = None
    refresh_cursor: str | None = None
    run_keys: set[str | None] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Where files are dropped, unless it is a bucket."""
        return self.settings.home / "drops"

    def _context(self, cursor: str | None) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            resources={
                "settings": self.settings,
                "database": self.database,
                "store": self.store,
            },
        )

    def look(self) -> list[str]:
        """The drops that one look asks a run for; Dagster makes one run of a run key."""
        with self._context(self.cursor) as context:
            result = drop_sensor(context)
        self.cursor = context.cursor
        if isinstance(result, dg.SkipReason):
            return []
        assert isinstance(result, dg.SensorResult)
        assert result.run_requests is not None
        added = [key for r in result.dynamic_partitions_requests or () for key in r.partition_keys]
        runs = {request.run_key: str(request.partition_key) for request in result.run_requests}
        assert set(runs.values()) <= set(added)
        self.run_keys |= runs.keys()
        return list(runs.values())

    def drop(self, content: bytes, name: str = "prices.csv") -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def names(self) -> list[str]:
        """The files that are registered, in the order of their drops."""
        with self.database.engine.connect() as connection:
            query = "SELECT file_name FROM drops ORDER BY id"
            return list(connection.exec_driver_sql(query).scalars())

    def accept(self, key: str) -> None:
        """What the run of a drop does, for a file of one sound row."""
        drop = self.database.drop(key)
        content = as_csv(make_prices(days=1))
        self.database.store_drop(
            drop, validate_csv(content, today=date(2020, 1, 1), max_bytes=1 << 20)
        )

    def refresh(self) -> "list[Run]":
        """The runs that the second sensor asks for, and which come to be."""
        return self.launch(self.ask())

    def ask(self) -> list[dg.RunRequest]:
        """What the second sensor asks for, whether or not it comes to be."""
        with self._context(self.refresh_cursor) as context:
            result = refresh_sensor(context)
        self.refresh_cursor = context.cursor
        if isinstance(result, dg.SkipReason):
            return []
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(
                request.partitions_def_name, list(request.partition_keys)
            )
        return list(result.run_requests or ())

    def launch(self, requests: Iterable[dg.RunRequest]) -> "list[Run]":
        """Make runs of requests, as the daemon does."""
        requests = list(requests)
        for request in requests:
            key = {"dagster/run_key": request.run_key} if request.run_key else {}
            assert not key or not self.instance.get_runs_count(dg.RunsFilter(tags=key))
            self.instance.add_run(
                dg.DagsterRun(
                    job_name="refresh_tickers",
                    run_id=str(uuid4()),
                    tags={**request.tags, **key},
                    remote_job_origin=ORIGIN,
                )
            )
        return [the_run(request) for request in requests]

    def turn(self, status: dg.DagsterRunStatus, *, tags: dict[str, str] | None = None) -> None:
        """Give all unfinished runs, or those with some tags, another status."""
        for run in self.instance.get_runs(dg.RunsFilter(tags=tags)):
            if not run.is_finished and status in EVENTS:
                event = dg.DagsterEvent(EVENTS[status].value, job_name=run.job_name)
                self.instance.report_dagster_event(event, run.run_id)


class Run(NamedTuple):
    """A run of `refresh_tickers`: of a range of tickers, of the market, or of both."""

    first: str = ""
    last: str = ""
    trains: bool = False
    market: bool = False
    trains_market: bool = False

    @property
    def selection(self) -> list[str]:
        """The assets that it is of."""
        parts = {
            "interval_widths": self.market,
            "market_model": self.trains_market,
            "forecast_scores": self.market,
            "price_features": self.first,
            "ticker_models": self.trains,
            "forecasts": self.first,
            "champion": True,
        }
        return [name for name, is_in_it in parts.items() if is_in_it]


MARKET = Run(market=True)
CHAMPION = [dg.AssetKey("champion")]
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("stock_assets"), "__repository__"),
    "refresh_tickers",
)
_EVENT = dg.DagsterEventType
EVENTS = {
    dg.DagsterRunStatus.QUEUED: _EVENT.RUN_ENQUEUED,
    dg.DagsterRunStatus.STARTING: _EVENT.RUN_STARTING,
    dg.DagsterRunStatus.STARTED: _EVENT.RUN_START,
    dg.DagsterRunStatus.SUCCESS: _EVENT.RUN_SUCCESS,
    dg.DagsterRunStatus.FAILURE: _EVENT.RUN_FAILURE,
    dg.DagsterRunStatus.CANCELED: _EVENT.RUN_CANCELED,
}
UNDER_WAY = [dg.DagsterRunStatus.NOT_STARTED, *list(EVENTS)[:3]]
ENDED = list(EVENTS)[3:]


def the_run(request: dg.RunRequest) -> Run:
    """What a request asks for; it says so in its tags and in its selection."""
    names = [key.to_user_string() for key in request.asset_selection or ()]
    run = Run(
        request.tags.get("dagster/asset_partition_range_start", ""),
        request.tags.get("dagster/asset_partition_range_end", ""),
        trains="ticker_models" in names,
        market="interval_widths" in names,
        trains_market="market_model" in names,
    )
    assert names == run.selection
    assert (MARKET_TAG in request.tags) is (run.first == "")
    return run


@pytest.fixture
def sensors(settings: Settings) -> Iterator[Sensors]:
    (settings.home / "drops").mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        database = Database(settings.prediction_database_url)
        yield Sensors(settings, database, Store(files_at(settings.store)), instance)
        database.engine.dispose()


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_a_sensor_looks_at_each_round_of_dagster(sensor: dg.SensorDefinition) -> None:
    assert sensor.minimum_interval_seconds
    assert sensor.minimum_interval_seconds < MIN_INTERVAL_LOOP_TIME


# Drops


def test_new_file_is_asked_for_once_after_two_looks(sensors: Sensors) -> None:
    sensors.drop(b"content")
    assert sensors.look() == []
    (key,) = sensors.look()
    assert sensors.database.drop(key).file_name == "prices.csv"
    assert sensors.look() == []


def test_kept_file_has_the_bytes_and_the_dropped_one_stays(sensors: Sensors) -> None:
    file = sensors.drop(gzip.compress(b"content"), "prices.csv.gz")
    before = file.stat()
    sensors.look()
    (key,) = sensors.look()
    assert sensors.store.read_drop(key, 1000) == file.read_bytes()
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_drop_folder_is_made_where_there_is_none(sensors: Sensors) -> None:
    sensors.folder.rmdir()
    assert sensors.look() == []
    assert sensors.folder.is_dir()


def test_file_that_grows_is_not_taken(sensors: Sensors) -> None:
    for end in range(3, 9):
        sensors.drop(b"ticker,sector"[:end])
        assert sensors.look() == []
    assert len(sensors.look()) == 1


def test_file_that_stood_still_and_grew_is_a_newer_drop(sensors: Sensors) -> None:
    sensors.drop(b"half")
    sensors.look()
    (half,) = sensors.look()
    sensors.drop(b"half and half")
    sensors.look()
    (whole,) = sensors.look()
    assert sensors.database.drop(half).id < sensors.database.drop(whole).id


def test_renamed_file_asks_for_no_run(sensors: Sensors) -> None:
    file = sensors.drop(b"content")
    sensors.look()
    (key,) = sensors.look()
    sensors.accept(key)
    file.rename(sensors.folder / "renamed.csv")
    assert [sensors.look(), sensors.look()] == [[], []]
    assert sensors.names() == ["prices.csv"]


def test_same_bytes_under_two_names_are_one_run(sensors: Sensors) -> None:
    sensors.drop(b"content", "a.csv")
    sensors.drop(b"content", "b.csv")
    sensors.look()
    assert len(sensors.look()) == 1
    assert sensors.names() == ["a.csv"]


def test_file_that_is_dropped_again_asks_for_no_run(sensors: Sensors) -> None:
    file = sensors.drop(b"content")
    sensors.look()
    (key,) = sensors.look()
    sensors.accept(key)
    file.unlink()
    sensors.look()
    sensors.drop(b"content")
    assert [sensors.look(), sensors.look()] == [[], []]


def test_refused_file_that_is_dropped_again_is_asked_for_anew(sensors: Sensors) -> None:
    file = sensors.drop(b"content")
    sensors.look()
    (key,) = sensors.look()
    sensors.database.refuse_drop(key, "no CSV")
    assert sensors.look() == []
    os.utime(file, (1, 1))
    assert [sensors.look(), sensors.look()] == [[], [key]]
    assert len(sensors.run_keys) == 2


def test_corrected_file_is_a_newer_drop(sensors: Sensors) -> None:
    sensors.drop(b"content")
    sensors.look()
    (first,) = sensors.look()
    sensors.drop(b"correct")
    sensors.look()
    (second,) = sensors.look()
    assert sensors.database.drop(first).id < sensors.database.drop(second).id


def test_files_are_registered_the_oldest_first(sensors: Sensors) -> None:
    for second, name in enumerate(("b.csv", "c.csv", "a.csv"), start=1):
        os.utime(sensors.drop(name.encode(), name), (second, second))
    sensors.look()
    sensors.look()
    assert sensors.names() == ["b.csv", "c.csv", "a.csv"]


@pytest.mark.parametrize(
    "name",
    [
        "Preise für März (2).csv",
        "a\\b.csv",
        "with\nline break.csv",
        "%s {x} $HOME.csv",
        "'; DROP TABLE drops; --.csv",
        "数据.csv",
        "long" * 60 + ".csv",
        pytest.param(os.fsdecode(b"caf\xe9.csv"), id="not UTF-8"),
    ],
)
def test_any_file_name_is_taken(sensors: Sensors, name: str) -> None:
    sensors.drop(b"content", name)
    sensors.look()
    (key,) = sensors.look()
    assert key.replace("-", "").isascii()
    assert key.replace("-", "").isalnum()
    assert sensors.store.read_drop(key, 100) == b"content"


@pytest.mark.parametrize(
    "name", [".hidden.csv", "a.csv.part", "a.csv.tmp", "A.CSV.PART", "a.crdownload", "a.csv~"]
)
def test_hidden_and_unfinished_files_are_passed_over(sensors: Sensors, name: str) -> None:
    sensors.drop(b"content", name)
    assert [sensors.look(), sensors.look(), sensors.names()] == [[], [], []]


def test_lost_cursor_asks_for_the_same_run_of_what_was_not_taken_yet(sensors: Sensors) -> None:
    sensors.drop(b"accepted", "a.csv")
    sensors.drop(b"registered", "b.csv")
    sensors.look()
    accepted, registered = sensors.look()
    sensors.accept(accepted)
    before = set(sensors.run_keys)
    sensors.cursor = None
    assert [sensors.look(), sensors.look()] == [[], [registered]]
    assert sensors.run_keys == before


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to memory": lambda path: path.symlink_to("/proc/self/mem"),  # a file whose read fails
    "pipe": os.mkfifo,
    "socket": a_socket,
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_file_does_not_stop_the_others(
    sensors: Sensors, make: Callable[[Path], object]
) -> None:
    make(sensors.folder / "a.csv")
    sensors.drop(b"content", "b.csv")
    sensors.look()
    assert len(sensors.look()) == 1
    assert sensors.look() == []
    assert sensors.names() == ["b.csv"]


def test_flood_of_files_is_taken_over_several_looks(sensors: Sensors) -> None:
    for number in range(DROPS_AT_ONCE + 1):
        sensors.drop(str(number).encode(), f"{number}.csv")
    assert [len(sensors.look()) for _ in range(4)] == [0, DROPS_AT_ONCE, 1, 0]


# Drops in a bucket


@pytest.fixture
def in_bucket(sensors: Sensors, bucket: str) -> Sensors:
    """The same, with all files in a bucket."""
    sensors.settings = sensors.settings.model_copy(update={"files": bucket})
    sensors.store = Store(files_at(sensors.settings.store))
    return sensors


def put(sensors: Sensors, *objects: tuple[str, bytes]) -> None:
    files_at(sensors.settings.drop_folder).write_each(objects)


def test_new_object_is_asked_for_once_after_two_looks(in_bucket: Sensors, bucket: str) -> None:
    assert in_bucket.look() == []
    put(in_bucket, ("prices.csv", b"content"))
    assert in_bucket.look() == []
    (key,) = in_bucket.look()
    assert in_bucket.store.read_drop(key, 100) == b"content"
    assert in_bucket.look() == []
    assert names(files_at(bucket)) == ["drops/prices.csv", f"store/drops/{key}"]
    assert [*in_bucket.folder.iterdir()] == []


def test_object_that_is_put_again_is_a_newer_drop(in_bucket: Sensors) -> None:
    keys = []
    for content in (b"content", b"corrected"):
        put(in_bucket, ("prices.csv", content))
        assert in_bucket.look() == []
        keys += in_bucket.look()
    first, second = [in_bucket.database.drop(key) for key in keys]
    assert first.id < second.id
    assert in_bucket.store.read_drop(second.key, 100) == b"corrected"


def test_hidden_unfinished_and_lower_objects_are_passed_over(in_bucket: Sensors) -> None:
    passed = (".hidden.csv", "a.csv.part", "a.csv~", "old/a.csv", "old.csv/a.csv")
    put(in_bucket, *((name, b"content") for name in passed))
    assert [in_bucket.look(), in_bucket.look(), in_bucket.names()] == [[], [], []]


def test_objects_with_the_same_bytes_are_one_run(in_bucket: Sensors) -> None:
    put(in_bucket, ("a.csv", b"content"), ("b.csv", b"content"))
    in_bucket.look()
    (key,) = in_bucket.look()
    assert in_bucket.names() == ["a.csv"]
    assert names(in_bucket.store.files) == [f"drops/{key}"]


def test_object_that_cannot_be_read_does_not_stop_the_others(
    in_bucket: Sensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(in_bucket, ("a.csv", b"a"), ("b.csv", b"b"))
    in_bucket.look()
    opened = Bucket.open

    def open_but_a(bucket: Bucket, name: str) -> Any:
        if name == "a.csv":
            raise PermissionError(13, "Permission denied", name)
        return opened(bucket, name)

    monkeypatch.setattr(Bucket, "open", open_but_a)
    assert len(in_bucket.look()) == 1
    assert in_bucket.names() == ["b.csv"]


def test_bucket_that_is_not_there_fails_the_look(in_bucket: Sensors) -> None:
    in_bucket.settings = in_bucket.settings.model_copy(update={"drops": "s3://nowhere"})
    with pytest.raises(SetupError, match="There is no bucket 'nowhere'"):
        in_bucket.look()


def test_drops_of_a_folder_may_be_kept_in_a_bucket(in_bucket: Sensors) -> None:
    in_bucket.settings = in_bucket.settings.model_copy(update={"drops": in_bucket.folder})
    in_bucket.drop(b"content")
    in_bucket.look()
    (key,) = in_bucket.look()
    assert in_bucket.store.read_drop(key, 100) == b"content"


# Changed prices


@pytest.fixture
def market(sensors: Sensors) -> Sensors:
    """Sensors, and five tickers of 120 days with prices, models and forecasts."""
    tickers = ["A", "B", "C", "D", "E"]
    take(sensors.database, *(make_prices(ticker) for ticker in tickers))
    settle(sensors, *tickers)
    train_market(sensors.database, days=600)
    sensors.instance.add_dynamic_partitions("tickers", tickers)
    return sensors


def at_most(market: Sensors, tickers: int) -> Sensors:
    """The same, with no more tickers in a run."""
    market.settings = market.settings.model_copy(update={"max_tickers_per_run": tickers})
    return market


def train_market(database: Database, days: int) -> None:
    """Note a training of the pooled models."""
    told: dict[str, Any] = {"trained_to": date(2019, 6, 28), "tickers": 5, "days": days}
    database.save_market_model(told | {"version": f"m{days}", "artifact": f"models/m{days}.skops"})


def settle(sensors: Sensors, *tickers: str) -> None:
    """Train and forecast tickers on the prices they have."""
    current = {s.ticker: s.price_revision for s in sensors.database.ticker_states()}
    for ticker in tickers:
        sensors.database.save_training(training(ticker, days=120), {ticker: current[ticker]})
        sensors.database.save_forecasts(forecast(ticker), {ticker: current[ticker]})


def append(sensors: Sensors, *tickers: str, days: int = 1) -> None:
    """Another day of prices."""
    later = pd.Timedelta(days=days)
    take(
        sensors.database,
        *(p.assign(date=p["date"] + later) for p in map(last_day, tickers)),
    )


def last_day(ticker: str) -> pd.DataFrame:
    return make_prices(ticker).tail(1)


def test_tickers_without_changes_ask_for_no_run(market: Sensors) -> None:
    assert market.refresh() == []


def test_changed_tickers_are_asked_for_once(market: Sensors) -> None:
    append(market, "B", "D")
    assert [market.refresh() for _ in range(3)] == [[Run("B", "D", market=True)], [], []]


def test_new_prices_of_a_ticker_in_flight_are_asked_for(market: Sensors) -> None:
    append(market, "B")
    market.refresh()
    append(market, "B", days=2)
    assert market.refresh() == [Run("B", "B", market=True)]


def test_ticker_in_flight_is_in_no_other_range(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    append(market, "B", "D")
    assert market.refresh() == [MARKET]
    market.turn(dg.DagsterRunStatus.SUCCESS, tags={MARKET_TAG: "yes"})
    assert market.refresh() == [Run("B", "B"), Run("D", "D")]


def test_forecast_ends_the_wait(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    settle(market, "C")
    assert market.refresh() == []
    append(market, "B", "D")
    assert market.refresh() == [Run("B", "D", market=True)]


def test_lost_cursor_asks_again_for_what_is_in_flight(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    market.refresh_cursor = None
    assert market.refresh() == [Run("C", "C", market=True)]


@pytest.mark.parametrize("cursor", ["{}", '{"B": 2, "C": 1}'])
def test_cursor_of_an_older_version_is_taken_for_none(market: Sensors, cursor: str) -> None:
    append(market, "C")
    market.refresh_cursor = cursor
    assert [market.refresh(), market.refresh()] == [[Run("C", "C", market=True)], []]


def test_only_ranges_that_need_it_are_trained(market: Sensors) -> None:
    at_most(market, 2)
    append(market, "A", "B", "C", "D")
    take(market.database, make_prices("D", seed=1))
    assert market.refresh() == [MARKET]
    market.turn(dg.DagsterRunStatus.SUCCESS)
    assert market.refresh() == [Run("A", "B"), Run("C", "D", trains=True)]


def test_new_tickers_are_added_to_the_partitions_and_trained(market: Sensors) -> None:
    take(market.database, make_prices("G", 20), make_prices("F", 20))
    assert market.refresh() == [Run("F", "G", trains=True, market=True)]
    assert market.instance.get_dynamic_partitions("tickers") == list("ABCDEFG")


def test_tickers_far_apart_are_asked_for_in_ranges_of_their_own(sensors: Sensors) -> None:
    tickers = [f"T{number:02}" for number in range(GAP + 4)]
    take(sensors.database, *(make_prices(ticker, 30) for ticker in tickers))
    settle(sensors, *tickers[1:-2], tickers[-1])
    sensors.instance.add_dynamic_partitions("tickers", tickers)
    first, last = tickers[0], tickers[-2]
    assert sensors.refresh() == [MARKET._replace(trains_market=True)]
    sensors.turn(dg.DagsterRunStatus.SUCCESS)
    assert sensors.refresh() == [Run(first, first, trains=True), Run(last, last, trains=True)]


# What the market tells goes before ranges


@pytest.fixture
def large_market(market: Sensors) -> Sensors:
    """The market, with prices that changed of more tickers than a run takes."""
    append(at_most(market, 2), "A", "B", "C", "D", "E")
    return market


RANGES = [Run("A", "B"), Run("C", "D"), Run("E", "E")]


@pytest.mark.parametrize("status", UNDER_WAY)
def test_ranges_wait_for_the_market(large_market: Sensors, status: dg.DagsterRunStatus) -> None:
    assert large_market.refresh() == [MARKET]
    large_market.turn(status)
    assert [large_market.refresh(), large_market.refresh()] == [[], []]


@pytest.mark.parametrize("status", ENDED)
def test_ranges_follow_the_market_however_it_ended(
    large_market: Sensors, status: dg.DagsterRunStatus
) -> None:
    large_market.refresh()
    large_market.turn(status)
    assert [large_market.refresh(), large_market.refresh()] == [RANGES, []]


def test_a_drop_that_comes_meanwhile_is_in_the_ranges(large_market: Sensors) -> None:
    large_market.refresh()
    append(large_market, "A", days=2)
    take(large_market.database, make_prices("F", 20))
    assert large_market.refresh() == []
    large_market.turn(dg.DagsterRunStatus.SUCCESS)
    ranges_with_it = [*RANGES[:2], Run("E", "F", trains=True)]
    assert [large_market.refresh(), large_market.refresh()] == [ranges_with_it, []]


def test_a_run_of_the_market_serves_one_wave(large_market: Sensors) -> None:
    for days in (2, 3):
        assert large_market.refresh() == [MARKET]
        large_market.turn(dg.DagsterRunStatus.SUCCESS)
        assert large_market.refresh() == RANGES
        append(large_market, "A", "B", "C", "D", "E", days=days)


def test_a_run_of_the_market_that_came_not_to_be_is_asked_for_again(large_market: Sensors) -> None:
    (lost,) = large_market.ask()
    (again,) = large_market.ask()
    assert lost.run_key
    assert again.run_key == lost.run_key
    assert large_market.launch([again]) == [MARKET]
    assert large_market.refresh() == []


def test_one_range_that_is_left_takes_the_market_with_it(large_market: Sensors) -> None:
    large_market.refresh()
    settle(large_market, "A", "B", "C", "D")
    large_market.turn(dg.DagsterRunStatus.FAILURE)
    assert large_market.refresh() == [Run("E", "E", market=True)]


def test_nothing_is_asked_for_when_others_did_it_meanwhile(large_market: Sensors) -> None:
    large_market.refresh()
    settle(large_market, "A", "B", "C", "D", "E")
    large_market.turn(dg.DagsterRunStatus.SUCCESS)
    assert large_market.refresh() == []
    append(large_market, "A", "B", "C", days=2)
    assert large_market.refresh() == [MARKET]


@pytest.mark.parametrize("status", UNDER_WAY)
def test_tickers_wait_for_a_market_that_others_asked_for(
    market: Sensors, status: dg.DagsterRunStatus
) -> None:
    market.launch([dg.RunRequest(asset_selection=CHAMPION, tags={MARKET_TAG: "yes"})])
    market.turn(status)
    append(market, "B")
    assert [market.refresh(), market.refresh()] == [[], []]
    market.turn(dg.DagsterRunStatus.FAILURE)
    assert [market.refresh(), market.refresh()] == [[Run("B", "B", market=True)], []]


def test_tickers_wait_for_no_other_runs(market: Sensors) -> None:
    market.launch([dg.RunRequest(asset_selection=CHAMPION, tags={MARKET_TAG: "no"})])
    append(market, "B")
    assert market.refresh() == [Run("B", "B", market=True)]


@pytest.mark.parametrize(
    ("trained_on", "is_due"), [(None, True), (500, True), (501, False), (600, False)]
)
def test_market_is_due_when_there_is_none_or_prices_grew_by_a_fifth(
    sensors: Sensors, trained_on: int | None, *, is_due: bool
) -> None:
    take(sensors.database, *(make_prices(ticker) for ticker in "ABCDE"))  # 600 days
    if trained_on:
        train_market(sensors.database, 1)
        train_market(sensors.database, trained_on)
    assert market_is_due(sensors.database, sensors.database.ticker_states()) is is_due


def test_market_that_is_due_is_trained_with_a_single_range(market: Sensors) -> None:
    train_market(market.database, days=500)
    append(market, "B")
    assert market.refresh() == [Run("B", "B", market=True, trains_market=True)]


def test_market_that_is_due_is_trained_before_several_ranges(large_market: Sensors) -> None:
    train_market(large_market.database, days=500)
    assert large_market.refresh() == [MARKET._replace(trains_market=True)]
    large_market.turn(dg.DagsterRunStatus.SUCCESS)
    assert large_market.refresh() == RANGES


# Training that is due


def test_a_ticker_whose_training_is_due_is_asked_for_once(market: Sensors) -> None:
    market.database.mark_training_due({"C": "it drifted"})
    assert [market.refresh(), market.refresh()] == [[Run("C", "C", trains=True, market=True)], []]
    market.turn(dg.DagsterRunStatus.FAILURE)
    market.database.mark_training_due({"C": "it drifted"})
    assert market.refresh() == []


def test_training_ends_the_wish_for_it(market: Sensors) -> None:
    market.database.mark_training_due({"C": "it drifted"})
    market.refresh()
    settle(market, "C")
    assert market.refresh() == []
    market.database.mark_training_due({"C": "it drifted"})
    assert market.refresh() == [Run("C", "C", trains=True, market=True)]


def test_another_reason_is_another_wish(market: Sensors) -> None:
    for day in ("2019-07-06", "2019-07-13"):
        market.database.mark_training_due({"C": f"weekly training of {day}"})
        assert market.refresh() == [Run("C", "C", trains=True, market=True)]


def test_a_forecast_alone_does_not_end_the_wish_for_training(market: Sensors) -> None:
    append(market, "C")
    assert market.refresh() == [Run("C", "C", market=True)]
    market.database.mark_training_due({"C": "it drifted"})  # by the features of that run
    revisions = {state.ticker: state.price_revision for state in market.database.ticker_states()}
    market.database.save_forecasts(forecast("C"), revisions)
    assert [market.refresh(), market.refresh()] == [[Run("C", "C", trains=True, market=True)], []]


# Requests


@pytest.mark.parametrize("train_market", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_a_single_range_is_one_run_with_everything(*, train: bool, train_market: bool) -> None:
    requests = run_requests([["A", "B"]], [], train=train, train_market=train_market)
    everything = Run("A", "B", train, market=True, trains_market=train_market)
    assert [the_run(request) for request in requests] == [everything]


@pytest.mark.parametrize("train_market", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_several_ranges_follow_the_market(*, train: bool, train_market: bool) -> None:
    requests = run_requests([["A", "B"], ["C"]], [], train=train, train_market=train_market)
    assert [the_run(request) for request in requests] == [
        MARKET._replace(trains_market=train_market),
        Run("A", "B", train),
        Run("C", "C", train),
    ]


def test_no_range_is_no_run() -> None:
    assert run_requests([], []) == []


@pytest.mark.parametrize("chunks", [[["A"]], [["A"], ["B"]]])
def test_the_champion_is_chosen_last(chunks: list[list[str]]) -> None:
    for request in run_requests(chunks, [], train=True, train_market=True):
        assert request.asset_selection
        assert request.asset_selection[-1] == dg.AssetKey("champion")


def test_a_run_of_the_market_has_the_key_that_it_is_given_or_one_of_its_own() -> None:
    chunks = [["A"], ["B"]]
    assert run_requests(chunks, [], market_key="market-1")[0].run_key == "market-1"
    keys = {run_requests(chunks, [])[0].run_key for _ in range(2)}
    assert len(keys) == 2
    assert None not in keys


# Schedules


@pytest.fixture
def on_disk(market: Sensors, tmp_path: Path) -> Iterator[Sensors]:
    """The market, on an instance that a schedule can open anew."""
    known = market.instance.get_dynamic_partitions("tickers")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as market.instance:
        market.instance.add_dynamic_partitions("tickers", known)
        yield market


FRIDAY = datetime(2019, 7, 5, 18, 30, tzinfo=ZoneInfo(EXCHANGE_TIME))


def evaluate(
    schedule: dg.ScheduleDefinition, sensors: Sensors, at: datetime = FRIDAY, universe: str = ""
) -> list[dg.RunRequest]:
    """What the daemon makes of a schedule: it has rules of its own on several requests."""
    settings = sensors.settings.model_copy(update={"universe": universe})
    with dg.build_schedule_context(
        instance=sensors.instance,
        resources={
            "settings": settings,
            "database": sensors.database,
            "store": sensors.store,
        },
        scheduled_execution_time=at,
    ) as context:
        told = schedule.evaluate_tick(context)
    assert bool(told.run_requests) is (not told.skip_message)
    return list(told.run_requests or ())


def test_every_ticker_is_forecast_at_night_by_the_sensor(on_disk: Sensors) -> None:
    assert on_disk.refresh() == []
    (request,) = evaluate(nightly_forecast, on_disk)
    assert the_run(request) == MARKET
    assert request.run_key == "nightly-2019-07-05"
    states = on_disk.database.ticker_states()
    assert {state.due for state in states} == {"nightly forecast of 2019-07-05"}
    assert all(state.needs_forecast and not state.needs_training for state in states)
    on_disk.launch([request])
    assert on_disk.refresh() == []
    on_disk.turn(dg.DagsterRunStatus.SUCCESS)
    assert [on_disk.refresh(), on_disk.refresh()] == [[Run("A", "E", market=True)], []]


def test_what_failed_by_day_is_asked_for_again_at_night(on_disk: Sensors) -> None:
    append(on_disk, "B")
    assert on_disk.refresh() == [Run("B", "B", market=True)]
    assert on_disk.refresh() == []
    evaluate(nightly_forecast, on_disk)
    assert on_disk.refresh() == [Run("A", "E", market=True)]


def test_what_killed_processes_left_in_the_store_is_swept_at_night(on_disk: Sensors) -> None:
    on_disk.store.files.write_each([("drops/whole", b"x")])
    left = on_disk.store.files.spool("drops") / f"{UNFINISHED}left"
    left.touch()
    evaluate(nightly_forecast, on_disk)
    assert left.exists()  # somebody may be at it
    os.utime(left, (1, 1))
    evaluate(nightly_forecast, on_disk)
    assert names(on_disk.store.files) == ["drops/whole"]


def test_weekly_training_is_of_the_market(on_disk: Sensors) -> None:
    (request,) = evaluate(weekly_training, on_disk)
    assert the_run(request) == MARKET._replace(trains_market=True)
    assert request.run_key == "weekly-2019-07-05"
    assert not any(state.needs_forecast for state in on_disk.database.ticker_states())


def test_tickers_are_trained_when_the_weekly_training_of_the_market_has_ended(
    on_disk: Sensors,
) -> None:
    on_disk.launch(evaluate(weekly_training, on_disk))
    on_disk.turn(dg.DagsterRunStatus.STARTED)
    on_disk.database.mark_training_due(dict.fromkeys("ABCDE", "pooled models of 2019-07-05"))
    assert [on_disk.refresh(), on_disk.refresh()] == [[], []]
    on_disk.turn(dg.DagsterRunStatus.SUCCESS)
    training_of_all = Run("A", "E", trains=True, market=True)
    assert [on_disk.refresh(), on_disk.refresh()] == [[training_of_all], []]
    settle(on_disk, "A", "B", "C", "D", "E")
    assert on_disk.refresh() == []


@pytest.mark.parametrize("schedule", [nightly_forecast, weekly_training])
def test_schedule_skips_where_there_are_no_prices(
    sensors: Sensors, schedule: dg.ScheduleDefinition
) -> None:
    assert evaluate(schedule, sensors) == []


def test_nothing_is_forecast_on_a_holiday(on_disk: Sensors) -> None:
    independence_day = FRIDAY.replace(day=4)
    assert evaluate(nightly_forecast, on_disk, independence_day) == []
    assert not any(state.needs_forecast for state in on_disk.database.ticker_states())


# Fetching, of tickers that have prices to the last trading day of June 2019


def evening(month: int, day: int, hour: int = 18, minute: int = 5) -> datetime:
    return datetime(2019, month, day, hour, minute, tzinfo=ZoneInfo(EXCHANGE_TIME))


@pytest.mark.parametrize("schedule", [nightly_fetch, hourly_fetch])
@pytest.mark.parametrize(
    ("at", "universe", "asks"),
    [
        (evening(6, 28), "A,B", False),  # all is there
        (evening(7, 1), "A,B", True),
        (evening(7, 1, 15, 59), "A,B", False),  # the exchange is open still
        (evening(7, 1, 16, 0), "A,B", True),
        (evening(6, 30), "A,B", False),  # a Sunday
        (evening(6, 30), "A,NEW", True),
        (evening(7, 3, 12, 59), "LATE", True),
        (evening(7, 1), "", False),
    ],
)
def test_prices_are_fetched_when_a_trading_day_is_over_and_some_are_missing(
    on_disk: Sensors, schedule: dg.ScheduleDefinition, at: datetime, universe: str, *, asks: bool
) -> None:
    assert bool(evaluate(schedule, on_disk, at, universe)) is asks


@pytest.mark.parametrize(("hour", "minute", "asks"), [(12, 59, False), (13, 0, True)])
def test_half_days_are_over_early(on_disk: Sensors, hour: int, minute: int, *, asks: bool) -> None:
    take(on_disk.database, make_prices("A", 1).assign(date=pd.Timestamp("2019-07-02")))
    assert bool(evaluate(nightly_fetch, on_disk, evening(7, 3, hour, minute), "A")) is asks


def test_one_run_fetches_at_a_time(on_disk: Sensors) -> None:
    (request,) = evaluate(nightly_fetch, on_disk, evening(7, 1), "A,B")
    on_disk.instance.add_run(
        dg.DagsterRun(job_name="fetch_prices", run_id=str(uuid4()), tags=request.tags)
    )
    assert evaluate(hourly_fetch, on_disk, evening(7, 1), "A,B") == []
    (run,) = on_disk.instance.get_runs(dg.RunsFilter(job_name="fetch_prices"))
    on_disk.instance.report_run_failed(run)
    assert len(evaluate(hourly_fetch, on_disk, evening(7, 1), "A,B")) == 1
