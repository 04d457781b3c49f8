"""Who may do what, and how often: decided for every request before anything else is."""

from collections.abc import Collection
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Request

from stock_assets.api.problems import ProblemError
from stock_assets.errors import SetupError
from stock_assets.keys import Key, Scope, key_of, parse_keys
from stock_assets.settings import Settings
from stock_assets.sites import headers_of, host_of, is_of_another_site, without_port

if TYPE_CHECKING:
    from stock_assets.api.rate import Rate

_OPEN = {"page", "healthz", "readyz", "openapi.json"}  # first parts of paths
_SCOPES = {"upload": Scope.UPLOAD, "train": Scope.TRAIN}  # all others are read


def scope_of(path: str) -> Scope | None:
    """What a key must be good for to ask for this path; nothing if it is open to all."""
    first = path[1:].partition("/")[0]
    return None if path == "/" or first in _OPEN else _SCOPES.get(first, Scope.READ)


class Access:
    """Admits requests: with a key where there are keys, else from this machine's own pages."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[Key] = (),
        rate: "Rate | None" = None,
        hosts: Collection[str] = (),
    ) -> None:
        """Wrap an app.

        Args:
            app: Gets what is admitted.
            keys: Those that are; if there is none, everybody is.
            rate: At which each may be used; any if none is given.
            hosts: Names that the service may be called by without keys; any if none is given.
        """
        self._app, self._keys, self._rate, self._hosts = app, keys, rate, hosts

    async def __call__(self, request: Request, receive: Receive, send: Send) -> None:
        """Pass on what is admitted.

        Raises:
            ProblemError: It is not.
        """
        if request["type"] == "http" and (scope := scope_of(request["path"])):
            if self._keys:
                self._check_key(request, scope)
            else:
                self._check_origin(request)
        await self._app(request, receive, send)

    def _check_origin(self, request: Request) -> None:
        """Keep other sites' pages, which run in browsers on this machine, from the service."""
        headers = headers_of(request)
        host = host_of(headers)
        if self._hosts and without_port(host) not in self._hosts:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"Without keys the service is not to be called {host!r}."
            )
        if is_of_another_site(headers):
            raise ProblemError(
                HTTPStatus.FORBIDDEN, "Without keys, pages of other sites may not call the service."
            )

    def _check_key(self, request: Request, scope: Scope) -> None:
        told = headers_of(request).get(b"authorization", b"").decode("latin-1")
        kind, _, secret = told.partition(" ")
        key = key_of(secret.strip(), self._keys) if kind.lower() == "bearer" else None
        self._count(f"key {key.name}" if key else f"address {_network(request)}")
        if key is None:
            why = "That key is not known." if secret else "A key is needed."
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED,
                f"{why} Send it in a header: Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        request["state"]["key"] = key.name
        if scope not in key.scopes:
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                f"The key {key.name} may {' and '.join(sorted(key.scopes))}, "
                f"but this needs {scope}: use another, or have that scope added.",
            )

    def _count(self, who: str) -> None:
        if self._rate and (seconds := self._rate.wait(who)):
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"More than {self._rate}: try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )


def _network(request: Request) -> str:
    """Whose address a request comes from: of IPv6, everybody has 2**64."""
    client = request["client"][0] if request["client"] else "unknown"
    if ":" not in client:
        return str(client)
    with suppress(ValueError):
        return str(ip_network((client.partition("%")[0], 64), strict=False))
    return "unknown"


def describe_access(described: dict[str, Any]) -> None:
    """Tell in OpenAPI which routes need a key, and what is said without one."""
    scheme = {"type": "http", "scheme": "bearer", "description": "As `stock-assets key` prints it."}
    described["components"]["securitySchemes"] = {"key": scheme}
    for path, operations in described["paths"].items():
        for operation in operations.values() if scope_of(path) else ():
            operation["security"] = [{"key": []}]


def check_binding(settings: Settings, host: str, *, without_keys: bool) -> None:
    """Refuse to let other machines in without keys, unless that is what is wanted.

    Raises:
        SetupError: It is refused; the message says how to go on.
    """
    is_local = host in {"127.0.0.1", "localhost", "::1"}
    if not (is_local or without_keys or parse_keys(settings.api_keys.get_secret_value())):
        raise SetupError(
            f"On {host} other machines can reach the service, and there are no keys. "
            "Set STOCK_ASSETS_API_KEYS to what `stock-assets key NAME` prints, "
            "or let everybody in with --without-keys"
        )
