"""Pages of other sites, which run in browsers of this machine, and ask for what is not theirs."""

import re
from collections.abc import Mapping
from typing import Any

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

_PORT = re.compile(r":\d+$")


def headers_of(request: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers of a request, as ASGI has it."""
    return dict(request["headers"])


def host_of(headers: Mapping[bytes, bytes]) -> str:
    """The name that is asked, and its port."""
    return headers.get(b"host", b"").decode("latin-1").lower()


def without_port(host: str) -> str:
    """The name alone."""
    return _PORT.sub("", host)


def is_of_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """What the browser says; an older one, or one of plain HTTP, says it of what it posts."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site or not origin:
        return site in {b"cross-site", b"same-site"}
    return origin.decode("latin-1").lower().partition("://")[2] != host_of(headers)
