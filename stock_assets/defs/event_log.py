"""Dagster's log of events, for runs over many partitions: written in batches, not one by one.

Same rows, same order, same readers as of Dagster's own log. A batch is written whole or not at all.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock, local
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import DynamicPartitionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy.dialects.sqlite import insert

_INSERT = SqlEventLogStorageTable.insert()
_ADD_PARTITIONS = insert(DynamicPartitionsTable).on_conflict_do_nothing()
_MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION
_PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
_CHECK_PLANNED = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED


class _Batches(SqlEventLogStorage):
    """Writes a batch in one transaction, where Dagster takes several for each event."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._batch = local()
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    def optimize_for_webserver(self, *args: Any, **options: Any) -> None:
        """Dagster's web server calls this before it begins."""
        from stock_assets.defs.web import keep_out_other_sites  # noqa: PLC0415  its alone

        keep_out_other_sites()
        super().optimize_for_webserver(*args, **options)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Write the events of one run; whatever else Dagster may batch, it writes itself."""
        kinds = {event.dagster_event_type for event in events}
        run_ids = {event.run_id for event in events}
        if len(run_ids) != 1 or not kinds <= {_MATERIALIZED, _PLANNED, _CHECK_PLANNED}:
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self._transaction() as connection, ExitStack() as stack:
            if self.is_run_sharded:  # SQLite: a run's events are in a file of its own, too
                stack.enter_context(self.run_connection(*run_ids)).execute(_INSERT, rows)
            ids = connection.scalars(
                _INSERT.returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True), rows
            ).all()
            self._store_asset_event_tags(connection, events, ids)
            # An asset's record is what its newest event says, of each kind.
            newest = {
                (row["asset_key"], row["dagster_event_type"]): at for at, row in enumerate(rows)
            }
            for at in newest.values():
                self._store_asset_event(connection, events[at], ids[at])
            for event, event_id in zip(events, ids, strict=True):
                if event.dagster_event_type is _CHECK_PLANNED:
                    self.store_asset_check_event(event, event_id)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction that all writes of this thread take part in."""
        with self.index_transaction() as connection:
            self._batch.connection = connection
            try:
                yield connection
            finally:
                del self._batch.connection

    @contextmanager
    def index_connection(self) -> Iterator[sa.Connection]:
        """The connection of the open transaction, else a new one."""
        connection = getattr(self._batch, "connection", None)
        if connection is not None:
            yield connection
        else:
            with super().index_connection() as connection:  # type: ignore[safe-super]
                yield connection


class SqliteEvents(_Batches, SqliteEventLogStorage):
    """The log in SQLite files: one for each run, one for what assets have of all runs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._db_lock: Any = RLock()  # a batch holds both files

    def add_dynamic_partitions(
        self, partitions_def_name: str, partition_keys: Sequence[str]
    ) -> None:
        """Add those that are not there, in one statement, as Dagster does in Postgres.

        In SQLite it looks first and adds then: who adds the same at the same time fails.
        """
        of = {"partitions_def_name": partitions_def_name}
        rows = [{**of, "partition": key} for key in partition_keys]
        if rows:
            with self.index_connection() as connection:
                connection.execute(_ADD_PARTITIONS, rows)


class PostgresEvents(_Batches, PostgresEventLogStorage):
    """The log in Postgres, over a connection that stays open: Dagster takes a new one each time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._engine: Any = sa.create_engine(
            self._engine.url,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
        )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PostgresEvents":
        """This log, where Dagster would make its own."""
        return cls(pg_url_from_config(config_value), inst_data=inst_data)
