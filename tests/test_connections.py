"""Connections: who sends slowly, endlessly or nonsense takes nothing from the others."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from time import monotonic

import httpx
import psutil
import pytest

from stock_assets.api.connections import MOST_HEAD_BYTES
from stock_assets.files import UNFINISHED
from stock_assets.keys import Scope, new_key
from tests.commands import Service, cut_power, new_home, wait_until

SECRET, KEY = new_key("loader", [Scope.UPLOAD])
PATIENCE = 1.0  # seconds, of this service
FILES = 200  # that its process may have open
SERVES = """
import resource, sys
from stock_assets.api import connections
from stock_assets.cli import main

connections.HEAD_SECONDS = connections.BODY_SECONDS = float(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)),) * 2)
main()
"""
HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
BEARER = b"Authorization: Bearer %b\r\n" % SECRET.encode()
UPLOAD = b"POST /upload HTTP/1.1\r\n" + HOST + FORM
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nticker'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a key, little patience and few files."""
    service = Service(new_home(tmp_path_factory.mktemp("home")))
    words = ("-c", SERVES, PATIENCE, FILES, "serve", "--port", service.port)
    try:
        service.begin(sys.executable, *words, API_KEYS=str(KEY))
        yield service
    finally:
        cut_power(service.process)


def connected(service: Service, told: bytes = b"") -> socket.socket:
    """A connection on which this was sent."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(told)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side ends it."""
    told = b""
    with suppress(ConnectionError):
        while block := connection.recv(1 << 16):
            told += block
    return told


def answer(service: Service, told: bytes) -> bytes:
    """What is said to it, all in all."""
    with closing(connected(service, told)) as connection:
        return rest(connection)


def healthy(connection: socket.socket) -> bool:
    """Whether the next answer says so; it may come in pieces."""
    told = b""
    while not told.endswith(b'{"status":"ok"}'):
        told += (block := connection.recv(1 << 16))
        assert block, told
    return told.startswith(b"HTTP/1.1 200 ")


def memory(service: Service) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss)


def drip(connection: socket.socket, block: bytes) -> float:
    """How many seconds one may go on to send a little now and then, or nothing."""
    begun = monotonic()
    connection.settimeout(PATIENCE / 5)
    with suppress(ConnectionError):
        while monotonic() < begun + 20:
            connection.sendall(block)
            with suppress(TimeoutError):
                if not connection.recv(1 << 16):
                    break
    return monotonic() - begun


@pytest.mark.parametrize(
    ("told", "block"),
    [(b"", b""), (b"", b"\r\n"), (b"GET /heal", b"t"), (HEALTH, b"X-More: 1\r\n")],
    ids=["silent", "blank lines", "half a line", "headers without end"],
)
def test_who_does_not_say_what_is_wanted_is_left(
    service: Service, told: bytes, block: bytes
) -> None:
    with closing(connected(service, told)) as connection:
        assert 0.9 * PATIENCE < drip(connection, block) < 5 * PATIENCE


def test_who_is_left_is_told_why(service: Service) -> None:
    assert answer(service, HEALTH).startswith(b"HTTP/1.1 408 ")


def test_the_next_request_of_a_connection_may_not_take_longer(service: Service) -> None:
    with closing(connected(service, HEALTH + b"\r\n")) as connection:
        assert healthy(connection)
        assert 0.9 * PATIENCE < drip(connection, b"\r\n") < 5 * PATIENCE


def test_a_connection_may_be_used_again(service: Service) -> None:
    with closing(connected(service)) as connection:
        for _ in range(3):
            connection.sendall(HEALTH)
            connection.settimeout(PATIENCE / 2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.sendall(b"\r\n")
            assert healthy(connection)


def test_an_upload_that_stands_still_is_left_and_leaves_nothing(service: Service) -> None:
    half = UPLOAD + BEARER + b"Content-Length: 100000\r\n\r\n" + PART
    with closing(connected(service, half)) as connection:
        drops = service.home / "drops"
        wait_until("upload", lambda: [*drops.glob(f"{UNFINISHED}*")], seconds=10)
        assert rest(connection) == b""
    wait_until("end of it", lambda: not [*drops.iterdir()], seconds=10)


def test_an_upload_may_last_as_long_as_it_goes_on(service: Service) -> None:
    half = UPLOAD + BEARER + b"Content-Length: 100000\r\n\r\n" + PART
    with closing(connected(service, half)) as connection:
        begun = monotonic()
        connection.settimeout(PATIENCE / 5)
        while monotonic() < begun + 3 * PATIENCE:
            connection.sendall(b"x")
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_a_refused_upload_does_not_keep_its_connection(service: Service) -> None:
    refused = answer(service, UPLOAD + b"Content-Length: 100000\r\n\r\n" + PART)
    assert refused.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "block", [b"X-More: %b\r\n" % (b"x" * 1000), b"x" * 1000], ids=["many headers", "a long one"]
)
def test_headers_without_end_take_no_memory(service: Service, block: bytes) -> None:
    before = memory(service)
    with closing(connected(service, HEALTH + b"X-First: ")) as connection:
        sent = 0
        with suppress(ConnectionError):
            for _ in range(30):
                connection.sendall(block * 1_000)
                sent += 1
        assert sent < 10  # buffers of the system among them
        assert rest(connection)[:13] in {b"HTTP/1.1 431 ", b""}  # it may be cut off
    assert memory(service) - before < 10_000_000


def test_headers_of_usual_size_are_taken(service: Service) -> None:
    some = b"X-More: %b\r\n" % (b"x" * (MOST_HEAD_BYTES // 2))
    told = answer(service, HEALTH + some + b"Connection: close\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200 ")


def test_who_opens_all_connections_keeps_others_waiting_no_longer_than_that(
    service: Service,
) -> None:
    with ExitStack() as stack:
        for _ in range(FILES + 50):
            stack.enter_context(closing(connected(service, b"GET")))
        begun = monotonic()
        wait_until("answer", service.is_alive, seconds=20 * PATIENCE)
        assert monotonic() - begun < 15 * PATIENCE
    assert httpx.get(f"{service.url}/healthz").is_success


# What is no request, or no method of ours


CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"TRACE / HTTP/1.1", 405),
        (b"OPTIONS / HTTP/1.1", 405),
        (b"PUT /page/page.js HTTP/1.1", 405),
        (b"DELETE / HTTP/1.1", 405),
        (b"TRACE /upload HTTP/1.1", 401),
        (b"PROPFIND /tickers HTTP/1.1", 401),
        (b"GET /docs HTTP/1.1", 401),
        (b"GET http://evil.example/tickers HTTP/1.1", 401),
        (b"CONNECT evil.example:80 HTTP/1.1", 400),
        (b"NONSENSE / HTTP/1.1", 400),
        (b"GET / HTTP/9.9", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, x", 400),
    ],
)
def test_what_is_no_request_of_ours_tells_nothing(
    service: Service, request_line: bytes, status: int
) -> None:
    secret = b"X-Mine: do-not-echo\r\n"
    told = answer(service, request_line + b"\r\n" + HOST + secret + CLOSE)
    head, _, _ = told.lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 %d " % status)
    assert b"do-not-echo" not in told
    for name in (b"\r\nserver:", b"\r\nx-powered-by:", b"access-control-", b"set-cookie", b"trace"):
        assert name not in head


@pytest.mark.parametrize("path", ["/page", "/tickers/", "//evil.example", "/page/../tickers/"])
def test_no_answer_sends_anybody_elsewhere(service: Service, path: str) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: evil.example\r\n" % path.encode()
    told = answer(service, request + CLOSE)
    assert told[9:12] in {b"401", b"404"}
    assert b"evil.example" not in told.lower()
