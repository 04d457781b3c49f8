"""What every answer has: an id, headers for browsers, a line in the log, its share in metrics."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse, StreamingResponse
from hypothesis import example, given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr

from stock_assets.api.app import create_app
from stock_assets.api.problems import ProblemError
from stock_assets.errors import DropError, SetupError
from stock_assets.keys import Scope, new_key
from stock_assets.settings import Settings
from tests.asgi import Answer, ask
from tests.conftest import ROOT

SECRET, KEY = new_key("ops", list(Scope))
HEADERS = {
    "content-security-policy": "default-src 'self'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def errors() -> dict[str, Exception]:
    """What a route may raise."""
    return {
        "unforeseen": RuntimeError("the secret of /etc/shadow"),
        "of_the_system": PermissionError(13, "Permission denied", "/etc/shadow"),
        "ours": ProblemError(409, "Not yet: wait.", {"Retry-After": "7"}),  # type: ignore[arg-type]
        "of_a_file": DropError("The file is no CSV."),
        "of_the_setup": SetupError("STOCK_ASSETS_X is wrong."),
        "of_the_framework": HTTPException(418, "Teapot", {"X-Tea": "green"}),
        "of_the_database": _of_the_database(),
        "of_too_many": _of_too_many(),
    }


def _of_the_database() -> Exception:
    with (
        sa.create_engine("sqlite://").connect() as connection,
        pytest.raises(sa.exc.DBAPIError) as error,
    ):
        connection.execute(sa.text("nonsense"))
    return error.value


def _of_too_many() -> Exception:
    engine = sa.create_engine(
        "sqlite://", poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0
    )
    with engine.connect(), pytest.raises(sa.exc.TimeoutError) as error:
        engine.connect()
    return error.value


def with_failures(app: FastAPI) -> FastAPI:
    """The service, and routes that it would rather not have."""

    @app.get("/raises/{what}")
    async def raises(what: str) -> None:
        raise errors()[what]

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("in the middle")

        return StreamingResponse(body())

    @app.get("/own")
    async def own() -> PlainTextResponse:
        headers = {"Cache-Control": "max-age=60", "X-Content-Type-Options": "x"}
        return PlainTextResponse("", headers=headers)

    return app


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    update = {
        "home": tmp_path_factory.mktemp("home"),
        "dagster_url": "http://127.0.0.1:9",
        "api_keys": SecretStr(str(KEY)),
    }
    return with_failures(create_app(Settings().model_copy(update=update)))


def get(app: FastAPI, path: str, method: str = "GET", **headers: str) -> Answer:
    return ask(app, path, method=method, headers={"Authorization": f"Bearer {SECRET}", **headers})


# Every answer

ALL_KINDS = [
    ("GET", "/", 200),
    ("GET", "/page/page.js", 200),
    ("GET", "/page/nothing.js", 404),
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 503),
    ("GET", "/metrics", 200),
    ("GET", "/nothing", 404),
    ("POST", "/metrics", 405),
    ("GET", "/metrics/", 404),
    ("GET", "/predict/!", 422),
    ("POST", "/upload", 415),
    ("GET", "/raises/ours", 409),
    ("GET", "/raises/unforeseen", 500),
    ("GET", "/breaks", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), ALL_KINDS)
def test_every_answer_has_an_id_and_headers_for_browsers(
    app: FastAPI, method: str, path: str, status: int
) -> None:
    answer = get(app, path, method, **{"X-Request-ID": "asked-1"})
    assert answer.status == status
    assert answer.headers["x-request-id"] == "asked-1"
    assert {name: answer.headers[name].split(";")[0] for name in HEADERS} == HEADERS
    if status >= 400 and path != "/readyz":
        told = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (told["status"], told["request_id"]) == (status, "asked-1")
        assert told["title"]
        assert told["detail"].endswith(".")


def test_refusals_have_an_id_too(app: FastAPI) -> None:
    answer = ask(app, "/metrics", headers={"X-Request-ID": "asked-2"})
    assert answer.status == 401
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "asked-2"
    assert answer.headers.keys() >= HEADERS.keys()


def test_what_an_answer_says_itself_is_left(app: FastAPI) -> None:
    headers = get(app, "/own").headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("max-age=60", "x")


def test_nothing_of_other_origins_may_be_loaded_or_frame_it(app: FastAPI) -> None:
    policy = get(app, "/").headers["content-security-policy"]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed.pop("img-src") == "'self' data:"
    none, own = ("object-src", "base-uri", "frame-ancestors"), ("default-src", "form-action")
    assert all(allowed[name] == "'none'" for name in none)
    assert all(allowed[name] == "'self'" for name in allowed.keys() - {*none} | {*own})


@pytest.mark.parametrize("asked", ["a", "asked.1_A-z", "0" * 64])
def test_an_id_that_is_well_formed_is_kept(app: FastAPI, asked: str) -> None:
    assert get(app, "/healthz", **{"X-Request-ID": asked}).headers["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "0" * 65, "a b", "a\nb", "a\n", 'a"', "é", "\x1b[31m"])
def test_any_other_id_is_replaced(app: FastAPI, asked: str) -> None:
    made = {get(app, "/healthz", **{"X-Request-ID": asked}).headers["x-request-id"] for _ in "12"}
    assert len(made) == 2
    for one in made:
        assert len(one) == 16
        int(one, 16)


# What goes wrong


@pytest.mark.parametrize(
    ("what", "status", "detail"),
    [
        ("ours", 409, "Not yet: wait."),
        ("of_a_file", 422, "The file is no CSV."),
        ("of_the_setup", 503, "STOCK_ASSETS_X is wrong."),
        ("of_the_framework", 418, "Teapot."),
        (
            "of_the_database",
            503,
            "The database does not answer; the service's log tells more. Try again in a moment.",
        ),
        (
            "of_too_many",
            503,
            "Too many requests wait for the database. Try again in a moment.",
        ),
    ],
)
def test_what_was_foreseen_is_told(app: FastAPI, what: str, status: int, detail: str) -> None:
    answer = get(app, f"/raises/{what}")
    assert (answer.status, answer.json()["detail"]) == (status, detail)


def test_headers_of_an_error_are_kept(app: FastAPI) -> None:
    assert get(app, "/raises/ours").headers["retry-after"] == "7"
    assert get(app, "/raises/of_the_framework").headers["x-tea"] == "green"
    assert get(app, "/metrics", "DELETE").headers["allow"] == "GET"


@pytest.mark.parametrize("what", ["unforeseen", "of_the_system", "nothing there"])
def test_what_nobody_has_foreseen_tells_no_internals(app: FastAPI, what: str) -> None:
    answer = get(app, f"/raises/{what}", **{"X-Request-ID": "asked-3"})
    assert answer.status == 500
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "The service failed; its log tells more of request asked-3.",
        "request_id": "asked-3",
    }


def test_an_answer_that_has_begun_is_not_begun_again(app: FastAPI) -> None:
    answer = get(app, "/breaks")
    assert (answer.status, answer.body) == (200, b"begun")


# Metrics


def counts() -> dict[tuple[str, str, str], float]:
    """Answers by method, route and status."""
    (family,) = (one for one in REGISTRY.collect() if one.name == "stock_assets_api_requests")
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def counted(app: FastAPI, path: str, method: str = "GET") -> dict[tuple[str, str, str], float]:
    """What an answer adds to them."""
    before = counts()
    get(app, path, method)
    return {
        labels: value - before.get(labels, 0)
        for labels, value in counts().items()
        if value != before.get(labels)
    }


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/healthz", ("GET", "/healthz", "200")),
        ("GET", "/predict/!", ("GET", "/predict/{ticker}", "422")),
        ("GET", "/raises/ours", ("GET", "/raises/{what}", "409")),
        ("GET", "/raises/unforeseen", ("GET", "/raises/{what}", "500")),
        ("GET", "/nothing", ("GET", "none", "404")),
        ("PROPFIND", "/nothing", ("other", "none", "404")),
        ("get", "/nothing", ("other", "none", "404")),
        ("DELETE", "/metrics", ("DELETE", "/metrics", "405")),
        ("PROPFIND", "/metrics", ("other", "/metrics", "405")),
        ("GET", "/page/page.js", ("GET", "none", "200")),
    ],
)
def test_an_answer_is_counted_once(
    app: FastAPI, method: str, path: str, labels: tuple[str, str, str]
) -> None:
    assert counted(app, path, method) == {labels: 1}


def test_how_long_it_took_is_measured(app: FastAPI) -> None:
    def measured() -> float:
        labels = {"method": "GET", "route": "/healthz"}
        name = "stock_assets_api_request_duration_seconds_count"
        return REGISTRY.get_sample_value(name, labels) or 0

    before = measured()
    get(app, "/healthz")
    assert measured() == before + 1


@of_hypothesis(deadline=None, max_examples=50)
@given(path=st.text(), method=st.text(min_size=1))
@example(path="metrics", method="OPTIONS")
def test_no_path_and_no_method_makes_a_new_label(app: FastAPI, path: str, method: str) -> None:
    methods = {"other", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    routes = {"none", *(getattr(route, "path", "") for route in app.routes)}
    for name in (method, "GET"):
        ((told, route, _),) = counted(app, f"/{path}", name)
        assert told in methods
        assert route in routes


# The log

LOGGED = """
import json, sys
from pydantic import SecretStr
from stock_assets.api.app import create_app
from stock_assets.api.logs import set_up_logs
from stock_assets.settings import Settings
from tests.asgi import ask

def fail():
    raise RuntimeError("the secret of /etc/shadow")

told = json.load(sys.stdin)
set_up_logs(told["level"])
settings = Settings(dagster_url="http://127.0.0.1:9", api_keys=SecretStr(told["keys"]))
app = create_app(settings)
app.get("/fails")(fail)
for request in told["requests"]:
    ask(app, **request)
"""


def run(code: str, home: Path, text: str = "", **others: Any) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, which ends well."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "STOCK_ASSETS_HOME": str(home), "PYTHONPATH": str(ROOT)},
        input=text,
        text=True,
        timeout=60,
        check=True,
        **{"stdout": subprocess.PIPE, **others},
    )


FORM = "multipart/form-data; boundary=b"


def asked(path: str, *, key: str = SECRET, **others: object) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": FORM}
    return {"path": path, "headers": headers, **others}


def log_of(home: Path, *requests: Mapping[str, object], level: str = "info") -> str:
    told = {"level": level, "keys": str(KEY), "requests": requests}
    return str(run(LOGGED, home, json.dumps(told)).stdout)


HOSTILE = [
    "/a\nb",
    '/"}\n{"event": "request", "path": "/forged"}',
    "/\x1b[2J\x07",
    "/é\u2028\u202e\ud800",
    "/" + "x" * 5_000,
    "/\0",
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of one process that was asked for all sorts of things."""
    wrong = "wrong-" + SECRET[::-1]
    return log_of(
        tmp_path_factory.mktemp("home"),
        asked("/tickers/%41", method="PUT", client=("10.1.2.3", 9)),
        asked("/metrics", key=wrong),
        *map(asked, ("/healthz", "/readyz", "/metrics")),
        asked("/fails"),
        asked("/upload", method="POST", is_whole=False),
        *map(asked, HOSTILE),
        {"path": "/", "headers": {"X-Request-ID": '"\n{"forged": 1}', "Host": "\x1b[2J"}},
        {"path": "/", "client": None},
        asked("/page/last.js"),
    )


@pytest.fixture(scope="module")
def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.split("\n")[:-1]]


def by_path(lines: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("path") == path]


def test_a_line_tells_what_was_asked_and_what_became_of_it(lines: list[dict[str, Any]]) -> None:
    (line,) = by_path(lines, "/tickers/%41")
    assert line.pop("at").endswith("+00:00")
    assert 0 < line.pop("ms") < 10_000
    assert len(line.pop("request_id")) == 16
    assert line == {
        "level": "info",
        "event": "request",
        "method": "PUT",
        "path": "/tickers/%41",
        "status": 405,
        "key": "ops",
        "client": "10.1.2.3",
    }


def test_a_line_of_a_request_that_was_refused_names_no_key(lines: list[dict[str, Any]]) -> None:
    (line,) = by_path(lines, "/metrics")
    assert (line["level"], line["status"], line["key"]) == ("info", 401, None)


def test_no_key_is_ever_logged(log: str) -> None:
    assert SECRET not in log
    assert SECRET[::-1] not in log
    assert KEY.sha256 not in log


def test_probes_are_logged_if_they_fail(lines: list[dict[str, Any]]) -> None:
    probes = ("/healthz", "/readyz", "/metrics")
    logged = [(path, line["status"]) for path in probes for line in by_path(lines, path)]
    assert logged == [("/readyz", 503), ("/metrics", 401)]


@pytest.mark.parametrize(
    ("level", "paths"), [("debug", ["/healthz", "/drops/x", "/"]), ("warning", [])]
)
def test_as_much_is_logged_as_is_wanted(tmp_path: Path, level: str, paths: list[str]) -> None:
    log = log_of(tmp_path, *map(asked, ("/healthz", "/drops/x", "/")), level=level)
    assert [json.loads(line)["path"] for line in log.splitlines()] == paths


def test_what_nobody_has_foreseen_is_in_the_log(lines: list[dict[str, Any]]) -> None:
    failed, request = by_path(lines, "/fails")
    assert (failed["level"], failed["event"]) == ("error", "failed")
    assert request["status"] == 500
    assert failed["request_id"] == request["request_id"]
    (exception,) = failed["exception"]
    assert exception["exc_type"] == "RuntimeError"
    assert exception["exc_value"] == "the secret of /etc/shadow"
    assert exception["frames"][-1]["name"] == "fail"
    assert exception["frames"][-1]["lineno"] > 1


def test_what_is_foreseen_is_no_failure(lines: list[dict[str, Any]]) -> None:
    failed = [line for line in lines if line["level"] == "error"]
    assert [line["path"] for line in failed] == ["/fails"]


def test_a_source_that_does_not_answer_is_warned_of(lines: list[dict[str, Any]]) -> None:
    warned = [line for line in lines if line["level"] == "warning"]
    assert {(line["event"], line.get("source")) for line in warned} == {
        ("no metrics", "dagster"),
        ("dagster does not answer", None),  # to the probe
    }


def test_who_breaks_off_is_no_failure(lines: list[dict[str, Any]]) -> None:
    (line,) = by_path(lines, "/upload")
    assert (line["level"], line["status"]) == ("info", 0)


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_one_escaped_line(lines: list[dict[str, Any]], path: str) -> None:
    (line,) = by_path(lines, path)
    assert line["status"] == 404


def test_lines_hold_nothing_that_a_terminal_or_a_parser_would_act_on(
    log: str, lines: list[dict[str, Any]]
) -> None:
    assert log.isascii()
    assert log.replace("\n", "").isprintable()
    assert not [line for line in lines if "forged" in line or line.get("path") == "/forged"]
    assert lines[-1]["path"] == "/page/last.js"
    assert [line["client"] for line in by_path(lines, "/")] == ["127.0.0.1", None]


LIBRARIES = """
import logging
from stock_assets.api.logs import set_up_logs
set_up_logs("info")
logging.getLogger("library").info("small talk")
logging.getLogger("library").warning("said %s", "a\\nb")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library").exception("failed")
"""


def test_what_libraries_say_is_logged_likewise(tmp_path: Path) -> None:
    said, failed = map(json.loads, run(LIBRARIES, tmp_path).stdout.splitlines())
    assert (said["level"], said["event"]) == ("warning", "said a\nb")
    assert failed["exception"][0]["exc_type"] == "ZeroDivisionError"


# Batches

MANY = """
import sys
from threading import Thread
from stock_assets.api import logs
logs._MOMENT_SECONDS = float(sys.stdin.read())
batches = logs.Batches(sys.stdout)
def write(name):
    for n in range(3000):
        batches.write(f"{name} {n}\\n")
threads = [Thread(target=write, args=[name]) for name in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("moment", ["0", "0.01", "0.2"])
def test_every_line_comes_once_and_in_order(tmp_path: Path, moment: str) -> None:
    lines = run(MANY, tmp_path, moment).stdout.splitlines()
    for name in "abcd":
        own = [line.split()[1] for line in lines if line.startswith(name)]
        assert own == [str(n) for n in range(3000)]
    assert len(lines) == 12_000


SLOW = """
import sys, time
from threading import Event
from stock_assets.api.logs import Batches

class Slow:
    begun = Event()
    def write(self, text):
        self.begun.set()
        time.sleep(0.3 if text else 0)
        sys.stdout.write(text)
    def flush(self):
        sys.stdout.flush()

Batches(Slow()).write("the last words\\n")
assert Slow.begun.wait(20)
"""


def test_a_line_that_is_being_written_as_the_process_ends_is_not_lost(tmp_path: Path) -> None:
    assert run(SLOW, tmp_path).stdout == "the last words\n"


FULL = """
import sys, time
from stock_assets.api.logs import Batches
batches = Batches(sys.stdout)
until = time.monotonic() + 20
for _ in range(3):
    batches.write("x" * 100_000)
    while batches._lines and time.monotonic() < until:
        time.sleep(0.01)
assert not batches._lines
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written_fills_no_memory(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run(FULL + "\nimport os; os._exit(0)", tmp_path, stdout=full)


TERMINAL = """
import os, pty, sys
pid, shown = pty.fork()
if not pid:
    import structlog
    from stock_assets.api.logs import set_up_logs
    set_up_logs("info")
    log = structlog.get_logger()
    log.info("request", path="/\\x1b[2J\\x07", key="ops")
    try:
        secret = "Bearer " + "s3cr3t"
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
    sys.exit()
text = b""
try:
    while block := os.read(shown, 4096):
        text += block
except OSError:
    pass
os.waitpid(pid, 0)
sys.stdout.write(text.decode())
"""


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What stands on a terminal."""
    return run(TERMINAL, tmp_path_factory.mktemp("home")).stdout


def test_on_a_terminal_a_hostile_path_is_escaped_too(terminal: str) -> None:
    assert r"'/\x1b[2J\x07'" in terminal
    assert "\x1b[2J" not in terminal
    assert "\x07" not in terminal


def test_on_a_terminal_a_traceback_tells_no_values(terminal: str) -> None:
    assert "ZeroDivisionError" in terminal
    assert "Bearer s3cr3t" not in terminal
