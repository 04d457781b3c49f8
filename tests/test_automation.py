"""Sensors and schedules on real files, a real database and a real Dagster instance."""

import gzip
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stock_assets.database import Database
from stock_assets.defs.automation import (
    DROPS_AT_ONCE,
    GAP,
    WITHOUT_TRAINING,
    drop_sensor,
    nightly_forecast,
    ranges,
    refresh_sensor,
    weekly_training,
)
from stock_assets.prices import validate_csv
from stock_assets.settings import Settings
from stock_assets.storage import Store
from tests.conftest import as_csv, make_prices
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
        """Where files are dropped."""
        return self.settings.drop_folder

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

    def refresh(self) -> list[tuple[str, str, bool]]:
        """The runs asked for: first and last ticker, and whether they train."""
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
        return spans(result.run_requests or ())


def spans(requests: Iterable[dg.RunRequest]) -> list[tuple[str, str, bool]]:
    """First and last ticker of each range, and whether it is trained."""
    requests = list(requests)
    assert all(request.asset_selection in (None, WITHOUT_TRAINING) for request in requests)
    return [
        (
            request.tags["dagster/asset_partition_range_start"],
            request.tags["dagster/asset_partition_range_end"],
            request.asset_selection is None,
        )
        for request in requests
    ]


@pytest.fixture
def sensors(settings: Settings) -> Iterator[Sensors]:
    settings.drop_folder.mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        database = Database(settings.prediction_database_url)
        yield Sensors(settings, database, Store(settings.store), instance)
        database.engine.dispose()


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


# Changed prices


@pytest.fixture
def market(sensors: Sensors) -> Sensors:
    """Sensors, and five tickers with prices, models and forecasts."""
    tickers = ["A", "B", "C", "D", "E"]
    take(sensors.database, *(make_prices(ticker) for ticker in tickers))
    settle(sensors, *tickers)
    sensors.instance.add_dynamic_partitions("tickers", tickers)
    return sensors


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
    assert [market.refresh() for _ in range(3)] == [[("B", "D", False)], [], []]


def test_new_prices_of_a_ticker_in_flight_are_asked_for(market: Sensors) -> None:
    append(market, "B")
    market.refresh()
    append(market, "B", days=2)
    assert market.refresh() == [("B", "B", False)]


def test_ticker_in_flight_is_in_no_other_range(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    append(market, "B", "D")
    assert market.refresh() == [("B", "B", False), ("D", "D", False)]


def test_forecast_ends_the_wait(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    settle(market, "C")
    assert market.refresh() == []
    append(market, "B", "D")
    assert market.refresh() == [("B", "D", False)]


def test_lost_cursor_asks_again_for_what_is_in_flight(market: Sensors) -> None:
    append(market, "C")
    market.refresh()
    market.refresh_cursor = None
    assert market.refresh() == [("C", "C", False)]


def test_ranges_hold_no_more_than_the_setting_says(market: Sensors) -> None:
    market.settings = market.settings.model_copy(update={"max_tickers_per_run": 2})
    append(market, "A", "B", "C", "D", "E")
    assert market.refresh() == [("A", "B", False), ("C", "D", False), ("E", "E", False)]


def test_only_ranges_that_need_it_are_trained(market: Sensors) -> None:
    market.settings = market.settings.model_copy(update={"max_tickers_per_run": 2})
    append(market, "A", "B", "C", "D")
    take(market.database, make_prices("D", seed=1))
    assert market.refresh() == [("A", "B", False), ("C", "D", True)]


def test_new_tickers_are_added_to_the_partitions_and_trained(market: Sensors) -> None:
    take(market.database, make_prices("G"), make_prices("F"))
    assert market.refresh() == [("F", "G", True)]
    assert market.instance.get_dynamic_partitions("tickers") == list("ABCDEFG")


def test_tickers_far_apart_are_asked_for_in_ranges_of_their_own(sensors: Sensors) -> None:
    tickers = [f"T{number:02}" for number in range(GAP + 4)]
    take(sensors.database, *(make_prices(ticker, 30) for ticker in tickers))
    settle(sensors, *tickers[1:-2], tickers[-1])
    sensors.instance.add_dynamic_partitions("tickers", tickers)
    first, last = tickers[0], tickers[-2]
    assert sensors.refresh() == [(first, first, True), (last, last, True)]


# Ranges


@st.composite
def partition_sets(draw: st.DrawFn) -> tuple[list[str], set[str], set[str]]:
    """Partition keys in their order, the wanted ones, and the ones to stay clear of."""
    order = draw(st.lists(st.sampled_from("ABCDEFGHIJKLMNOP"), unique=True))
    kinds = [draw(st.sampled_from(["wanted", "apart", "neither"])) for _ in order]
    of_kind = {
        kind: {key for key, of_key in zip(order, kinds, strict=True) if of_key == kind}
        for kind in ("wanted", "apart")
    }
    return order, of_kind["wanted"], of_kind["apart"]


@given(keys=partition_sets(), most=st.integers(1, 6), gap=st.integers(0, 4))
def test_ranges_cover_what_is_wanted_and_little_else(
    keys: tuple[list[str], set[str], set[str]], most: int, gap: int
) -> None:
    order, wanted, apart = keys
    found = ranges(order, wanted, most=most, gap=gap, apart=apart)
    covered = [key for chunk in found for key in chunk]
    assert len(covered) == len(set(covered))
    assert wanted <= set(covered)
    assert apart.isdisjoint(covered)
    for chunk in found:
        start = order.index(chunk[0])
        assert chunk == order[start : start + len(chunk)]
        assert len(chunk) <= most
        others = "".join("w" if key in wanted else "." for key in chunk).split("w")
        assert others[0] == others[-1] == ""
        assert max(map(len, others)) <= gap
    for left, right in pairwise(found):
        together = order[order.index(left[0]) : order.index(right[-1]) + 1]
        between = together[len(left) : -len(right)]
        assert apart.intersection(between) or len(between) > gap or len(together) > most


# Schedules


@pytest.fixture
def on_disk(market: Sensors, tmp_path: Path) -> Iterator[Sensors]:
    """The market, on an instance that a schedule can open anew."""
    known = market.instance.get_dynamic_partitions("tickers")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as market.instance:
        market.instance.add_dynamic_partitions("tickers", known)
        yield market


def evaluate(schedule: dg.ScheduleDefinition, sensors: Sensors) -> object:
    with dg.build_schedule_context(
        instance=sensors.instance,
        resources={"settings": sensors.settings, "database": sensors.database},
    ) as context:
        return schedule(context)


@pytest.mark.parametrize(
    ("schedule", "trains"), [(nightly_forecast, False), (weekly_training, True)]
)
def test_schedule_asks_for_every_ticker_in_ranges(
    on_disk: Sensors, schedule: dg.ScheduleDefinition, *, trains: bool
) -> None:
    on_disk.settings = on_disk.settings.model_copy(update={"max_tickers_per_run": 3})
    on_disk.instance.add_dynamic_partitions("tickers", ["not a ticker of ours"])
    requests = evaluate(schedule, on_disk)
    assert isinstance(requests, list)
    assert spans(requests) == [("A", "C", trains), ("D", "E", trains)]


def test_nightly_run_trains_what_has_no_model(on_disk: Sensors) -> None:
    take(on_disk.database, make_prices("F"))
    on_disk.instance.add_dynamic_partitions("tickers", ["F"])
    requests = evaluate(nightly_forecast, on_disk)
    assert isinstance(requests, list)
    assert spans(requests) == [("A", "F", True)]


@pytest.mark.parametrize("schedule", [nightly_forecast, weekly_training])
def test_schedule_skips_where_there_are_no_prices(
    sensors: Sensors, schedule: dg.ScheduleDefinition
) -> None:
    assert isinstance(evaluate(schedule, sensors), dg.SkipReason)
