"""Processes that run and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from stock_assets.errors import SetupError

_LOOK_EVERY_SECONDS = 0.1
_PATIENCE_SECONDS = 30


def in_a_process(work: Callable[[], None]) -> None:
    """Have work done in a process of its own, whose memory goes with it; its errors are raised."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(work).result()


def demand_free(port: int) -> None:
    """See that a port of this machine can be listened on.

    Raises:
        SetupError: Somebody else does.
    """
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise SetupError(
            f"Port {port} is taken: end what listens there, or choose others: "
            "stock-assets up --port 3001 --api-port 8001"
        ) from error


def run_together(*commands: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run Python with each of these arguments until one ends or a signal comes; then all end.

    Returns:
        The exit code: 0 if a signal ended it, else that of the one that ended first.
    """
    codes: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda *_: codes.append(0))
    everywhere = os.environ | environment
    processes = [
        subprocess.Popen([sys.executable, *words], env=everywhere, process_group=0)  # noqa: S603
        for words in commands
    ]
    while not codes:  # no lock or queue wakes for every signal
        time.sleep(_LOOK_EVERY_SECONDS)
        codes += [process.returncode for process in processes if process.poll() is not None]
    for process in processes:
        _send(process, signal.SIGINT)
    for process in processes:
        _wait_for(process)
    return codes[0]


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Have patience with it, and with those that it began, but not forever."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None or _send(process, 0):
        if time.monotonic() > end:
            _send(process, signal.SIGKILL)
            process.wait()
            break
        time.sleep(_LOOK_EVERY_SECONDS)


def _send(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to it and all that it began, as Ctrl-C does; whether somebody is there."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
