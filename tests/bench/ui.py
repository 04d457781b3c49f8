"""Seconds until pages of an installation's web UI can be read.

Starts the web server on the home, but no daemon, and opens each page a few times in Chromium, which
shows no window. A page's time is from navigation until what it is opened for is there. Told is the
median.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from websockets.sync.client import ClientConnection, connect

from tests.conftest import ROOT

T = TypeVar("T")
ROUNDS = 5
PATIENCE = 60.0  # seconds
PAGES = {  # of `forecasts`: the view, and what is opened for
    "asset page": ("overview", r"Latest check results\s+\d[^]*hi_80_in[^]*refresh_tickers"),
    "partitions view": ("partitions", r"Partitions Selected[^]*Materialized \([1-9]"),
}
LOOK = """new Promise(found => {
    const look = () => new RegExp(%s).test(document.body?.innerText)
        ? found(performance.now() / 1000) : requestAnimationFrame(look)
    look()
})"""


def pages(home: str) -> dict[str, float]:
    """The seconds of each page; of none where there is no Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return {}
    seconds = {}
    with web_server(home) as address, chromium(path) as browser:
        for name, (view, words) in PAGES.items():
            page = f"{address}/assets/forecasts?view={view}"
            _, *rounds = [opened(browser, page, words) for _ in range(1 + ROUNDS)]
            seconds[name] = statistics.median(rounds)
    return seconds


def opened(browser: ClientConnection, page: str, words: str) -> float:
    """Seconds until a new tab shows the words of a page."""
    target = call(browser, "Target.createTarget", url="about:blank")["targetId"]
    tab = call(browser, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    call(browser, "Page.navigate", tab, url=page)
    look = LOOK % json.dumps(words)
    found = call(browser, "Runtime.evaluate", tab, expression=look, awaitPromise=True)
    call(browser, "Target.closeTarget", targetId=target)
    return float(found["result"]["value"])


def call(browser: ClientConnection, method: str, tab: str = "", **params: object) -> dict[str, Any]:
    """What the browser, or a tab of it, answers; what it tells in between is not listened to."""
    of_tab = {"sessionId": tab} if tab else {}
    browser.send(json.dumps({"id": 1, "method": method, "params": params, **of_tab}))
    while "id" not in (message := json.loads(browser.recv(PATIENCE))):
        pass
    if "error" in message:
        raise RuntimeError(f"{method}: {message['error']['message']}")
    result: dict[str, Any] = message["result"]
    return result


@contextmanager
def web_server(home: str) -> Iterator[str]:
    """The address of a home's web UI, from when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {"STOCK_ASSETS_HOME": home, "DAGSTER_HOME": home}
    server = Path(sys.executable).with_name("dagster-webserver")
    with running(server, "--workspace", "workspace.yaml", "--port", port, **places):
        patiently(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield f"http://127.0.0.1:{port}"


@contextmanager
def chromium(path: str) -> Iterator[ClientConnection]:
    """A connection to a browser that has been nowhere yet."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--window-size=1500,950"]
        told = Path(profile) / "DevToolsActivePort"  # the port, and a path
        with running(path, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}"):
            port, tail = patiently(lambda: told.read_text().split("\n"))
            with connect(f"ws://127.0.0.1:{port}{tail}", max_size=None) as browser:
                yield browser


@contextmanager
def running(*command: object, **environment: str) -> Iterator[None]:
    """A process that is stopped in the end, with those it started."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def patiently(attempt: Callable[[], T]) -> T:
    """What an attempt gives as soon as it does not fail."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except (OSError, ValueError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
