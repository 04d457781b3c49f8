"""Dagster's own records: where they lie, and what an end without notice leaves in them."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.scheduler.instigation import InstigatorType
from dagster._core.storage.event_log.migration import (
    ASSET_DATA_MIGRATIONS,
    EVENT_LOG_DATA_MIGRATIONS,
)
from dagster._core.storage.event_log.schema import (
    SecondaryIndexMigrationTable,
    SqlEventLogStorageMetadata,
)
from dagster._core.storage.runs.migration import (
    OPTIONAL_DATA_MIGRATIONS,
    REQUIRED_DATA_MIGRATIONS,
)
from dagster._core.storage.runs.schema import RunsTable, RunStorageSqlMetadata
from dagster._core.storage.schedules.migration import (
    OPTIONAL_SCHEDULE_DATA_MIGRATIONS,
    REQUIRED_SCHEDULE_DATA_MIGRATIONS,
)
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._core.storage.sql import stamp_alembic_rev
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage
from dagster_postgres.run_storage import run_storage
from dagster_postgres.utils import pg_alembic_config

from stock_assets.defs.event_log import PostgresEvents, SqliteEvents
from stock_assets.defs.launcher import MACHINE_TAG
from stock_assets.settings import current_settings

_LOCK = 7_301_867_463  # any number that is ours alone
_MIGRATIONS = {  # of rows, of which there are none yet
    **REQUIRED_DATA_MIGRATIONS,
    **OPTIONAL_DATA_MIGRATIONS,
    **EVENT_LOG_DATA_MIGRATIONS,
    **ASSET_DATA_MIGRATIONS,
    **REQUIRED_SCHEDULE_DATA_MIGRATIONS,
    **OPTIONAL_SCHEDULE_DATA_MIGRATIONS,
}


class _PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage in Postgres, with the log of ours."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None) -> None:
        _make_tables(postgres_url)
        super().__init__(postgres_url, inst_data=inst_data)
        self._run_storage = _PostgresRuns(postgres_url)
        self._event_log_storage = PostgresEvents(postgres_url)


class _PostgresRuns(PostgresRunStorage):
    """Runs, each with the machine that it was asked for on, as several may share the database."""

    def add_run(self, dagster_run: dg.DagsterRun) -> dg.DagsterRun:
        """Note a run."""
        here = {**dagster_run.tags, MACHINE_TAG: platform.node()}
        return super().add_run(dagster_run.with_tags(here))


def _make_tables(url: str) -> None:
    """Make Dagster's tables where there are none, all of them or none.

    It makes one after the other itself. Whoever is killed meanwhile leaves a database that Dagster
    takes for complete from then on, and cannot work with.
    """
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        if not sa.inspect(connection).has_table(RunsTable.name):
            for tables in (
                RunStorageSqlMetadata,
                SqlEventLogStorageMetadata,
                ScheduleStorageSqlMetadata,
            ):
                tables.create_all(connection)
            stamp_alembic_rev(pg_alembic_config(run_storage.__file__), connection)
            now = datetime.now(UTC)
            done = [{"name": name, "migration_completed": now} for name in _MIGRATIONS]
            connection.execute(SecondaryIndexMigrationTable.insert(), done)
    engine.dispose()


class InstanceStorage(DagsterSqliteStorage):
    """The storage that dagster.yaml names; one setting moves it, as it moves our own tables."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        with _alone_in(Path(base_dir)):
            super().__init__(base_dir, inst_data=inst_data)
            self._event_log_storage = SqliteEvents(_event_logs_directory(base_dir))

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """It takes nothing: the settings say all."""
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Any,  # noqa: ARG003
    ) -> Any:
        """Postgres if its address is set, else SQLite."""
        # Dagster batches events only if told to, by the environment of every process that logs.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
        url = current_settings().database_url
        if url.startswith("postgresql"):
            return _PostgresStorage(url, inst_data)
        return cls.from_local(str(current_settings().home), inst_data=inst_data)


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Hold off other processes: two that make Dagster's tables at once get in each other's way."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process ends
        yield


def have_sensors_look(instance: dg.DagsterInstance) -> None:
    """Have sensors look that last did at a time to come, as of a clock that was set back since.

    They would wait until then.
    """
    now = time.time()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.sensor_instigator_data
        if data and max(data.last_tick_timestamp or 0, data.last_tick_start_timestamp or 0) > now:
            looked = data._replace(last_tick_timestamp=now, last_tick_start_timestamp=now)
            instance.update_instigator_state(state.with_data(looked))
