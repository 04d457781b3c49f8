"""What every answer has: an id, headers for browsers, a line in the log, its share in metrics."""

import re
import time
from functools import cache
from http import HTTPStatus
from random import getrandbits

import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stock_assets.api.problems import ProblemError, problem
from stock_assets.metrics import REQUEST_SECONDS, REQUESTS

_log = structlog.get_logger("stock_assets.api")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET = {"/healthz", "/readyz", "/metrics"}  # asked all the time
_HEADERS = [
    (
        b"content-security-policy",
        (
            b"default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
            b"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
    ),
    (b"cache-control", b"no-cache"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


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
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = asked.decode() if _ID.fullmatch(asked) else f"{getrandbits(64):016x}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = message["headers"]
                known = {name for name, _ in told}
                told += [header for header in _HEADERS if header[0] not in known]
                told.append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ProblemError as error:  # of access, which is inside
            told = problem(request_id, error.status, str(error), error.headers)
            await told(scope, receive, send_with_headers)
        except ClientDisconnect:  # nobody waits
            pass
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
    count, duration = _metrics(method, route, status)
    count.inc()
    duration.observe(seconds)
    is_quiet = scope["path"] in _QUIET and status == HTTPStatus.OK
    log = _log.debug if is_quiet else _log.info
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


@cache
def _metrics(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, status), REQUEST_SECONDS.labels(method, route)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
