"""What was read of the database is remembered until somebody writes to it."""

import time
from asyncio import Future, Lock, Task, create_task, get_running_loop, shield
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio.to_thread import run_sync

LOOK_EVERY_SECONDS = 0.1
FORGET_AFTER_SECONDS = 60.0  # somebody may write past the platform
MOST = 4_096
NEVER = float("-inf")  # the clock may have begun a moment ago

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass
class _Batch(Generic[K, T]):
    """What is to be read at once."""

    keys: set[K]
    found: Future[Mapping[K, T]]


@dataclass
class Memory(Generic[K, T]):
    """Answers by what was asked, true as long as the database has the same count of writes.

    What is asked for while a read is under way is read at once after it.

    Attributes:
        count: Tells that count.
        read: Tells the answers; those it leaves out are not remembered.
    """

    count: Callable[[], int]
    read: Callable[[Collection[K]], Mapping[K, T]]
    _known: dict[K, T] = field(default_factory=dict)
    _as_of: int = -1  # count
    _looked: float = NEVER
    _doubts: int = 0
    _emptied: float = NEVER
    _looking: Lock = field(default_factory=Lock)
    _next: _Batch[K, T] | None = None
    _reading: Task[None] | None = None

    async def get(self, keys: Collection[K]) -> dict[K, T]:
        """The answers there are."""
        await self._look()
        found = {key: self._known[key] for key in keys if key in self._known}
        if lacking := {key for key in keys if key not in found}:
            read = await self._read_with_others(lacking)
            found |= {key: read[key] for key in lacking if key in read}
        return found

    def doubt(self) -> None:
        """Look at the count before the next answer: somebody is told of something new."""
        self._looked = NEVER
        self._doubts += 1

    async def _look(self) -> None:
        if time.monotonic() - self._looked <= LOOK_EVERY_SECONDS:
            return
        async with self._looking:
            now = time.monotonic()
            if now - self._looked <= LOOK_EVERY_SECONDS:
                return
            doubts = self._doubts
            count = await run_sync(self.count)
            if count != self._as_of or now - self._emptied > FORGET_AFTER_SECONDS:
                self._known, self._as_of, self._emptied = {}, count, now
            if doubts == self._doubts:
                self._looked = now

    async def _read_with_others(self, keys: set[K]) -> Mapping[K, T]:
        if self._next is None:
            self._next = _Batch(set(), get_running_loop().create_future())
        batch = self._next
        batch.keys |= keys
        if self._reading is None:
            self._reading = create_task(self._read_on())
        return await shield(batch.found)  # others wait for it too

    async def _read_on(self) -> None:
        while self._next is not None:
            batch, self._next = self._next, None
            as_of = self._as_of
            try:
                found = await run_sync(self.read, batch.keys)
            except Exception as error:  # noqa: BLE001  whoever waits is told
                batch.found.set_exception(error)
                continue
            batch.found.set_result(found)
            if as_of == self._as_of:
                if len(self._known) + len(found) > MOST:
                    self._known.clear()
                self._known |= found
        self._reading = None
