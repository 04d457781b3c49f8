"""Whatever stands at Dagster's address can fool the service, but not take it along."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from stock_assets.api import dagster, service
from stock_assets.api.app import create_app
from stock_assets.database import Database
from stock_assets.settings import Settings
from tests.test_api import Client, body, problem, settings_of, tell
from tests.test_api_runs import DOWN, Reply, Small, answering, in_json
from tests.test_database import register

CANARY = "canary-of-the-proxy"


@pytest.fixture
def asking(settings: Settings) -> Callable[[str], Client]:
    """Makes services on a database of one ticker and one drop, with another Dagster each."""
    url = f"sqlite:///{settings.home / 'predictions.db'}"
    database = Database(url)
    tell(database, "T001")
    register(database, b"content")

    def make(address: str) -> Client:
        return Client(create_app(settings_of(settings.home, url, dagster_url=address)))

    return make


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server that does as the handler says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(BaseHTTPRequestHandler):
    """Says nothing on the terminal."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def endless(block: bytes, *, encoding: str = "identity", pause: float = 0) -> Iterator[str]:
    """The address of a server whose answers have no end."""

    class Handler(Quiet):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Encoding", encoding)
            self.end_headers()
            try:
                while not ended.wait(pause):
                    self.wfile.write(block)
            except OSError:
                heard.set()

    ended, heard = threading.Event(), threading.Event()
    with served(Handler) as address:
        try:
            yield address
            assert heard.wait(10), "nobody hung up"
        finally:
            ended.set()


BOMB = gzip.compress(b" " * 50_000_000)


@pytest.mark.parametrize(
    ("block", "encoding"), [(b" " * 65_536, "identity"), (BOMB, "gzip")], ids=["plain", "gzip"]
)
def test_an_answer_without_end_is_not_read_to_it(
    asking: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch, block: bytes, encoding: str
) -> None:
    monkeypatch.setattr(dagster, "_MOST_BYTES", 1 << 20)
    process = psutil.Process()
    with endless(block, encoding=encoding) as address, asking(address) as client:
        before = process.memory_info().rss
        assert "does not answer (ValueError)" in problem(client.get("/runs/1"), 503)
        assert process.memory_info().rss - before < 60_000_000


def test_an_answer_that_drips_is_not_waited_for(
    asking: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(dagster, "_MOST_BYTES", 100)
    with endless(b" ", pause=0.05) as address, asking(address) as client:
        assert "does not answer (TimeoutError)" in problem(client.get("/runs/1"), 503)


def test_nobody_is_followed_elsewhere(asking: Callable[[str], Client]) -> None:
    asked: list[Any] = []

    def elsewhere(question: Any) -> Reply:
        asked.append(question)
        return in_json({"data": {}})

    class Redirects(Quiet):
        def do_POST(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"{other}/graphql")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with answering(elsewhere) as other, served(Redirects) as here, asking(here) as client:
        assert "does not answer" in problem(client.get("/runs/1"), 503)
    assert asked == []


def test_no_request_says_whom_the_service_asks(
    asking: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def other(question: Any) -> Reply:
        asked.append(question)
        return in_json({"data": {}})

    with answering(other) as elsewhere, asking(DOWN) as client:
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere)
        host = elsewhere.removeprefix("http://")
        headers = {"Host": "127.0.0.1:8000", "X-Forwarded-Host": host, "Forwarded": f"host={host}"}
        for path in ("/runs/1", "/readyz", "/train/T001", "/tickers?dagster_url=x"):
            client.get(path, headers=headers, params={"dagster_url": elsewhere, "url": elsewhere})
    assert asked == []


STRANGE: list[object] = [
    {},
    {"runOrError": None},
    {"runOrError": {"runId": {"a": 1}, "status": "SUCCESS"}},
    {"runOrError": {"runId": "1", "jobName": "x", "status": "NEW", "startTime": 1, "endTime": 1}},
    {"runOrError": {"runId": "1", "jobName": 7, "status": "SUCCESS", "startTime": "soon"}},
    {"runOrError": {"runId": "1", "jobName": "x", "status": "SUCCESS", "startTime": 1e300}},
]


@pytest.mark.parametrize("data", STRANGE, ids=json.dumps)
def test_an_answer_of_another_shape_is_a_failure_that_tells_nothing(
    asking: Callable[[str], Client], data: object
) -> None:
    with answering(lambda _: in_json({"data": data})) as address, asking(address) as client:
        said = problem(client.get("/runs/1"), 502)
        assert said.startswith("Dagster answers otherwise than expected")
        assert body(client.get("/readyz"), 503)["dagster"] == service.NO_DAGSTER
        assert body(client.get("/predict/T001"))["ticker"] == "T001"


def test_words_of_dagster_are_told_as_text_and_not_without_end(
    asking: Callable[[str], Client],
) -> None:
    hostile = '<script>alert(1)</script>\x1b[2J"' + "x" * 1_000_000
    reply = in_json({"errors": [{"message": hostile}]})
    with answering(lambda _: reply) as address, asking(address) as client:
        answer = client.get("/runs/1")
        said = problem(answer, 502)
        assert said.startswith('Dagster says: <script>alert(1)</script>\x1b[2J"xxx')
        assert len(said) < 3_000
        assert "\x1b" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


# Its password, and its queue


def test_a_password_in_its_address_is_sent_and_never_told(
    asking: Callable[[str], Client], capsys: pytest.CaptureFixture[str]
) -> None:
    with asking(DOWN.replace("//", f"//proxy:{CANARY}@")) as client:
        told = [client.get(path).text for path in ("/readyz", "/runs/1", "/train/T001", "/metrics")]
    assert f"Dagster at {DOWN} does not answer" in told[1]
    assert CANARY not in "".join(told) + capsys.readouterr().out


@pytest.mark.parametrize("queued", [0, service.MOST_QUEUED - 1, service.MOST_QUEUED, 10**9])
def test_a_full_queue_takes_no_more_trainings(asking: Callable[[str], Client], queued: int) -> None:
    small = Small()

    def reply(asked: dict[str, Any]) -> Reply:
        status, kind, content = small(asked)
        told = json.loads(content)
        if "statuses: [QUEUED, NOT_STARTED]" in asked["query"]:
            told["data"]["queued"] = {"count": queued}
        return status, kind, json.dumps(told).encode()

    with answering(reply) as address, asking(address) as client:
        answer = client.get("/train/T001")
    if queued < service.MOST_QUEUED:
        assert body(answer, 202)["runs"][0]["run"] == "run-1"
    else:
        assert problem(answer, 429).startswith(f"{queued:,} runs are queued already: try again")
        assert answer.headers["retry-after"] == "60"
        assert small.launched == 0
