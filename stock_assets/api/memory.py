"""What was read of the database is remembered until somebody writes to it."""

import time
from asyncio import Lock
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio.to_thread import run_sync

LOOK_EVERY_SECONDS = 0.1
FORGET_AFTER_SECONDS = 60.0  # somebody may write past the platform
MOST = 4_096

T = TypeVar("T")


@dataclass
class Memory(Generic[T]):
    """Answers by what was asked, true as long as the database has the same count of writes.

    Attributes:
        count: Tells that count.
    """

    count: Callable[[], int]
    _entries: dict[Hashable, T] = field(default_factory=dict)
    _known: int = -1
    _looked: float = 0
    _emptied: float = 0
    _lock: Lock = field(default_factory=Lock)

    async def known(self) -> tuple[int, dict[Hashable, T]]:
        """The count of writes, and what is known as of it."""
        if time.monotonic() - self._looked > LOOK_EVERY_SECONDS:
            async with self._lock:
                if time.monotonic() - self._looked > LOOK_EVERY_SECONDS:
                    await self._look()
        return self._known, self._entries

    def keep(self, count: int, asked: Hashable, found: T) -> None:
        """Remember what was read since the database had this count of writes."""
        if count == self._known:
            if len(self._entries) >= MOST:
                self._entries.clear()
            self._entries[asked] = found

    def doubt(self) -> None:
        """Look at the count before the next answer: somebody is told of something new."""
        self._looked = 0

    async def _look(self) -> None:
        now = time.monotonic()
        count = await run_sync(self.count)
        if count != self._known or now - self._emptied > FORGET_AFTER_SECONDS:
            self._entries, self._known, self._emptied = {}, count, now
        self._looked = now
