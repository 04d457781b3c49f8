"""Processes that run and end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Event, Thread
from types import FrameType

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

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        codes.append(0)
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)

    def watch(process: subprocess.Popen[bytes]) -> None:
        codes.append(process.wait())
        over.set()

    everywhere = os.environ | environment
    processes = [subprocess.Popen([sys.executable, *words], env=everywhere) for words in commands]  # noqa: S603
    for process in processes:
        Thread(target=watch, args=[process], daemon=True).start()
    over.wait()
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return codes[0]
