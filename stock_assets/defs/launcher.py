"""Runs as processes of this machine, and what becomes of those that are lost."""

import os
import platform
import signal
import sys
import time
from multiprocessing import get_context

import dagster as dg
import psutil
from dagster._cli.api import _execute_run_command_body
from dagster._core.instance import InstanceRef
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._utils.interrupts import capture_interrupts

MACHINE_TAG = "stock_assets/machine"
LIBRARIES = (  # none of our own code: a run has what its author has just written
    "dagster._cli.api",
    "dagster_postgres",
    "exchange_calendars",
    "numba",
    "pandas",
    "pandera.pandas",
    "pyarrow.parquet",
    "scipy.special",
    "sklearn.linear_model",
)
_NICE = 10  # as the command nice has it

_forking = get_context("forkserver")
_forking.set_forkserver_preload([*LIBRARIES])
_processes = _forking if sys.platform == "linux" else get_context("spawn")


class ForkedRuns(dg.DefaultRunLauncher):
    """Forks each run from a process that has the libraries loaded.

    A run that Dagster's own launcher begins loads them anew, which takes it 2 s of a processor.
    Where processors are short, runs stand back behind those who answer people.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Begin a run."""
        run_id = context.dagster_run.run_id
        self._instance.add_run_tags(run_id, {MACHINE_TAG: platform.node()})
        _processes.Process(target=_execute, args=(run_id, self._instance.get_ref())).start()

    def terminate(self, run_id: str) -> bool:
        """Have a run end; tells whether it will. That of a command ends with its command alone."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not self._instance.get_run_stats(run_id).launch_time:
            return False
        told = _worker(self._instance, run)
        process = _alive(*told) if told and _is_here(run) else None
        if process is None:
            return False
        self._instance.report_run_canceling(run)
        try:
            process.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:  # it has just ended
            return False
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask for it."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run lives; those of other machines are not ours to judge.

        Whether its id is another's by now is not asked: after a clock was set it would seem so.
        """
        told = _worker(self._instance, run)
        is_lost = told and _is_here(run) and not _alive(told[0], time.time())
        return CheckRunHealthResult(WorkerStatus.FAILED if is_lost else WorkerStatus.RUNNING)


def _execute(run_id: str, ref: InstanceRef) -> None:
    os.nice(_NICE)
    with capture_interrupts(), dg.DagsterInstance.from_ref(ref) as instance:
        _execute_run_command_body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)


def _is_here(run: dg.DagsterRun) -> bool:
    return run.tags.get(MACHINE_TAG, platform.node()) == platform.node()


def fail_lost_runs(instance: dg.DagsterInstance, *, is_shared: bool = False) -> None:
    """End the runs whose process on this machine is gone, as after a power cut.

    Dagster's monitoring notices most of them, too, but takes each for a try of the run, which is
    not to blame: it is tried again, however often that happens.

    Args:
        instance: Whose runs.
        is_shared: Other machines may have runs there, too, which are not ours to judge.
    """
    in_progress = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
        tags={MACHINE_TAG: platform.node()} if is_shared else None,
    )
    for run in instance.get_runs(in_progress):
        told = _worker(instance, run)
        if not told or not _alive(*told):
            if tries := int(run.tags.get(MAX_RETRIES_TAG, instance.run_retries_max_retries)):
                instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: f"{tries + 1}"})
            instance.report_run_failed(run, "The process of this run was lost.")


def _worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """The process that works at a run and when it said so, if it has."""
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    told = [
        (int(str(metadata["pid"].value)), entry.timestamp)
        for entry in entries
        if "pid" in (metadata := entry.get_dagster_event().engine_event_data.metadata)
    ]
    return told[-1] if told else None


def _alive(pid: int, at: float) -> psutil.Process | None:
    """The process that had this id at that time, if it still runs.

    A dead one may linger until it is reaped, and its id may be another's by now.
    """
    try:
        process = psutil.Process(pid)
        is_it = process.create_time() <= at and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_it else None
