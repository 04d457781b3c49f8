"""Processes that run and end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Event, Thread

_PATIENCE_SECONDS = 30


def in_a_process(work: Callable[[], None]) -> None:
    """Have work done in a process of its own, whose memory goes with it; its errors are raised."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(work).result()


def run_together(*commands: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run Python with each of these arguments until one ends or a signal comes; then all end.

    Returns:
        The exit code: 0 if a signal ended it, else that of the one that ended first.
    """
    over, codes = Event(), []

    def end(code: int) -> None:
        codes.append(code)
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end(0))
    everywhere = os.environ | environment
    processes = [subprocess.Popen([sys.executable, *words], env=everywhere) for words in commands]  # noqa: S603
    for process in processes:
        Thread(target=lambda one: end(one.wait()), args=[process], daemon=True).start()
    over.wait()
    for process in processes:
        _end(process)
    return codes[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, which the process may have had from the terminal already, and patience."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
