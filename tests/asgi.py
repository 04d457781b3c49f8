"""Asks an app as a server does: paths, headers and blocks arrive as they are written here."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

HOME = ("127.0.0.1", 50_000)


@dataclass(frozen=True)
class Answer:
    """What came back, and what the app noted of the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    scope: Scope

    def json(self) -> Any:
        """The document."""
        return json.loads(self.body)


def ask(  # noqa: PLR0913
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] = (),
    client: tuple[str, int] | None = HOME,
    is_whole: bool = True,
) -> Answer:
    """An answer; of a body that is not whole, the sender breaks off after the blocks."""
    blocks: list[Message] = [
        {"type": "http.request", "body": block, "more_body": True} for block in body
    ]
    end: Message = {"type": "http.request", "body": b"", "more_body": False}
    blocks.append(end if is_whole else {"type": "http.disconnect"})
    told: list[Message] = []
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ],
        "client": client,
        "server": ("127.0.0.1", 8000),
    }

    async def receive() -> Message:
        if not blocks:
            await asyncio.Event().wait()  # nobody breaks off
        return blocks.pop(0)

    async def send(message: Message) -> None:
        told.append(message)

    asyncio.run(_run(app(scope, receive, send)))
    start: Message = told[0] if told else {"status": 0, "headers": []}
    return Answer(
        status=start["status"],
        headers={name.decode(): value.decode() for name, value in start["headers"]},
        body=b"".join(message.get("body", b"") for message in told[1:]),
        scope=scope,
    )


async def _run(asked: Any) -> None:
    await asked
