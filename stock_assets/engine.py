"""Connecting to the prediction database: one writer at a time, and the newest tables.

One writer at a time, on SQLite by its nature and on PostgreSQL by a lock, so that no two writers
wait for each other.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stock_assets.errors import DatabaseError, SetupError
from stock_assets.tables import SCHEMA_REVISION, VERSION_TABLE, writes

_SQLITE_WAIT_SECONDS = 60
_POSTGRES_WAIT_SECONDS = 10  # for a connection
_POSTGRES_LOCK = 7_301_867_462  # any number that is ours alone
_version = sa.table(VERSION_TABLE, sa.column("version_num"))


class Connected:
    """The prediction database at one address; connects, and migrates, on first use."""

    def __init__(self, url: str) -> None:
        """Remember the address, such as ``sqlite:///predictions.db``.

        Raises:
            SetupError: It is none.
        """
        self.url = address(url)

    @cached_property
    def engine(self) -> sa.Engine:
        """Connected, and with the newest tables.

        Raises:
            SetupError: The database cannot be used.
        """
        return migrated(new_engine(self.url))

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """A transaction that is the only writing one; who reads can see that there was one."""
        with writing(self.engine) as connection:
            connection.execute(writes.update().values(count=writes.c.count + 1))
            yield connection


def address(url: str) -> sa.URL:
    """The address of a database.

    Raises:
        SetupError: It is none.
    """
    try:
        found = sa.make_url(url)
        found.get_dialect()
    except (sa.exc.ArgumentError, ImportError, ValueError):  # whose words may hold the password
        raise SetupError(
            "STOCK_ASSETS_DATABASE_URL is no address of a database. "
            "Expected one such as postgresql://user:password@host/name, "
            "with %40 for a @ in the password, %3A for a colon and %2F for a slash"
        ) from None
    return found


def shown(url: sa.URL) -> str:
    """The address of a database as it may be told: without what lets one in."""
    return url.set(query={}).render_as_string()


def new_engine(url: sa.URL) -> sa.Engine:
    """An engine that connects when it is used.

    Raises:
        SetupError: The folder of its file cannot be made.
    """
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(
            url,
            pool_pre_ping=True,
            executemany_mode="values_plus_batch",
            connect_args={"connect_timeout": _POSTGRES_WAIT_SECONDS},
        )
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The folder {folder} cannot be made ({error.strerror}), and the database lies there: "
            "set STOCK_ASSETS_HOME to one that can, or STOCK_ASSETS_DATABASE_URL"
        ) from error
    engine = sa.create_engine(url, connect_args={"timeout": _SQLITE_WAIT_SECONDS})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def migrated(engine: sa.Engine) -> sa.Engine:
    """The engine, its tables brought to the newest revision; another process may be at it too.

    Raises:
        DatabaseError: The database does not answer.
        SetupError: Its tables are those of a newer release.
    """
    try:
        if not is_newest(engine):
            _migrate(engine)
    except sa.exc.OperationalError as error:
        raise DatabaseError(
            f"The database {shown(engine.url)} cannot be used: {error.orig}"
        ) from error
    return engine


def is_newest(engine: sa.Engine) -> bool:
    """Whether the tables are of the newest revision."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return False
        return connection.scalar(sa.select(_version.c.version_num)) == SCHEMA_REVISION


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is the only writing one."""
    with engine.execution_options(writes=True).begin() as connection:
        if engine.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
        yield connection


def _migrate(engine: sa.Engine) -> None:
    from alembic import command  # noqa: PLC0415  needed once
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    scripts = Config()
    scripts.set_main_option("script_location", "stock_assets:migrations")
    with writing(engine) as connection:
        scripts.attributes["connection"] = connection
        try:
            command.upgrade(scripts, "head")
        except CommandError as error:  # there is no script of theirs
            raise SetupError(
                f"The tables of {shown(engine.url)} are of a newer release than this one, whose "
                f"revision is {SCHEMA_REVISION}: install that release, or restore a backup"
            ) from error


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.create_function("ln", 1, math.log, deterministic=True)


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that has read first could not wait for another."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
