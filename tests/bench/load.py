"""HTTP load on this machine, from one process, with latencies by the clock of the schedule."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

CONNECTIONS = 16


@dataclass
class Load:
    """What was measured.

    Attributes:
        seconds: From when each request was due to the end of its answer.
        failed: Answers that are no success.
        wall: Of all.
    """

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    wall: float = 0.0

    def milliseconds(self, share: float) -> float:
        """Such a share of the answers came within that time."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall


class Connection(asyncio.Protocol):
    """A connection that is kept; one request at a time, answers with a Content-Length."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._length = -1
        self._waiting: asyncio.Future[int] | None = None

    @classmethod
    async def to(cls, port: int) -> Self:
        """A new connection to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(cls, "127.0.0.1", port)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where requests go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> Awaitable[int]:
        """The status of the answer, when all of it is there."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        """Take what has come of the answer."""
        self._buffer += data
        if self._length < 0 and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            self._length = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if 0 <= self._length <= len(self._buffer):
            status = int(self._buffer[9:12])
            del self._buffer[: self._length]
            self._length = -1
            assert self._waiting
            self._waiting.set_result(status)

    def connection_lost(self, _: Exception | None) -> None:
        """Fail what waits for an answer."""
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(0)

    def close(self) -> None:
        """Leave."""
        self._transport.close()


def get(path: str) -> bytes:
    """A request of a page."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A request with JSON in it."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def steady(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """So many requests a second, whether earlier ones are answered or not."""

    async def send(loaded: Load, free: asyncio.Queue[Connection]) -> None:
        tasks = []
        for number in range(int(rate * seconds)):
            due = loaded.wall + number / rate
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            request = requests[number % len(requests)]
            tasks.append(asyncio.create_task(_ask(loaded, free, request, due)))
        await asyncio.gather(*tasks)

    return asyncio.run(_loaded(port, send))


def flat_out(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """As many requests as are answered; each connection asks as soon as it has an answer."""

    async def send(loaded: Load, free: asyncio.Queue[Connection]) -> None:
        async def keep_asking(first: int) -> None:
            number = first
            while (now := time.perf_counter()) < loaded.wall + seconds:
                await _ask(loaded, free, requests[number % len(requests)], now)
                number += CONNECTIONS

        await asyncio.gather(*(keep_asking(first) for first in range(CONNECTIONS)))

    return asyncio.run(_loaded(port, send))


async def _loaded(
    port: int, send: Callable[[Load, asyncio.Queue[Connection]], Awaitable[None]]
) -> Load:
    free: asyncio.Queue[Connection] = asyncio.Queue()
    connections = [await Connection.to(port) for _ in range(CONNECTIONS)]
    for connection in connections:
        free.put_nowait(connection)
    loaded = Load(wall=time.perf_counter())
    await send(loaded, free)
    loaded.wall = time.perf_counter() - loaded.wall
    for connection in connections:
        connection.close()
    return loaded


async def _ask(loaded: Load, free: asyncio.Queue[Connection], request: bytes, due: float) -> None:
    connection = await free.get()
    status = await connection.ask(request)
    loaded.seconds.append(time.perf_counter() - due)
    loaded.failed += not 200 <= status < 300
    free.put_nowait(connection)
