"""Who may do what, and how often."""

import re
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from stock_assets.api.problems import ProblemError, documented
from stock_assets.errors import SetupError
from stock_assets.keys import Key, Scope, key_of
from stock_assets.settings import Settings

_PORT = re.compile(r":\d+$")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Access:
    """Admits requests: with a key where there are keys, else from this machine's own pages."""

    def __init__(self, keys: Collection[Key], rate: str, *, hosts: Collection[str] = ()) -> None:
        """Take keys and how many requests each may make.

        Args:
            keys: Those that are admitted; if there is none, everybody is.
            rate: Such as 100/second.
            hosts: Names that the service may be called by; any if none is given.

        Raises:
            SetupError: The rate is none.
        """
        try:
            self._rate = parse(rate)
        except ValueError as error:
            raise SetupError(
                f"STOCK_ASSETS_API_RATE_LIMIT is {rate!r}. Expected one such as 100/second"
            ) from error
        self._keys = keys
        self._hosts = hosts
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def demand(self, scope: Scope) -> Any:
        """What a route depends on that needs this scope."""
        if not self._keys:

            async def open_to_all(request: Request) -> None:
                self._check_origin(request)

            return Depends(open_to_all)

        bearer = HTTPBearer(auto_error=False, description="A key, as `stock-assets key` prints it.")

        async def with_key(
            request: Request,
            told: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        ) -> None:
            self._check_key(request, told.credentials if told else None, scope)

        return Depends(with_key)

    def problems(self, *statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
        """The problems of a route, those of access among them, as OpenAPI lists them."""
        of_access = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS) if self._keys else ()
        return documented(*of_access, HTTPStatus.FORBIDDEN, *statuses)

    def _check_origin(self, request: Request) -> None:
        """Keep other sites' pages, which run in browsers on this machine, from the service."""
        host = _PORT.sub("", request.headers.get("host", ""))
        if self._hosts and host not in self._hosts:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"Without keys the service is not to be called {host}."
            )
        if request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, "Without keys, pages of other sites may not call the service."
            )

    def _check_key(self, request: Request, secret: str | None, scope: Scope) -> None:
        key = key_of(secret, self._keys) if secret else None
        client = request.client.host if request.client else "unknown"
        self._count(f"key {key.name}" if key else f"address {client}")
        if key is None:
            why = "That key is not known." if secret else "A key is needed."
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED,
                f"{why} Send it in a header: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        request.state.key = key.name
        if scope not in key.scopes:
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                f"The key {key.name} may {' and '.join(sorted(key.scopes))}, "
                f"but this needs {scope}: use another, or have that scope added.",
            )

    def _count(self, who: str) -> None:
        if not self._limiter.hit(self._rate, who):
            until = self._limiter.get_window_stats(self._rate, who).reset_time
            seconds = max(1, round(until - time.time()))
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"More than {self._rate}: try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )


def check_binding(settings: Settings, host: str, *, without_keys: bool) -> None:
    """Refuse to let other machines in without keys, unless that is what is wanted.

    Raises:
        SetupError: It is refused; the message says how to go on.
    """
    is_local = host in {"127.0.0.1", "localhost", "::1"}
    if not (is_local or without_keys or settings.api_keys.get_secret_value()):
        raise SetupError(
            f"On {host} other machines can reach the service, and there are no keys. "
            "Set STOCK_ASSETS_API_KEYS to what `stock-assets key NAME` prints, "
            "or let everybody in with --without-keys"
        )
