"""Dagster's web UI, which asks nobody for a password, keeps pages of other sites out.

By itself it does what any address says, such as /graphql?query=mutation..., whoever's page has it.
"""

import os
from typing import Any

from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from stock_assets.sites import LOOPBACK, headers_of, host_of, is_of_another_site, without_port


def keep_out_other_sites() -> None:
    """Have the web server of this process, which has not begun yet, do so."""
    build = DagsterWebserver.build_middleware

    def build_with_ours(server: Any) -> list[Middleware]:
        return [Middleware(OwnPages), *build(server)]

    DagsterWebserver.build_middleware = build_with_ours  # type: ignore[assignment, method-assign]


class OwnPages:
    """Passes on what its own pages ask for, and what no page does; a link may open a page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        is_up = "DAGSTER_IS_DEV_CLI" in os.environ  # it listens to this machine alone
        self._hosts = LOOPBACK if is_up else frozenset[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan" or self._is_welcome(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = PlainTextResponse("Pages of other sites may not call Dagster.", 403)
            await refusal(scope, receive, send)

    def _is_welcome(self, scope: Scope) -> bool:
        headers = headers_of(scope)
        if self._hosts and without_port(host_of(headers)) not in self._hosts:
            return False
        is_link = headers.get(b"sec-fetch-mode") == b"navigate" and scope.get("method") == "GET"
        is_page = scope["type"] == "http" and "/graphql" not in scope["path"]
        return (is_link and is_page) or not is_of_another_site(headers)
