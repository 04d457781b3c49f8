"""Processes that run together end together, and an error comes through from another process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from stock_assets.errors import SetupError
from stock_assets.supervision import in_a_process

PARENT = """
import json, signal, sys
from stock_assets import supervision
told = json.loads(sys.argv[1])
exec(told["before"])
supervision._PATIENCE_SECONDS = told["patience"]
commands = [["-c", code] for code in told["commands"]]
code = supervision.run_together(*commands, environment={"TOLD": "by the parent"})
print("over", flush=True)
sys.exit(code)
"""

UP = """
import os, time
os.write(1, b"up %d\\n" % os.getpid())
"""
ENDS = UP + "input(); raise SystemExit({})"
STAYS = UP + "while True: time.sleep(0.01)"
SLEEPS = "[sys.executable, '-c', 'import time; time.sleep(1000)']"
BEGINS = f"import subprocess, sys; subprocess.Popen({SLEEPS})" + STAYS
IGNORES = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + STAYS
TIDIES_UP = """
import os, time
from pathlib import Path
try:
    os.write(1, b"up %d\\n" % os.getpid())
    while True: time.sleep(0.01)
except KeyboardInterrupt:
    {}
    os.write(1, b"tidied\\n")
"""


@dataclass
class Family:
    """A process, and those that it runs together."""

    parent: subprocess.Popen[str]
    children: list[int]

    def end(self, text: str = "") -> tuple[int, list[str]]:
        """Its exit code, and what is said until then; nobody is left."""
        said, _ = self.parent.communicate(text, 60)
        assert not [pid for pid in self.children if psutil.pid_exists(pid)]
        return self.parent.returncode, said.splitlines()


@contextmanager
def family(*commands: str, patience: float = 20, before: str = "") -> Iterator[Family]:
    """Run them together, once the parent has done something; it begins when all are up."""
    told = json.dumps({"patience": patience, "commands": commands, "before": before})
    with ExitStack() as at_the_end:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        at_the_end.enter_context(parent)
        at_the_end.callback(parent.kill)
        assert parent.stdout
        pids = [int(parent.stdout.readline().split()[1]) for _ in commands]
        at_the_end.callback(_kill, pids)
        yield Family(parent, pids)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_when_one_ends_all_do_with_its_code(code: int, place: int) -> None:
    commands = [STAYS, STAYS]
    commands.insert(place, ENDS.format(code))
    with family(*commands) as one:
        assert one.end("\n") == (code, ["over"])


def test_one_that_is_killed_ends_all_with_a_code_that_is_no_success() -> None:
    with family(STAYS, STAYS) as one:
        os.kill(one.children[0], signal.SIGKILL)
        assert one.end()[0] != 0


def test_those_that_a_killed_one_has_begun_end_too() -> None:
    with family(BEGINS, STAYS) as one:
        (begun,) = [more for pid in one.children for more in psutil.Process(pid).children()]
        os.kill(begun.ppid(), signal.SIGKILL)
        one.end()
        assert psutil.wait_procs([begun], timeout=10)[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_and_is_a_success(number: signal.Signals) -> None:
    with family(STAYS, STAYS) as one:
        one.parent.send_signal(number)
        assert one.end() == (0, ["over"])


def test_ctrl_c_which_all_get_ends_all_and_is_a_success() -> None:
    with family(STAYS, STAYS) as one:
        os.killpg(one.parent.pid, signal.SIGINT)
        assert one.end() == (0, ["over"])


@pytest.mark.parametrize("first", [True, False])
def test_who_tidies_up_is_waited_for_and_all_are_told_at_once(tmp_path: Path, first: bool) -> None:  # noqa: FBT001
    mark = f"Path({str(tmp_path / 'told')!r})"
    waits = TIDIES_UP.format(f"while not {mark}.exists(): time.sleep(0.01)")
    marks = TIDIES_UP.format(f"{mark}.touch()")
    with family(*[waits, marks] if first else [marks, waits], patience=5) as one:
        one.parent.send_signal(signal.SIGTERM)
        assert one.end() == (0, ["tidied", "tidied", "over"])


def test_who_is_begun_by_nohup_outlives_the_terminal() -> None:
    with family(STAYS, before="signal.signal(signal.SIGHUP, signal.SIG_IGN)") as one:
        one.parent.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            one.parent.wait(0.5)
        one.parent.send_signal(signal.SIGTERM)
        assert one.end() == (0, ["over"])


def test_more_signals_change_nothing() -> None:
    with family(*[TIDIES_UP.format("time.sleep(0.5)")] * 2) as one:
        for _ in range(20):
            one.parent.send_signal(signal.SIGTERM)
            one.parent.send_signal(signal.SIGINT)
        assert one.end() == (0, ["tidied", "tidied", "over"])


def test_one_that_will_not_end_is_killed_after_a_while() -> None:
    with family(IGNORES, STAYS, patience=0.5) as one:
        one.parent.send_signal(signal.SIGINT)
        assert one.end() == (0, ["over"])


def test_they_get_the_environment_with_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "of the shell")
    with family(UP + 'input(); print(f\'{os.environ["OUTER"]} {os.environ["TOLD"]}\')') as one:
        assert one.end("\n") == (0, ["of the shell by the parent", "over"])


# Work in a process of its own


def _fail() -> None:
    raise SetupError("STOCK_ASSETS_X is wrong.")


def _note_process(folder: Path) -> None:
    (folder / str(os.getpid())).touch()


def test_work_is_done_in_a_process_that_is_gone_after_it(tmp_path: Path) -> None:
    in_a_process(partial(_note_process, tmp_path))
    (file,) = tmp_path.iterdir()
    assert int(file.name) != os.getpid()
    assert not psutil.pid_exists(int(file.name))


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    with pytest.raises(SetupError, match=r"^STOCK_ASSETS_X is wrong\.$"):
        in_a_process(_fail)
