"""What Prometheus scrapes: facts of the database and of Dagster, and what the service counts."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from anyio.to_thread import run_sync

from stock_assets import metrics
from stock_assets.api.activity import read_activity
from stock_assets.api.dagster import Dagster
from stock_assets.api.figures import read_figures
from stock_assets.api.memory import NEVER
from stock_assets.api.reader import Reader
from stock_assets.metrics import Fact, Facts, Group
from stock_assets.settings import Settings

FRESH_SECONDS = 20.0  # facts are not read again
OLD_SECONDS = 60.0  # they are not told any more
PATIENCE_SECONDS = 0.15  # of a scrape, with a source; it is told what was known before

_log = structlog.get_logger("stock_assets.api")


class Monitor:
    """The metrics of one installation."""

    def __init__(self, settings: Settings, reader: Reader, dagster: Dagster) -> None:
        places = {"drops": settings.drop_folder, "store": settings.store}
        self._volumes = {name: path for name, path in places.items() if isinstance(path, Path)}
        self._reader = reader
        self._sources = (
            _Source("database", self._read_database),
            _Source("dagster", lambda: read_activity(dagster)),
        )

    async def exposition(self, groups: Collection[Group]) -> bytes:
        """The metrics of these groups, as text for Prometheus."""
        facts: dict[Fact, Any] = {}
        for told in await asyncio.gather(*(source.facts() for source in self._sources)):
            for fact, values in told.items():
                facts.setdefault(fact, {}).update(values)
        facts |= await run_sync(self._read_volumes)
        return metrics.exposition(groups, facts)

    async def _read_database(self) -> Facts:
        def read() -> Facts:
            with self._reader.engine.connect() as connection:
                return read_figures(connection, datetime.now(UTC).date())

        return await run_sync(read)

    def _read_volumes(self) -> Facts:
        usage = {name: shutil.disk_usage(_existing(path)) for name, path in self._volumes.items()}
        return {
            metrics.VOLUME_SIZE: {(name,): used.total for name, used in usage.items()},
            metrics.VOLUME_FREE: {(name,): used.free for name, used in usage.items()},
        }


class _Source:
    """Facts that are read anew when those that are known are some seconds old."""

    def __init__(self, name: str, read: Callable[[], Awaitable[Facts]]) -> None:
        self._name, self._read = name, read
        self._facts: Facts = {}
        self._seconds = 0.0
        self._at = NEVER
        self._reading: asyncio.Task[None] | None = None

    async def facts(self) -> Facts:
        """What is known, and whether the source is up."""
        if self._reading is None and time.monotonic() - self._at > FRESH_SECONDS:
            self._reading = asyncio.create_task(self._refresh())
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=PATIENCE_SECONDS)
        is_up = time.monotonic() - self._at <= OLD_SECONDS
        told = {(self._name,): float(is_up)}
        if not is_up:
            return {metrics.SOURCE_UP: told}
        seconds = {(self._name,): self._seconds}
        return {metrics.SOURCE_UP: told, metrics.SOURCE_SECONDS: seconds, **self._facts}

    async def _refresh(self) -> None:
        begun = time.monotonic()
        try:
            self._facts = await self._read()
            self._at = time.monotonic()
            self._seconds = self._at - begun
        except Exception as error:  # noqa: BLE001  whatever it is, the other source is told
            self._at = NEVER
            _log.warning("no metrics", source=self._name, error=str(error))
        finally:
            self._reading = None


def _existing(path: Path) -> Path:
    """The path, or the nearest one above it that there is."""
    return next(parent for parent in (path, *path.parents) if parent.exists())
