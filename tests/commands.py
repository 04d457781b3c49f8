"""Our commands as they are typed: real processes on homes of their own, and curl."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import httpx
import psutil
import pytest

from stock_assets.files import UNFINISHED
from tests.browser import free_port
from tests.conftest import ROOT

STOCK_ASSETS = Path(sys.executable).with_name("stock-assets")
LOCATION = {
    "repositoryLocationName": "stock_assets.definitions",
    "repositoryName": "__repository__",
}


def new_home(folder: Path) -> Path:
    """An empty home with our dagster.yaml."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", folder)
    return folder


def environment(home: Path, **settings: str) -> dict[str, str]:
    """What a command on this home finds in its environment; settings without their prefix."""
    outer = {name: text for name, text in os.environ.items() if not name.startswith("STOCK_ASSETS")}
    ours = {"HOME": str(home)} | settings
    return outer | {"DAGSTER_HOME": str(home)} | {f"STOCK_ASSETS_{k}": v for k, v in ours.items()}


def wait_until(what: str, look: Callable[[], Any], *, seconds: float) -> Any:
    """What ``look`` returns, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)  # between two looks
    pytest.fail(f"no {what} within {seconds} s")


def members(session: int) -> list[psutil.Process]:
    """The processes of a terminal session that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@dataclass(frozen=True)
class Answer:
    """What the service said."""

    status: int
    content: Any
    sent: int = field(default=0, compare=False)  # bytes of the request


def begin(home: Path, *command: object, **settings: str) -> subprocess.Popen[bytes]:
    """A command in a terminal session of its own, which writes to output.log in the home."""
    with (home / "output.log").open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment(home, **settings),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def press_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    """Do what it does in a terminal: all processes there get the signal."""
    os.killpg(process.pid, signal.SIGINT)


def cut_power(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of its terminal session, none of which hears of it."""
    while alive := members(process.pid):
        for member in alive:
            member.kill()
    process.wait()


@dataclass
class Service:
    """The HTTP service of a home, which a command runs."""

    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def begin(self, *command: object, **settings: str) -> None:
        """Have a command run it, and wait until it answers."""
        self.process = begin(self.home, *command, **settings)
        wait_until("answer of the service", self.is_alive, seconds=60)

    def is_alive(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def get(self, path: str, key: str = "") -> Answer:
        """What it says at a path."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        told = httpx.get(self.url + path, headers=headers, timeout=30)
        return Answer(told.status_code, told.json())


@dataclass
class Web:
    """The Dagster webserver's GraphQL."""

    port: int

    def query(self, text: str, **variables: Any) -> Any:
        """The data of the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": text, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def is_up(self) -> bool:
        """Whether the code location is loaded, so that daemons and UI can work."""
        try:
            data = self.query(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name }}}}"
            )
        except (URLError, ConnectionError, TimeoutError):
            return False
        return bool(data["repositoriesOrError"].get("nodes"))

    def runs(self, **having: str) -> list[dict[str, Any]]:
        """Runs with these tags."""
        data = self.query(
            """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
                results { id status jobName tags { key value } } } } }""",
            filter={"tags": [{"key": key, "value": value} for key, value in having.items()]},
        )
        return list(data["runsOrError"]["results"])

    def steps(self, run: str) -> set[str]:
        """What a run has done."""
        data = self.query(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
                stepStats { stepKey status } } } }""",
            id=run,
        )
        stats = data["runOrError"]["stepStats"]
        return {step["stepKey"] for step in stats if step["status"] == "SUCCESS"}

    def ended(self, **having: str) -> list[dict[str, Any]]:
        """Those of them that have ended, well or badly."""
        return [run for run in self.runs(**having) if run["status"] in {"SUCCESS", "FAILURE"}]


@dataclass
class Up(Service):
    """`stock-assets up`: the service, Dagster's web UI, daemon and sensors."""

    web: Web = field(default_factory=lambda: Web(free_port()))

    def start(self, **settings: str) -> None:
        """Begin, and wait for the service; Dagster takes longer."""
        ports = ("--port", self.web.port, "--api-port", self.port)
        self.begin(STOCK_ASSETS, "up", *ports, **settings)

    def forecast_tickers(self) -> set[str]:
        """Tickers with a forecast that is made of their newest prices."""
        rows = self.get("/tickers").content["tickers"]
        return {row["ticker"] for row in rows if row["is_current"]}

    def trainings(self, ticker: str) -> int:
        """How many runs have trained this ticker alone, and have not failed."""
        edges = {f"dagster/asset_partition_range_{edge}": ticker for edge in ("start", "end")}
        done = [run for run in self.web.runs(**edges) if run["status"] == "SUCCESS"]
        return sum("ticker_models" in self.web.steps(run["id"]) for run in done)

    def wait_for_forecasts(self, drop: str, *, seconds: float = 240) -> dict[str, Any]:
        """What is told of a drop when all of its tickers are forecast."""

        def look() -> dict[str, Any] | None:
            told: dict[str, Any] = self.get(f"/drops/{drop}").content
            assert told["status"] != "failed", told["detail"]
            return told if told["status"] == "accepted" and not told["waiting"] else None

        found: dict[str, Any] = wait_until("forecasts", look, seconds=seconds)
        return found


@contextmanager
def serving(home: Path, **settings: str) -> Iterator[Service]:
    """`stock-assets serve` alone: at Dagster's address there is nobody."""
    service = Service(home)
    nobody = {"DAGSTER_URL": f"http://127.0.0.1:{free_port()}"}
    try:
        service.begin(STOCK_ASSETS, "serve", "--port", service.port, **nobody | settings)
        yield service
    finally:
        cut_power(service.process)


_HEAD = (
    "POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
_PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n--x--\r\n'


@contextmanager
def half_an_upload(service: Service, file: Path) -> Iterator[Callable[[], bytes]]:
    """An upload that is under way; the call sends its other half, and tells the answer's start."""
    form = _PART % (file.name.encode(), file.read_bytes())
    half = len(form) // 2
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sender:

        def finish() -> bytes:
            sender.sendall(form[half:])
            return sender.recv(12)

        sender.sendall(_HEAD.format(len(form)).encode() + form[:half])
        begun = f"drops/{UNFINISHED}*"
        wait_until("begun upload", lambda: any(service.home.glob(begun)), seconds=10)
        yield finish


def typed(line: str, url: str, folder: Path) -> Answer:
    """The answer to a line that is typed in a folder, with the service's address for URL."""
    words = shlex.split(line.replace("URL", url))
    quietly = ["--silent", "--show-error", "--write-out", "\n%{http_code} %{size_upload}"]
    done = subprocess.run(
        [*words, *quietly], cwd=folder, check=True, capture_output=True, text=True
    )
    document, _, numbers = done.stdout.rpartition("\n")
    status, sent = map(int, numbers.split())
    return Answer(status, json.loads(document), sent)
