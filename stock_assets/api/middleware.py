"""What every answer has: an id, headers for browsers, a line in the log, its share in metrics."""

import re
import time
from http import HTTPStatus
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stock_assets.api.problems import problem
from stock_assets.metrics import REQUEST_SECONDS, REQUESTS

_log = structlog.get_logger("stock_assets.api")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = {"/healthz", "/readyz", "/metrics"}  # asked all the time
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Answered:
    """Wraps the app; an error that nobody has foreseen is logged, and told as a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else uuid4().hex[:16]
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:  # noqa: BLE001  whatever it is, somebody waits for an answer
            _log.exception("failed", request_id=request_id, path=scope["path"])
            if not status:
                detail = f"The service failed; its log tells more of request {request_id}."
                told = problem(request_id, HTTPStatus.INTERNAL_SERVER_ERROR, detail)
                await told(scope, receive, send_with_headers)
        finally:
            _note(scope, status, time.perf_counter() - begun)


def _note(scope: Scope, status: int, seconds: float) -> None:
    """Count an answer, and log it; status 0 says that nobody waited for it to the end."""
    route = getattr(scope.get("route"), "path", "none")
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS.labels(method, route, status).inc()
    REQUEST_SECONDS.labels(method, route).observe(seconds)
    log = _log.debug if scope["path"] in _QUIET else _log.info
    log(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        ms=round(1000 * seconds, 2),
        key=scope["state"].get("key"),
        client=scope["client"] and scope["client"][0],
        request_id=scope["state"]["request_id"],
    )


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
