"""The platform at work in processes that are broken at a chosen moment, and begun again.

Dagster takes seconds to load. So one process loads and compiles all there is, and forks a child for
each attempt, which does what somebody at the command line does. A fuse in the child counts the
moments at which harm may come to it: each statement, commit, rename and half-written file.
"""

import errno
import gc
import gzip
import hashlib
import io
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._cli.api import _execute_run_command_body
from dagster._core.launcher import LaunchRunContext
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster_postgres.run_storage import run_storage
from dagster_postgres.schedule_storage import schedule_storage
from exchange_calendars import get_calendar
from rich.console import Console

from stock_assets import engine
from stock_assets.cli import in_words
from stock_assets.database import Database
from stock_assets.defs.automation import LOOK_EVERY_SECONDS
from stock_assets.defs.launcher import ForkedRuns
from stock_assets.drops import register
from stock_assets.errors import RunFailedError
from stock_assets.files import Files, files_at
from stock_assets.settings import current_settings
from tests.conftest import ROOT, as_csv, make_prices, names
from tests.test_database import Rows, contents

UNCLEAR = "not told in words:"
MODELS = "ridge"  # nothing to compile
NOTHING_KEPT = """
compute_logs: # as on Kubernetes; else each run begins four processes to keep what it prints
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
LAUNCHER = "module: stock_assets.defs.launcher\n  class: ForkedRuns\n"
LAUNCHES_HERE = "module: tests.breaking\n  class: Here\n"
PATIENCE_SECONDS = 120.0  # with a child
patch = pytest.MonkeyPatch()  # of a process that is made to be broken; nothing is undone there
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA")}

# What is dropped


def _history(*days: int, seed: int = 0) -> pd.DataFrame:
    """The days from one to another of three tickers, and of one whose history is short."""
    tickers = ("A", "B", "C", "NEW")
    all_days = [make_prices(ticker, 135, seed=seed).iloc[slice(*days)] for ticker in tickers]
    all_days[-1] = all_days[-1].tail(30)
    return pd.concat(all_days)


@cache
def drops() -> dict[str, bytes]:
    """Files by their names: with wrong rows, corrections, more days; and one that is no CSV."""
    old = as_csv(_history(0, 100))
    corrected = as_csv(_history(60, 105, seed=1).assign(sector="Energy"))
    return {
        "old.csv": old + old.splitlines()[1] + b"\nA,Technology,4 Jan,9,9,9,9,5\nB,,,\n",
        "corrected.csv.gz": gzip.compress(corrected, mtime=0),
        "wrong.csv": b"day;ticker;price\n",
        "next.csv": as_csv(_history(105, 108)) + b"C,Technology,2010-01-04,9.0,10.0,11.0,12.0,5\n",
        "more.csv": as_csv(_history(108, 135)),
    }


class Stage(NamedTuple):
    """Files that came, the oldest first, and that are forecast together.

    By hand they are validated in another order: who corrects comes before what it corrects. Sensors
    would forecast in between, now and then; for them there is the first one alone.
    """

    came: tuple[str, ...]
    validated: tuple[str, ...]


STAGES = (  # their tickers are new and trained; forecast and scored; trained anew
    Stage(
        ("old.csv", "corrected.csv.gz", "wrong.csv"), ("corrected.csv.gz", "old.csv", "wrong.csv")
    ),
    Stage(("next.csv",), ("next.csv",)),
    Stage(("more.csv",), ("more.csv",)),
)


def by_hand(stage: int) -> None:
    """What somebody types to have the files of a stage forecast."""
    from stock_assets.installation import Installation  # noqa: PLC0415

    installation = Installation(Console(file=io.StringIO()))
    installation.recover()
    folder = files_at(installation.settings.drop_folder)
    came, validated = STAGES[stage]
    for name in came:
        register(folder, name, installation.store, installation.database)
    for told in installation.ingest([(folder, name) for name in validated]):
        if told.refusal and told.drop.status != "refused":
            raise RunFailedError(told.refusal)  # and whoever reads that forecasts nothing yet
    installation.refresh(installation.stale_tickers())


def by_itself(_: int) -> None:
    """What `stock-assets up` does until nothing is left to do, with all daemons in one process.

    Its clock goes fast, so that sensors look again at once.
    """
    from stock_assets.installation import Installation  # noqa: PLC0415

    Installation(Console(file=io.StringIO())).recover()
    code = LoadableTargetOrigin(
        executable_path=sys.executable, module_name="stock_assets.definitions"
    )
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code))
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, target) as workspace,
        QueuedRunCoordinatorDaemon(interval_seconds=1) as queue,
    ):
        retries, looks_in_vain = EventLogConsumerDaemon(), 0
        while looks_in_vain < LOOKS:
            clock.ahead += LOOK_EVERY_SECONDS + 1
            before = instance.get_runs_count()
            for turn in (
                execute_sensor_iteration(workspace, LOG, None, None),
                retries.run_iteration(workspace),
                queue.run_iteration(workspace),
            ):
                errors = [error for error in turn if error]
                assert not errors, errors
            looks_in_vain = looks_in_vain + 1 if instance.get_runs_count() == before else 0


HOUR = 3600.0
LOOKS = 3  # a file is taken at the second one
LOG = logging.getLogger(__name__)


class Here(ForkedRuns):
    """Has the process that launches a run do its work, as a process that is begun for it does."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Do its work."""
        _execute_run_command_body(
            context.dagster_run.run_id,
            self._instance,
            lambda _: None,
            set_exit_code_on_failure=False,
        )


WAYS = {way.__name__: way for way in (by_hand, by_itself)}

# What is left

NUMBERED = ("drops", "market_models", "champions")


def rows_at(url: str) -> Rows:
    """All rows of a database, with drops, trainings and champions numbered in their order.

    Their numbers have gaps where somebody had drawn one who died. When a row was written is left
    out, and so is the end of sums, which Postgres adds up as the rows happen to lie.
    """
    database = Database(url)
    try:
        found = contents(database, without=("created_at",))
    finally:
        database.engine.dispose()
    places = {name: {row[0]: at for at, row in enumerate(found[name])} for name in NUMBERED}
    for name, place in places.items():
        found[name] = [(place[row[0]], *row[1:]) for row in found[name]]
    of_drop = places["drops"]
    found["prices"] = [(*row[:-1], of_drop[row[-1]]) for row in found["prices"]]
    found["rejected_rows"] = [(of_drop[row[0]], *row[1:]) for row in found["rejected_rows"]]
    found["daily_scores"] = [tuple(map(_rounded, row)) for row in found["daily_scores"]]
    return found


def _rounded(value: Any) -> Any:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def digest_of(rows: Rows) -> str:
    """A short text that is another for other rows."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()


# A process that may be harmed


def kill() -> None:
    """End this process, as if the power was cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """Say what the operating system says when there is no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), current_settings().store)


@dataclass
class Clock:
    """The clock of this process.

    Attributes:
        ahead: Of that of others, in seconds.
    """

    ahead: float = 0.0

    def set(self) -> None:
        """Have our code, Dagster's and the standard library go by it."""
        tell, ours = time.time, self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + timedelta(seconds=ours.ahead)

        for name, module in list(sys.modules.items()):
            is_it = name.startswith("stock_assets.") or name == "dagster._time"
            if is_it and vars(module).get("datetime") is datetime:
                patch.setattr(module, "datetime", Shifted)
        patch.setattr(time, "time", lambda: tell() + self.ahead)


clock = Clock()


def cut_connections() -> None:
    """End every connection to the database."""
    cut_off(current_settings().prediction_database_url)


def cut_off(url: str) -> None:
    """End every connection to a database in Postgres."""
    connecting = sa.create_engine(url)
    with connecting.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    connecting.dispose()


HARMS = {harm.__name__: harm for harm in (kill, fill_the_disk, cut_connections)}


@dataclass
class Fuse:
    """Does harm at the n-th moment of a kind.

    Attributes:
        kind: Of moment; empty to do none.
        number: The first is 1.
        harm: What is done.
        seen: How many moments of each kind there were.
        states: Digests of all rows after each of our commits, if they are asked for.
    """

    kind: str = ""
    number: int = 0
    harm: Callable[[], None] = kill
    seen: Counter[str] = field(default_factory=Counter)
    states: list[str] | None = None

    def burn(self, kind: str) -> None:
        """Note a moment of this kind."""
        self.seen[kind] += 1
        if (kind, self.seen[kind]) == (self.kind, self.number):
            self.harm()

    def lay(self) -> None:
        """Have every statement, commit, rename and written file of this process burn it."""
        self._lay_in_databases()
        replace = os.replace

        def renaming(*words: Any) -> None:
            self.burn("rename")
            replace(*words)
            self.burn("renamed")

        patch.setattr(os, "replace", renaming)
        patch.setattr(Path, "write_bytes", _written_in_halves(self))
        patch.setattr(Path, "open", _opened_for_halves(Path.open, self))

    def _lay_in_databases(self) -> None:
        ours: set[int] = set()
        make_engine = engine.new_engine

        def noted(url: sa.URL) -> sa.Engine:
            made = make_engine(url)
            ours.add(id(made.dialect))
            return made

        def whose(dialect: sa.Dialect) -> str:
            return "our" if id(dialect) in ours else "Dagster's"

        def before_statement(connection: sa.Connection, _: object, text: str, *__: object) -> None:
            if not text.lstrip().startswith(("SELECT", "PRAGMA", "BEGIN")):
                self.burn(f"{whose(connection.dialect)} statement")

        patch.setattr(engine, "new_engine", noted)
        sa.event.listen(sa.Engine, "before_cursor_execute", before_statement)
        default = sa.engine.default.DefaultDialect
        commit: Any = default.do_commit

        def burning(dialect: sa.Dialect, connection: Any) -> None:
            who = whose(dialect)
            self.burn(f"{who} commit")
            commit(dialect, connection)
            self.burn(f"{who} commit's end")
            if who == "our" and self.states is not None:
                self.states.append(digest_of(rows_at(current_settings().prediction_database_url)))

        patch.setattr(default, "do_commit", burning)


def _written_in_halves(fuse: Fuse) -> Callable[[Path, bytes], int]:
    def write_bytes(path: Path, content: bytes) -> int:
        with io.open(path, "wb", buffering=0) as file:  # noqa: UP020  Path.open is ours
            return _Halves(file, fuse).write(content)

    return write_bytes


def _opened_for_halves(opened: Callable[..., Any], fuse: Fuse) -> Callable[..., Any]:
    def open_path(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        file = opened(path, mode, *more, **options)
        return _Halves(file, fuse) if mode in {"xb", "wb"} else file

    return open_path


class _Halves:
    """A file that is written to in two halves."""

    def __init__(self, file: Any, fuse: Fuse) -> None:
        self._file, self._fuse = file, fuse

    def __enter__(self) -> "_Halves":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> int:
        """Write all of it, with a moment in the middle."""
        half = len(content) // 2
        self._file.write(content[:half])
        self._file.flush()
        self._fuse.burn("half a file")
        self._file.write(content[half:])
        return len(content)


def attempt(order: Mapping[str, Any], tell: int) -> None:
    """Do the work of an order in this process, and tell how it went, if it is spared."""
    os.dup2(2, 1)
    for name in [name for name in os.environ if name.startswith("STOCK_ASSETS_")]:
        del os.environ[name]
    os.environ |= {"STOCK_ASSETS_HOME": order["home"], "STOCK_ASSETS_MODELS": MODELS}
    os.environ |= {"DAGSTER_HOME": order["home"], **order["environment"]}
    current_settings.cache_clear()
    clock.ahead = order["clock"]
    fuse = Fuse(order["kind"], order["number"], HARMS[order["harm"]])
    if order["watched"]:
        fuse.states = []
    fuse.lay()
    begun = time.monotonic()
    error = ""
    try:
        WAYS[order["way"]](order["stage"])
    except Exception as raised:  # noqa: BLE001  it is told
        traceback.print_exc()
        error = in_words(raised) or f"{UNCLEAR} {type(raised).__name__}: {raised}"
    told = {"error": error, "seconds": time.monotonic() - begun}
    told |= {"seen": fuse.seen, "states": fuse.states}
    os.write(tell, json.dumps(told).encode())


@dataclass
class Child:
    """A process that follows an order, and what it tells."""

    pid: int
    ear: int

    @classmethod
    def of(cls, order: Mapping[str, Any]) -> "Child":
        """Fork it."""
        ear, mouth = os.pipe()
        pid = os.fork()
        if pid:
            os.close(mouth)
            return cls(pid, ear)
        code = 1
        try:
            attempt(order, mouth)
            code = 0
        finally:
            os._exit(code)

    def end(self, after: float) -> dict[str, Any]:
        """How it ended; it is killed if it has not after that many seconds."""
        ready, _, _ = select.select([self.ear], [], [], after)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        with open(self.ear, "rb") as told:  # noqa: PTH123  it is a pipe
            words = told.read()
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "late": not ready} | (json.loads(words) if words else {})


def remember() -> None:
    """Have what is made again and again made once: half of an attempt would be spent on it."""
    patch.setattr("stock_assets.sessions.get_calendar", cache(get_calendar))
    engines: dict[str, sa.Engine] = {}
    scripts: dict[str | None, ScriptDirectory] = {}
    read_scripts = ScriptDirectory.from_config

    def engine_at(url: str, **options: Any) -> sa.Engine:
        if url not in engines:  # which keeps no connection
            engines[url] = sa.create_engine(url, **options)
        return engines[url]

    def scripts_of(config: Config) -> ScriptDirectory:
        where = config.get_main_option("script_location")
        if where not in scripts:
            scripts[where] = read_scripts(config)
        return scripts[where]

    def engine_of_postgres(url: str, *_: object, **__: object) -> sa.Engine:
        options = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True}
        return sa.create_engine(url, isolation_level="AUTOCOMMIT", **options)

    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        patch.setattr(storage, "create_engine", engine_at)
    for storage in (run_storage, schedule_storage):
        patch.setattr(storage, "create_pg_engine", engine_of_postgres)
    patch.setattr(ScriptDirectory, "from_config", scripts_of)


def main() -> None:
    """Load and compile all there is; then follow orders."""
    remember()
    clock.set()
    life = Life(Path(sys.argv[1]))
    names = ("STOCK_ASSETS_HOME", "DAGSTER_HOME")
    os.environ |= dict.fromkeys(names, str(life.home)) | {"STOCK_ASSETS_MODELS": MODELS}
    for stage in range(len(STAGES)):
        life.drop(stage)
        by_hand(stage)
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        children = [Child.of(order) for _ in range(order["times"])]
        print(
            json.dumps([child.end(order["after"]) for child in children]), file=answers, flush=True
        )


# Who gives the orders


class Ended(NamedTuple):
    """How an attempt ended.

    Attributes:
        killed: It was, before its end.
        error: What is told of what it raised; empty if nothing. Where nobody would understand it,
            that is said first.
        seconds: It took.
        seen: Moments of each kind.
        states: Digests of all rows after each of our commits, if they were asked for.
    """

    killed: bool
    error: str = ""
    seconds: float = 0.0
    seen: Mapping[str, int] = {}
    states: Sequence[str] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Ended":
        """As the workshop tells it."""
        assert told["code"] in {0, -signal.SIGKILL}, told
        if told["code"]:
            return cls(killed=True)
        return cls(killed=False, **{name: told[name] for name in cls._fields[1:]})


@dataclass
class Workshop:
    """The process that forks.

    Attributes:
        process: It.
        number: How often it did.
    """

    process: subprocess.Popen[str]
    number: int = 0

    def attempt(
        self, life: "Life", stage: int, kind: str = "", number: int = 0, **more: Any
    ) -> Ended:
        """Have a child do the work of a stage; see `attempts`."""
        (ended,) = self.attempts(life, stage, kind, number, **more)
        return ended

    def attempts(  # noqa: PLR0913
        self,
        life: "Life",
        stage: int,
        kind: str = "",
        number: int = 0,
        *,
        harm: Callable[[], None] = kill,
        after: float | None = None,
        clock: float = 0.0,
        watched: bool = False,
        times: int = 1,
    ) -> list[Ended]:
        """Have children do the work of a stage, as far as it was not done.

        Args:
            life: Where.
            stage: Which.
            kind: Of moment at which harm comes to them.
            number: The first moment of the kind is 1.
            harm: What is done to them.
            after: So many seconds, and they are killed.
            clock: How many seconds theirs is ahead of ours.
            watched: Whether they tell the states of the database after each write.
            times: So many at once.
        """
        life.drop(stage)
        self.number += 1  # each begins later than the one before, though the clock goes fast
        order = {
            "home": str(life.home),
            "environment": life.environment,
            "stage": stage,
            "kind": kind,
            "number": number,
            "harm": harm.__name__,
            "after": PATIENCE_SECONDS if after is None else after,
            "clock": clock + (self.number * HOUR if life.way is by_itself else 0),
            "watched": watched,
            "times": times,
            "way": life.way.__name__,
        }
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        told = json.loads(self.process.stdout.readline())
        assert after is not None or not any(one["late"] for one in told), f"no end: {order}"
        return [Ended.of(one) for one in told]


@dataclass(frozen=True)
class Life:
    """A home and its database, from nothing to the last stage.

    Attributes:
        home: With our dagster.yaml.
        url: Of a Postgres; empty for SQLite.
        way: How work is done in it.
        more: Of its environment.
    """

    home: Path
    url: str = ""
    way: Callable[[int], None] = by_hand
    more: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, home: Path, url: str = "", way: Callable[[int], None] = by_hand, **more: str
    ) -> "Life":
        """Make the home."""
        return cls(new_home(home), url, way, more)

    def drop(self, stage: int) -> None:
        """Have the files of a stage come."""
        came = STAGES[stage].came
        for name in came if self.way is by_hand else came[:1]:
            path = self.home / "drops" / name
            if not path.exists():
                path.write_bytes(drops()[name])

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        return {"STOCK_ASSETS_DATABASE_URL": self.url, **self.more}

    def rows(self) -> Rows:
        """All rows of its database."""
        return rows_at(self.url or f"sqlite:///{self.home / 'predictions.db'}")

    @property
    def store(self) -> Files:
        """Where its files are kept."""
        bucket = self.more.get("STOCK_ASSETS_FILES")
        return files_at(f"{bucket}/store" if bucket else self.home / "store")

    def files(self) -> dict[str, str]:
        """The files of its store that can be seen, each with its digest."""
        seen = [name for name in names(self.store) if not _is_hidden(name)]
        contents = list(self.store.read_each(seen))
        return {
            name: hashlib.sha256(content).hexdigest()
            for name, content in zip(seen, contents, strict=True)
        }

    def leftovers(self) -> list[Path]:
        """The hidden ones, of a folder."""
        hidden = [name for name in names(self.store) if _is_hidden(name)]
        return [self.home / "store" / name for name in hidden]


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


@dataclass
class Undisturbed:
    """A life in which nobody is killed: what each stage takes and leaves.

    Attributes:
        ended: How the process of each stage ended.
        rows: After each stage.
        files: Of the store, after each stage.
        states: Digests of all rows after each write.
        wholes: Each file as it was ever written, by its digest.
    """

    ended: list[Ended] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)
    states: set[str] = field(default_factory=set)
    wholes: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, shop: Workshop, life: Life, stages: int = len(STAGES)) -> "Undisturbed":
        """Live such a life."""
        found = cls()
        for stage in range(stages):
            found._add(shop.attempt(life, stage, watched=True), life)
        return found

    def _add(self, ended: Ended, life: Life) -> None:
        assert (ended.killed, ended.error) == (False, ""), ended.error
        self.ended.append(ended)
        self.rows.append(life.rows())
        self.files.append(life.files())
        self.states.update(ended.states)
        self.wholes.update(self.files[-1].items())

    def demand_same(self, life: Life, stage: int, story: str) -> None:
        """See that a stage has left the same in another life."""
        rows = life.rows()
        for name, expected in self.rows[stage].items():
            assert rows[name] == expected, f"{name} after {story}"
        assert life.files() == self.files[stage], story


BEGIN = "from tests import breaking; breaking.main()"  # by the name that dagster.yaml has, too


@contextmanager
def workshop(folder: Path) -> Iterator[Workshop]:
    """The process, with everything loaded."""
    home = new_home(folder / "warm")
    log = folder / "workshop.log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", BEGIN, str(home)],
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert "ready\n" in lines, log.read_text()
        yield Workshop(process)
        process.kill()


def new_home(home: Path) -> Path:
    """A home where nothing was dropped yet."""
    (home / "drops").mkdir(parents=True, exist_ok=True)
    ours = (ROOT / "dagster_home" / "dagster.yaml").read_text()
    assert LAUNCHER in ours
    (home / "dagster.yaml").write_text(ours.replace(LAUNCHER, LAUNCHES_HERE) + NOTHING_KEPT)
    return home
