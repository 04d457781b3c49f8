"""Asks a host: for what may pass it is asked again, with growing waits, for about a minute.

Addresses are told and logged without queries and passwords, which may be secrets.
"""

import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from ssl import SSLContext
from typing import TypeVar

import httpx
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from stock_assets.errors import ProviderDownError, ProviderError

_Told = TypeVar("_Told")
_log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds in which a host is asked again, and that it may tell us to wait
SILENCE = 10.0  # seconds without a byte
_patiently = stamina.RetryingCaller(attempts=6, timeout=PATIENCE, wait_initial=1.0, wait_max=20.0)
_CLASS = re.compile(r"[A-Z]+\.[A-Z]")  # of shares, such as BRK.B


class PassingError(ProviderDownError):
    """A host is down, but may be up in a while.

    Attributes:
        after: Seconds that it wants to be left alone; 0 if it does not say.
    """

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


def patiently(ask: Callable[[], _Told]) -> _Told:
    """What a host tells, asked again while it fails by a PassingError.

    Raises:
        PassingError: It went on, or would for too long.
    """
    return _patiently(_again, ask)


def _again(error: Exception) -> bool | float:
    """Whether to ask again, or after how many seconds."""
    if not isinstance(error, PassingError) or error.after > PATIENCE:
        return False
    return error.after or True


def _tell(details: RetryDetails) -> None:
    _log.warning("%s Asked again in %.0f s.", details.caused_by, details.wait_for)


set_on_retry_hooks([_tell])


def by_symbol(ticker: str, ask: Callable[[str], _Told]) -> _Told:
    """What is told of a ticker by the name that the provider has for it.

    A class of shares is BRK.B to us and BRK-B to providers; a dot begins an exchange there, which
    may be one letter, too: VOD.L is in London. So a ticker is asked for as it is written, and
    where it is unknown and ends like a class, with a dash.
    """
    try:
        return ask(ticker)
    except ProviderError as error:
        if isinstance(error, ProviderDownError) or not _CLASS.fullmatch(ticker):
            raise
    return ask(ticker.replace(".", "-"))


def get(
    address: str, *, query: dict[str, str] | None = None, max_bytes: int, seconds: float
) -> bytes:
    """What lies at an address, asked for once.

    Args:
        address: https:// is not left for http:// by any redirect.
        query: Added to the address.
        max_bytes: Largest answer that is taken.
        seconds: Longest time that one may take.

    Raises:
        PassingError: The host cannot be reached, is too slow, or says that it has trouble.
        ProviderDownError: It refuses us.
        ProviderError: It has no such thing, or too much of it.
    """
    shown, end = bare(address), time.monotonic() + seconds
    try:
        with _client(address) as client, client.stream("GET", address, params=query) as answer:
            _judge(answer, shown)
            content = bytearray()
            for block in answer.iter_bytes():
                content += block
                if len(content) > max_bytes:
                    raise ProviderError(
                        f"{shown} has more than {max_bytes:,} bytes, the most that is taken."
                    )
                if time.monotonic() > end:
                    raise PassingError(f"{shown} took more than {seconds:.0f} s. Try again later.")
            return bytes(content)
    except httpx.TransportError as error:
        why = str(error) or type(error).__name__
        raise PassingError(f"{shown} cannot be reached ({why}). Try again later.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProviderError(f"{shown} does not answer as it should ({error}).") from error


def _client(address: str) -> httpx.Client:
    schemes = {"https"} if address.startswith("https:") else {"https", "http"}

    def check(request: httpx.Request) -> None:
        if request.url.scheme not in schemes:
            raise ProviderError(
                f"{bare(address)} leads to {bare(str(request.url))}. Expected to be led to https://."
            )

    return httpx.Client(
        verify=_trust(), timeout=SILENCE, follow_redirects=True, event_hooks={"request": [check]}
    )


@cache  # it takes longer than many an answer
def _trust() -> SSLContext:
    return httpx.create_ssl_context()


def _judge(answer: httpx.Response, shown: str) -> None:
    """Raise for what is no answer to take."""
    status = answer.status_code
    told = f"{shown} answers {status} {answer.reason_phrase}".rstrip()
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise PassingError(f"{told}. Try again later.", _wait(answer))
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.PROXY_AUTHENTICATION_REQUIRED}:
        raise ProviderDownError(f"{told}. Expected to be let in: mend the key or the password.")
    if not answer.is_success:
        raise ProviderError(f"{told}. Expected 200 OK.")


def _wait(answer: httpx.Response) -> float:
    """Seconds until the host wants to be asked again; 0 if it does not say."""
    text = answer.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def bare(address: str) -> str:
    """An address without query and password."""
    scheme, _, rest = address.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _hush(record: logging.LogRecord) -> bool:
    """Make the addresses in a record bare."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            bare(str(arg)) if isinstance(arg, httpx.URL) else arg for arg in record.args
        )
    return True


logging.getLogger("httpx").addFilter(_hush)  # which logs each address that it asks
