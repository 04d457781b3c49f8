"""Connecting to the prediction database: one writer at a time, and the newest tables.

Every write is one transaction and may be repeated: the rows end up the same. One writer at a time,
on SQLite by its nature and on PostgreSQL by a lock, so that no two writers wait for each other.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite

from stock_assets.errors import SetupError
from stock_assets.tables import SCHEMA_REVISION, VERSION_TABLE

_SQLITE_WAIT_SECONDS = 60
_POSTGRES_LOCK = 7_301_867_462  # any number that is ours alone


class Connection:
    """The prediction database at one address; connects, and migrates, on first use."""

    def __init__(self, url: str) -> None:
        """Remember the address, such as ``sqlite:///predictions.db``.

        Raises:
            SetupError: It is none.
        """
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise SetupError(
                "STOCK_ASSETS_DATABASE_URL is no address of a database. "
                "Expected one such as postgresql://user:password@host/name"
            ) from error

    @cached_property
    def engine(self) -> sa.Engine:
        """Connected, and with the newest tables.

        Raises:
            SetupError: The database does not answer.
        """
        if self.url.get_backend_name() == "sqlite":
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = sa.create_engine(self.url, connect_args={"timeout": _SQLITE_WAIT_SECONDS})
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = sa.create_engine(
                self.url, pool_pre_ping=True, executemany_mode="values_plus_batch"
            )
        try:
            _migrate(engine)
        except sa.exc.OperationalError as error:
            raise SetupError(
                f"The database {self.url.render_as_string()} cannot be used: {error.orig}"
            ) from error
        return engine

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _writing(self.engine) as connection:
            yield connection

    @property
    def _insert(self) -> Any:
        return postgresql.insert if self.engine.name == "postgresql" else sqlite.insert

    def _upsert(
        self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows; where the key is there already, update what differs."""
        if rows:
            insert = self._insert(table)
            connection.execute(_updating(insert, table, rows[0]), list(rows))

    def _upsert_all(self, connection: sa.Connection, table: sa.Table, rows: pd.DataFrame) -> None:
        """The same for very many rows."""
        staged = self._stage(connection, table, rows)
        names = list(staged.c.keys())
        insert = self._insert(table).from_select(names, sa.select(staged).where(sa.true()))
        connection.execute(_updating(insert, table, names))
        staged.drop(connection)

    def _stage(self, connection: sa.Connection, table: sa.Table, rows: pd.DataFrame) -> sa.Table:
        """Bring rows to the server in one go, into a temporary table with the columns they have."""
        columns = [sa.Column(c.name, c.type) for c in table.c if c.name in rows]
        staged = sa.Table(f"staged_{table.name}", sa.MetaData(), *columns, prefixes=["TEMPORARY"])
        staged.create(connection)
        values = {
            c.name: rows[c.name].to_numpy("datetime64[D]" if isinstance(c.type, sa.Date) else None)
            for c in columns
        }
        cursor: Any = connection.connection.cursor()
        if connection.engine.name == "postgresql":
            text = io.BytesIO()
            pa_csv.write_csv(pa.table(values), text, pa_csv.WriteOptions(include_header=False))
            text.seek(0)
            cursor.copy_expert(f"COPY {staged.name} FROM STDIN WITH (FORMAT csv)", text)
        else:
            of_rows = (v.astype(str) if v.dtype.kind == "M" else v for v in values.values())
            cursor.executemany(
                f"INSERT INTO {staged.name} VALUES ({', '.join('?' * len(values))})",  # noqa: S608
                zip(*(v.tolist() for v in of_rows), strict=True),
            )
        return staged


_version = sa.table(VERSION_TABLE, sa.column("version_num"))


def frame(result: sa.CursorResult[Any]) -> pd.DataFrame:
    """All rows of a result."""
    return pd.DataFrame(result.all(), columns=list(result.keys()))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as they are inserted."""
    return [{str(k): value for k, value in row.items()} for row in table.to_dict("records")]


def _updating(insert: Any, table: sa.Table, names: Iterable[str]) -> Any:
    """Where the key of a row is there already, what differs is updated."""
    values = [name for name in names if not table.c[name].primary_key]
    differs = [table.c[name].is_distinct_from(insert.excluded[name]) for name in values]
    written = [*values, *(["created_at"] if "created_at" in table.c else [])]
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: insert.excluded[name] for name in written},
        where=sa.or_(*differs),
    )


def same(table: sa.Table, other: Any, *names: str) -> sa.ColumnElement[bool]:
    """Whether two tables agree in these columns."""
    return sa.and_(*(table.c[name] == other[name] for name in names))


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.create_function("ln", 1, math.log, deterministic=True)


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that has read first could not wait for another."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is the only writing one."""
    with engine.execution_options(writes=True).begin() as connection:
        if engine.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
        yield connection


def _migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest revision; another process may be at it too."""
    with engine.connect() as connection:
        if sa.inspect(connection).has_table(VERSION_TABLE):
            version = connection.scalar(sa.select(_version.c.version_num))
            if version == SCHEMA_REVISION:
                return
    scripts = Config()
    scripts.set_main_option("script_location", "stock_assets:migrations")
    with _writing(engine) as connection:
        scripts.attributes["connection"] = connection
        command.upgrade(scripts, "head")
