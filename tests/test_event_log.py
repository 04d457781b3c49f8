"""Dagster's log, written in batches: what its own would hold, and a batch whole or not at all."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorageMetadata

from stock_assets.defs.event_log import PostgresEvents, SqliteEvents
from stock_assets.defs.partitions import RememberedPartitions
from stock_assets.settings import current_settings
from tests.conftest import ROOT

KEYS = [f"K{number}" for number in range(12)]
RANGE = KEYS[1:11]
RUN_IDS = ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]
PARTITIONS = RememberedPartitions(name="keys")

Open = Callable[[str], dg.DagsterInstance]


def asset(name: str, *deps: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """An asset like those of single tickers: a range at once, metadata for each key, checks."""

    @dg.asset(
        name=name,
        deps=deps,
        partitions_def=PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version="1",
        check_specs=[dg.AssetCheckSpec(check, asset=name) for check in ("fine", "poor")],
    )
    def computed(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.AssetCheckResult(check_name="fine", passed=True)
        yield dg.AssetCheckResult(check_name="poor", passed=False)
        for key in context.partition_keys:
            context.add_asset_metadata({"rows": int(key[1:]), "key": key}, partition_key=key)
        yield dg.MaterializeResult(metadata={"keys": len(context.partition_keys)})

    return computed


FIRST = asset("first")
SECOND = asset("second", FIRST)


@dg.asset(deps=[SECOND])
def whole() -> dg.MaterializeResult[None]:
    """An asset without partitions."""
    return dg.MaterializeResult(metadata={"whole": True})


JOB = dg.Definitions(
    assets=[FIRST, SECOND, whole],
    jobs=[dg.define_asset_job("job", [FIRST, SECOND, whole])],
    executor=dg.in_process_executor,
).resolve_job_def("job")


def run(instance: dg.DagsterInstance, run_id: str = RUN_IDS[0]) -> dg.ExecuteInProcessResult:
    """One run of the job over the range."""
    instance.add_dynamic_partitions("keys", KEYS)
    tags = {
        "dagster/asset_partition_range_start": RANGE[0],
        "dagster/asset_partition_range_end": RANGE[-1],
    }
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return JOB.execute_in_process(instance=instance, tags=tags, run_config=quiet, run_id=run_id)


@pytest.fixture
def open_instance(
    request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Opens an instance with Dagster's "plain" log or with "ours", of the kind of database."""
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("postgres_database") if postgres else ""
    if postgres:
        monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", url)
        current_settings.cache_clear()
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "7")  # several batches, of mixed assets
    opened = []

    def instance_of(log: str) -> dg.DagsterInstance:
        folder = home
        if log == "plain":
            folder = tmp_path / "plain"
            folder.mkdir()
            where = f"postgres: {{postgres_url: '{url}'}}"
            where = where if postgres else f"sqlite: {{base_dir: '{folder}'}}"
            (folder / "dagster.yaml").write_text(
                f"storage: {{{where}}}\ntelemetry: {{enabled: false}}"
            )
        opened.append(dg.DagsterInstance.from_config(str(folder)))
        return opened[-1]

    yield instance_of
    for instance in opened:
        instance.dispose()


both = pytest.mark.parametrize("open_instance", ["sqlite", "postgresql"], indirect=True)


def tables(instance: dg.DagsterInstance) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables of the log, without what tells one run of the same from another."""
    log: Any = instance.event_log_storage
    if not log.is_run_sharded:
        return {"index": _rows(log.index_connection())}
    runs = [run_id for run_id in RUN_IDS if Path(log.path_for_shard(run_id)).exists()]
    return {shard: _rows(log.run_connection(shard)) for shard in ["index", *runs]}


def _rows(connect: AbstractContextManager[sa.Connection]) -> list[dict[str, Any]]:
    found = []
    with connect as connection:
        for table in SqlEventLogStorageMetadata.sorted_tables:
            rows = connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
            found += [{"table": table.name, **row} for row in rows]
    events = [row for row in found if row["table"] == "event_logs"]
    order = {row["id"]: number for number, row in enumerate(events)}
    return [{name: _comparable(name, row, order) for name in row} for row in found]


def _comparable(name: str, row: dict[str, Any], order: dict[int, int]) -> Any:
    """A value of a row without times, and its ids as the order of the events they are of."""
    value = row[name]
    if "timestamp" in name or name == "migration_completed":
        return None
    if name == "id":
        return order[value] if row["table"] == "event_logs" else None
    if name == "event" and not row["asset_key"]:  # has process ids and durations
        return row["dagster_event_type"]
    if name in {"event_id", "evaluation_event_storage_id", "materialization_event_storage_id"}:
        return value and order[value]
    if not isinstance(value, str):
        return value
    value = re.sub(r'"timestamp": [\d.]+', "", value)
    ids = r'(?<="storage_id": )\d+|(?<=pointer/first": ")\d+|(?<=pointer/second": ")\d+'
    return re.sub(ids, lambda found: f"#{order.get(int(found[0]))}", value)


def asked(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI, sensors and automation ask about assets and runs."""
    log = instance.event_log_storage
    keys = [FIRST.key, SECOND.key, whole.key]
    answers: dict[str, Any] = {"all": sorted(instance.all_asset_keys())}
    for record in instance.get_asset_records(keys):
        entry = record.asset_entry
        answers[f"entry of {entry.asset_key}"] = (
            entry.last_run_id,
            entry.last_materialization_storage_id,
            entry.last_materialization and entry.last_materialization.asset_materialization,
        )
    for key in keys:
        answers[f"partitions of {key}"] = (
            instance.get_materialized_partitions(key),
            log.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION),
            log.get_latest_tags_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"]
            ),
            instance.get_status_by_partition(key, RANGE, PARTITIONS) if key != whole.key else None,
        )
    for run_id in RUN_IDS:
        answers[run_id] = [
            (event.event_type, event.step_key, event.partition)
            for event in [entry.get_dagster_event() for entry in instance.all_logs(run_id)]
        ]
    return answers


def empty(instance: dg.DagsterInstance) -> None:
    """Drop all tables of a Postgres database that two instances take in turn."""
    if not instance.event_log_storage.is_run_sharded:
        with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))


@both
@pytest.mark.parametrize("failing", [False, True], ids=["batches", "failing batches"])
def test_the_log_holds_what_dagsters_own_holds(
    open_instance: Open, monkeypatch: pytest.MonkeyPatch, *, failing: bool
) -> None:
    with monkeypatch.context() as plainly:
        plainly.delenv("DAGSTER_EVENT_BATCH_SIZE")
        plain = open_instance("plain")
        for run_id in RUN_IDS:
            assert run(plain, run_id).success
        expected = tables(plain), asked(plain)
        empty(plain)

    ours = open_instance("ours")
    kind = type(ours.event_log_storage)
    assert kind in {SqliteEvents, PostgresEvents}
    batches = []
    if failing:  # after all rows are written, before they are committed
        store = kind.store_event_batch

        def store_failing(self: Any, events: Any) -> None:
            batches.append(len(events))
            with monkeypatch.context() as breaks:
                breaks.setattr(kind, "_store_asset_event", lambda *_: 1 / 0)
                store(self, events)

        monkeypatch.setattr(kind, "store_event_batch", store_failing)
    for run_id in RUN_IDS:
        assert run(ours, run_id).success
    rows, answers = expected
    assert tables(ours) == rows
    assert failing or asked(ours) == answers  # what failed has used up numbers
    assert len(rows["index"]) > 2 * 4 * len(RANGE)
    assert failing == (len(batches) > 0)
    assert answers[f"partitions of {FIRST.key}"][0] == set(RANGE)


@both
def test_a_batch_takes_one_transaction(
    open_instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    ours = open_instance("ours")
    kind = type(ours.event_log_storage)
    singly: list[str] = []
    store = kind.store_event

    def store_noted(self: Any, event: dg.EventLogEntry) -> None:
        singly.append(str(event.dagster_event_type))
        store(self, event)

    monkeypatch.setattr(kind, "store_event", store_noted)
    assert run(ours).success
    assert not [name for name in singly if "PLANNED" in name]
    # That of the asset without partitions.
    assert len([name for name in singly if "ASSET_MATERIALIZATION" in name]) == 1


KILLED = """
import os, signal, sys
import dagster as dg
from stock_assets.defs.event_log import PostgresEvents, SqliteEvents
from tests.test_event_log import run

name, left = sys.argv[1], int(sys.argv[2])
for kind in (PostgresEvents, SqliteEvents):
    def store(self, *what, store=getattr(kind, name)):
        global left
        store(self, *what)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(kind, name, store)
run(dg.DagsterInstance.get())
"""


@both
@pytest.mark.parametrize(
    ("after", "planned"),
    [(("store_asset_check_event", "4"), 0), (("_store_asset_event", "5"), 1)],
    ids=["when planned", "when materialized"],
)
def test_a_killed_run_leaves_whole_batches(
    open_instance: Open, monkeypatch: pytest.MonkeyPatch, after: tuple[str, str], planned: int
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    killed = subprocess.run([sys.executable, "-c", KILLED, *after], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    ours = open_instance("ours")
    logs = tables(ours)
    for rows in logs.values():
        kinds = Counter(row.get("dagster_event_type") for row in rows)
        assert kinds["ASSET_MATERIALIZATION_PLANNED"] == planned * (2 * len(RANGE) + 1)
        assert kinds["ASSET_CHECK_EVALUATION_PLANNED"] == planned * 4
        assert kinds["ASSET_MATERIALIZATION"] == 0
    assert Counter(row["table"] for row in logs["index"])["asset_check_executions"] == planned * 4
    assert ours.get_materialized_partitions(FIRST.key) == set()
    assert run(ours, RUN_IDS[1]).success
    assert ours.get_materialized_partitions(FIRST.key) == set(RANGE)


@both
def test_a_run_can_be_watched_while_it_is_written(open_instance: Open) -> None:
    ours = open_instance("ours")
    seen: list[dg.EventLogEntry] = []
    ours.watch_event_logs(RUN_IDS[0], None, lambda entry, _: seen.append(entry))
    assert run(ours).success
    everything = ours.all_logs(RUN_IDS[0])
    end = time.monotonic() + 20
    while len(seen) < len(everything) and time.monotonic() < end:
        time.sleep(0.1)  # between two looks
    assert [entry.message for entry in seen] == [entry.message for entry in everything]


def test_every_process_batches_unless_told_otherwise(
    home: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")
    dg.DagsterInstance.get().dispose()
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "0"
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    dg.DagsterInstance.get().dispose()
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "1000"
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")  # so that it is undone after this test


@both
def test_two_processes_may_add_the_same_partitions_at_once(open_instance: Open) -> None:
    first, second = open_instance("ours"), open_instance("ours")
    first.add_dynamic_partitions("others", ["K3"])
    to_come = [["K1", "K2"]]

    def be_overtaken(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO dynamic_partitions") and to_come:
            second.add_dynamic_partitions("others", to_come.pop())

    sa.event.listen(sa.Engine, "before_cursor_execute", be_overtaken)
    try:
        first.add_dynamic_partitions("others", ["K2", "K3", "K4"])
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", be_overtaken)
    first.add_dynamic_partitions("others", [])
    assert first.get_dynamic_partitions("others") == ["K3", "K1", "K2", "K4"]


def test_a_range_is_read_once_for_all_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str] = []
    read = dg.DagsterInstance.get_dynamic_partitions

    def read_noted(self: dg.DagsterInstance, partitions_def_name: str) -> Any:
        asked_for.append(partitions_def_name)
        return read(self, partitions_def_name)

    monkeypatch.setattr(dg.DagsterInstance, "get_dynamic_partitions", read_noted)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(instance).success
    assert 0 < len(asked_for) < len(RANGE)


def test_a_range_is_not_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    partitions = RememberedPartitions(name="keys")

    def keys(instance: dg.DagsterInstance, start: str = "a", end: str = "c") -> list[str]:
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            return partitions.get_partition_keys_in_range(dg.PartitionKeyRange(start, end))

    with dg.DagsterInstance.ephemeral() as first, dg.DagsterInstance.ephemeral() as second:
        first.add_dynamic_partitions("keys", ["a", "b", "c"])
        second.add_dynamic_partitions("keys", ["a", "x", "c"])
        assert keys(first) == ["a", "b", "c"]
        assert keys(second) == ["a", "x", "c"]
        assert keys(first, end="b") == ["a", "b"]
        assert keys(first) == ["a", "b", "c"]
        first.delete_dynamic_partition("keys", "b")
        now[0] += 1.1
        assert keys(first) == ["a", "c"]
        keys(first).clear()
        assert keys(first) == ["a", "c"]
