"""Dagster's own records: where they lie, and runs that they wrongly take for alive."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from stock_assets.defs.event_log import PostgresEvents, SqliteEvents
from stock_assets.settings import current_settings


class _PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage in Postgres, with the log of ours."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        self._event_log_storage = PostgresEvents(postgres_url)


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


def fail_lost_runs(instance: dg.DagsterInstance) -> None:
    """End the runs whose process on this machine is gone, as after a power cut.

    Dagster notices a worker that dies before its code server does, but not one that dies with it:
    such a run would count as in progress, and hold one of the few places of the queue.
    """
    in_progress = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=in_progress)):
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        told = [
            (int(str(metadata["pid"].value)), entry.timestamp)
            for entry in entries
            if "pid" in (metadata := entry.get_dagster_event().engine_event_data.metadata)
        ]
        if not told or not _is_alive(*told[-1]):
            instance.report_run_failed(run, "The process of this run was lost.")


def _is_alive(pid: int, at: float) -> bool:
    """Whether the process that had this id at that time still runs.

    A dead one may linger until it is reaped, and its id may be another's by now.
    """
    try:
        process = psutil.Process(pid)
        return process.create_time() <= at and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
