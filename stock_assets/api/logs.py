"""The service's log: one JSON document a line, or plain words on a terminal."""

import atexit
import json
import logging
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Any, TextIO

import structlog

_MOMENT_SECONDS = 0.2
_encode = json.JSONEncoder(default=str).encode


class Batches:
    """A stream that writes what came within a moment at once: a system call a line is dear."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._come = Event()
        self._draining = Lock()
        Thread(target=self._write_on, daemon=True).start()
        atexit.register(self._drain)

    def write(self, line: str) -> None:
        """Take a line."""
        self._lines.append(line)
        self._come.set()

    def flush(self) -> None:
        """Nothing is lost if the process ends by itself."""

    def _write_on(self) -> None:
        while True:
            self._come.wait()
            time.sleep(_MOMENT_SECONDS)
            self._come.clear()
            self._drain()

    def _drain(self) -> None:
        with self._draining, suppress(OSError):  # nobody may read it any more
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._stream.write("".join(lines))
            self._stream.flush()


def set_up_logs(level: str) -> None:
    """Write what is at least this important to standard output, uvicorn's words too."""
    if sys.stdout.isatty():
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        renders: list[Any] = [
            structlog.stdlib.add_log_level,
            stamp,
            structlog.dev.ConsoleRenderer(
                exception_formatter=structlog.dev.plain_traceback, repr_native_str=True
            ),
        ]
    else:
        transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # has keys
        renders = [structlog.processors.ExceptionRenderer(transform), _as_json]
    stream: Any = Batches(sys.stdout)
    structlog.configure(
        processors=renders,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renders]
        )
    )
    logging.basicConfig(handlers=[handler], level="WARNING", force=True)  # of libraries


def _as_json(_logger: Any, level: str, event: structlog.typing.EventDict) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return _encode({"at": at, "level": level, **event})
