"""The service's log: one JSON document a line, or plain words on a terminal."""

import logging
import sys
from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def set_up_logs(level: str) -> None:
    """Write what is at least this important to standard output, uvicorn's words too."""
    is_terminal = sys.stdout.isatty()
    renders = (
        [structlog.dev.ConsoleRenderer()]
        if is_terminal
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*_SHARED, *renders],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renders],
        )
    )
    logging.basicConfig(handlers=[handler], level="WARNING", force=True)  # of libraries
