"""A database of an earlier release: brought to the newest revision as a whole, or not at all."""

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from stock_assets.api.app import create_app
from stock_assets.database import Database
from stock_assets.errors import SetupError
from stock_assets.settings import Settings
from stock_assets.tables import SCHEMA_REVISION, VERSION_TABLE
from tests.commands import wait_until
from tests.test_api import Client, problem, settings_of
from tests.test_database import found_rows, reflected, some_value

Rows = dict[str, list[dict[str, Any]]]
SCRIPTS = Config()
SCRIPTS.set_main_option("script_location", "stock_assets:migrations")
REVISIONS = [s.revision for s in ScriptDirectory.from_config(SCRIPTS).walk_revisions()][::-1]
TRAIN_ANEW = {"0002", "0003"}  # which keep models otherwise
FORGOTTEN = {"model_version", "forecast_revision"}  # of tickers, so that they are trained


def bring(connection: sa.Connection, revision: str, *, down: bool = False) -> None:
    SCRIPTS.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(SCRIPTS, revision)


def fill(connection: sa.Connection) -> None:
    """Rows of every table that is there."""
    for name, table in reflected(connection).items():
        if name != "writes":  # which is one row
            rows = [{c.name: some_value(c, n) for c in table.c} for n in range(1, 29)]
            connection.execute(table.insert(), rows)


def both_know(rows: Rows, other: Rows, revision: str) -> Rows:
    """What of the rows the other release has a place for, and may keep."""
    left_out = {"market_models"} if revision == "0003" else set()
    known = {
        name: {*other[name][0]} & {*found[0]} - (FORGOTTEN if revision in TRAIN_ANEW else set())
        for name, found in rows.items()
        if found and other.get(name) and name not in left_out
    }
    return {
        name: [{key: row[key] for key in sorted(keys)} for row in rows[name]]
        for name, keys in known.items()
    }


@pytest.fixture
def first_release(database_url: str) -> Rows:
    """The rows of a database that the first release has written."""
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        bring(connection, REVISIONS[0])
        fill(connection)
        rows = found_rows(connection)
    engine.dispose()
    return rows


@pytest.mark.parametrize(("old", "new"), [*pairwise(REVISIONS)], ids="-".join)
def test_each_revision_keeps_what_both_releases_know(database_url: str, old: str, new: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        bring(connection, old)
        fill(connection)
        before = found_rows(connection)
        bring(connection, new)
        after = found_rows(connection)
        bring(connection, old, down=True)
        again = found_rows(connection)
    engine.dispose()
    tables = {name for name, rows in before.items() if rows} - {"writes"}
    lost = {"market_models"} if new == "0003" else set()
    assert {name for name, rows in after.items() if rows} >= tables - lost
    assert both_know(before, after, new) == both_know(after, before, new)
    assert both_know(after, again, new) == both_know(again, after, new)
    assert {name: len(rows) for name, rows in again.items()} == {
        name: 0 if name in lost else len(rows) for name, rows in before.items()
    }


DIES = """
import json, os, signal, sys
from itertools import count

import sqlalchemy as sa
from alembic import command
from stock_assets import engine

url, *looks = sys.argv[1:]
url = engine.address(url)

def migrate(last):
    passed = 0

    def step(_connection, _cursor=None, statement="COMMIT", *_):
        nonlocal passed
        passed += not statement.startswith(("SELECT", "PRAGMA"))
        if passed == last:
            os.kill(os.getpid(), signal.SIGKILL)

    made = engine.new_engine(url)
    sa.event.listen(made, "after_cursor_execute", step)
    sa.event.listen(made, "commit", step)
    engine.migrated(made)

def look():
    made = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with made.connect() as connection:
        return [repr(connection.execute(sa.text(look)).all()) for look in looks]

print(json.dumps([0, *look()]))
for last in count(1):
    child = os.fork()
    if not child:
        try:
            migrate(last)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, *look()]))
    if code >= 0:
        break
"""


def test_a_migration_that_is_killed_anywhere_has_not_begun(
    database_url: str, first_release: Rows
) -> None:
    looks = [f"SELECT * FROM {name}" for name in (VERSION_TABLE, *first_release)]  # noqa: S608
    done = subprocess.run(
        [sys.executable, "-c", DIES, database_url, *looks],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (_, *before), *killed, ended = map(json.loads, done.stdout.splitlines())
    assert len(killed) > 5 * len(REVISIONS)
    assert killed == [[-9, *before]] * len(killed)
    assert ended[:2] == [0, f"[('{SCHEMA_REVISION}',)]"]


UPGRADES = """
import sys
from alembic import command
from stock_assets.engine import Connected

connected = Connected(sys.argv[1])
print("ready", flush=True)
input()
connected.engine
"""


def test_processes_that_upgrade_at_once_do_it_once(database_url: str, first_release: Rows) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADES, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout
        worker.stdout.readline()
    engine = sa.create_engine(database_url)
    with engine.connect() as looking, engine.begin() as holding:
        if engine.name == "postgresql":  # nobody gets on until all have begun
            holding.execute(sa.text("LOCK TABLE tickers IN ACCESS EXCLUSIVE MODE"))
        for worker in workers:
            assert worker.stdin
            worker.stdin.write(b"\n")
            worker.stdin.close()
        if engine.name == "postgresql":
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_until("waiting", lambda: looking.scalar(waiting) == 3, seconds=60)
    engine.dispose()
    for worker in workers:
        with worker:  # until it has ended
            pass
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    database = Database(database_url)
    with database.engine.connect() as connection:
        after = found_rows(connection)
    database.engine.dispose()
    assert after["prices"] == first_release["prices"]
    assert len(after["writes"]) == 1


def test_tables_of_a_newer_release_are_told_and_left(
    database: Database, database_url: str, settings: Settings
) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608
        before = found_rows(connection)
    with pytest.raises(SetupError, match="are of a newer release than this one, whose revision"):
        Database(database_url).engine  # noqa: B018
    with Client(create_app(settings_of(settings.home, database_url))) as client:
        assert "are of a newer release than this one" in problem(client.get("/tickers"), 503)
    with database.engine.connect() as connection:
        assert found_rows(connection) == before
        told = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    assert told == "9999"
