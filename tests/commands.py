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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.browser import free_port
from tests.conftest import ROOT

STOCK_ASSETS = Path(sys.executable).with_name("stock-assets")


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
        wait_until("begun upload", lambda: any(service.home.glob("drops/.upload-*")), seconds=10)
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
