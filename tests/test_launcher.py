"""Runs in processes of their own: begun, canceled, watched, and what becomes of lost ones."""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration

from stock_assets.defs.launcher import LIBRARIES, _alive, _forking, fail_lost_runs
from stock_assets.settings import current_settings
from tests.commands import wait_until
from tests.conftest import home_of_settings

STATUS = dg.DagsterRunStatus
NOW = time.time
LOG = logging.getLogger(__name__)
JOB = """
import json, os, time
from pathlib import Path
import dagster as dg

HERE = Path(__file__).parent

@dg.op
def tell():
    text = json.dumps({"pid": os.getpid(), "nice": os.nice(0)})
    (HERE / "unfinished").write_text(text)
    (HERE / "unfinished").rename(HERE / "told")
    while not (HERE / "over").exists():
        time.sleep(0.01)

@dg.job(executor_def=dg.in_process_executor)
def tells():
    tell()
"""


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:  # noqa: ARG001
    with dg.DagsterInstance.get() as instance:
        yield instance


@dataclass
class Launched:
    """A run that works until it is told to end."""

    instance: dg.DagsterInstance
    folder: Path

    def __post_init__(self) -> None:
        """Have it launched, and wait until it works."""
        (self.folder / "job.py").write_text(JOB)
        job = ReconstructableJob.for_file(f"{self.folder / 'job.py'}", "tells")
        origin = job.get_python_origin()
        run = self.instance.create_run_for_job(job.get_definition(), job_code_origin=origin)
        self.id = run.run_id
        self.instance.launch_run(self.id, workspace=None)  # type: ignore[arg-type]
        wait_until("work", (self.folder / "told").exists, seconds=60)
        self.told: dict[str, int] = json.loads((self.folder / "told").read_text())
        self.process = psutil.Process(self.told["pid"])

    @property
    def run(self) -> dg.DagsterRun:
        """As Dagster knows it now."""
        run = self.instance.get_run_by_id(self.id)
        assert run
        return run

    def wait_for(self, status: dg.DagsterRunStatus) -> None:
        """Wait until Dagster knows it as such."""
        wait_until(status.value, lambda: self.run.status is status, seconds=30)

    def wait_until_gone(self) -> None:
        """Wait until its process is no more."""
        told = self.told["pid"], time.time()
        wait_until("its end", lambda: not _alive(*told), seconds=30)

    def monitor(self) -> None:
        """Do what the daemon does every few seconds."""
        with WorkspaceProcessContext(self.instance, EmptyWorkspaceTarget()) as workspace:
            assert not any(execute_run_monitoring_iteration(workspace, LOG))


@pytest.fixture(scope="module")
def one_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """One, as the process that runs are forked from has the environment of the first of them."""
    with home_of_settings(tmp_path_factory.mktemp("one")), dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def launched(one_instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(one_instance, tmp_path)
    yield launched
    (tmp_path / "over").touch()
    launched.wait_until_gone()


def test_a_run_is_a_process_of_its_own_which_stands_back(launched: Launched) -> None:
    assert launched.told["pid"] != os.getpid()
    assert launched.told["nice"] == min(19, os.nice(0) + 10)
    launched.monitor()
    assert launched.run.status is STATUS.STARTED
    (launched.folder / "over").touch()
    launched.wait_for(STATUS.SUCCESS)


def test_it_finds_the_libraries_loaded_and_our_own_code_not(tmp_path: Path) -> None:
    """So that a run has what was written last; a library that is not there is passed over."""
    file = tmp_path / "loaded"
    tell = f"import sys; open({f'{file}'!r}, 'w').write('\\n'.join(sys.modules))"
    process = _forking.Process(target=exec, args=(tell,))
    process.start()
    process.join()
    loaded = {*file.read_text().split()}
    assert {*LIBRARIES} <= loaded
    assert "stock_assets" not in loaded


def test_a_run_outlives_the_process_that_it_was_forked_from(launched: Launched) -> None:
    """Another one takes its place for the next run, here of the next test."""
    forked_from = launched.process.parent()
    assert forked_from
    forked_from.kill()
    wait_until("its end", lambda: forked_from.status() == psutil.STATUS_ZOMBIE, seconds=30)
    launched.monitor()
    (launched.folder / "over").touch()
    launched.wait_for(STATUS.SUCCESS)


def test_a_run_that_is_canceled_ends(launched: Launched) -> None:
    assert launched.instance.run_launcher.terminate(launched.id)
    launched.wait_for(STATUS.CANCELED)
    assert not launched.instance.run_launcher.terminate(launched.id)


def test_a_run_whose_process_is_killed_fails_and_is_not_canceled(launched: Launched) -> None:
    launched.process.kill()
    launched.wait_until_gone()
    assert not launched.instance.run_launcher.terminate(launched.id)
    launched.monitor()
    assert launched.run.status is STATUS.FAILURE
    assert launched.run.tags["dagster/will_retry"] == "true"


def test_a_run_goes_on_when_the_clock_is_set(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = launched.process.create_time()
    for hours in (-2, 2):  # when a process began is told by the clock of now
        told = begun + 3600 * hours
        monkeypatch.setattr(psutil.Process, "create_time", lambda _, told=told: told)
        monkeypatch.setattr(time, "time", lambda hours=hours: NOW() + 3600 * hours)
        launched.monitor()
        assert launched.run.status is STATUS.STARTED


def test_a_run_that_ends_while_it_is_canceled_is_no_error(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        launched.process.kill()
        launched.wait_until_gone()

    monkeypatch.setattr(dg.DagsterInstance, "report_run_canceling", too_late)
    assert not launched.instance.run_launcher.terminate(launched.id)


def test_a_run_of_another_machine_is_not_judged(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched.process.kill()
    launched.wait_until_gone()
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "another")
        launched.monitor()
    assert launched.run.status is STATUS.STARTED


def test_a_commands_run_is_watched_but_ends_with_its_command_alone(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset
    def tries_to_end_it(context: dg.AssetExecutionContext) -> str:
        launcher = context.instance.run_launcher
        ends = launcher.terminate(context.run.run_id)
        return f"{ends} {launcher.check_run_worker_health(context.run).status.value}"

    result = dg.materialize([tries_to_end_it], instance=instance)
    assert result.output_for_node("tries_to_end_it") == "False RUNNING"


# Lost runs


def test_a_run_whose_process_lives_is_not_lost(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def looks_for_lost_runs(context: dg.AssetExecutionContext) -> str:
        fail_lost_runs(context.instance)
        run = context.instance.get_run_by_id(context.run.run_id)
        return run.status.value if run else "gone"

    result = dg.materialize([looks_for_lost_runs], instance=instance)
    assert result.output_for_node("looks_for_lost_runs") == "STARTED"


DIES = """
import os, signal, dagster as dg

@dg.asset
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

dg.materialize([dies], instance=dg.DagsterInstance.get())
"""


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_run_whose_process_is_gone_is_ended(
    instance: dg.DagsterInstance, *, is_reaped: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", DIES]) as killed:
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # dead, and left as a zombie
        if is_reaped:
            assert killed.wait() == -signal.SIGKILL
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.STARTED
        fail_lost_runs(instance)
    (run,) = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("machine", ["this", "another"])
def test_of_a_shared_database_runs_of_this_machine_alone_are_ended(
    home: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", postgres_database)
    monkeypatch.setattr(platform, "node", lambda: "this")
    current_settings.cache_clear()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for of in (machine, "another"):  # who has it tried again is whose it is
            run = dg.DagsterRun(
                "ingest_drop", status=dg.DagsterRunStatus.STARTED, tags={"stock_assets/machine": of}
            )
            monkeypatch.setattr(platform, "node", lambda: machine)
            run_id = instance.add_run(run).run_id
            monkeypatch.setattr(platform, "node", lambda: "this")
            fail_lost_runs(instance, is_shared=True)
            found = instance.get_run_by_id(run_id)
            assert found
            is_ended = found.status is dg.DagsterRunStatus.FAILURE
            assert is_ended is (machine == "this")


@pytest.mark.parametrize(
    ("most", "will_retry"), [({}, "true"), ({"dagster/max_retries": "0"}, "false")]
)
def test_to_be_lost_with_its_session_counts_as_no_try(
    instance: dg.DagsterInstance, most: dict[str, str], will_retry: str
) -> None:
    """But a command's runs are never tried again by daemons."""
    first = last = None
    for _ in range(2 + 3):
        run = dg.DagsterRun(
            job_name="ingest_drop",
            run_id=str(uuid4()),
            status=dg.DagsterRunStatus.STARTED,
            root_run_id=first,
            parent_run_id=last,
            tags=last_tags(instance, last) | most,
        )
        instance.add_run(run)
        fail_lost_runs(instance)
        found = instance.get_run_by_id(run.run_id)
        assert found
        assert (found.status, found.tags["dagster/will_retry"]) == (
            dg.DagsterRunStatus.FAILURE,
            will_retry,
        )
        first, last = first or run.run_id, run.run_id


def last_tags(instance: dg.DagsterInstance, run_id: str | None) -> dict[str, str]:
    """The tags that the next try of a run inherits."""
    run = instance.get_run_by_id(run_id) if run_id else None
    tags = run.tags if run else {}
    return {name: text for name, text in tags.items() if name == "dagster/max_retries"}


def test_a_process_is_not_the_one_that_had_its_id_before() -> None:
    assert _alive(os.getpid(), time.time())
    assert not _alive(os.getpid(), psutil.Process().create_time() - 1)
