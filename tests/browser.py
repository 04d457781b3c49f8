"""A real Chromium without a window, driven over its DevTools protocol."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from websockets.sync.client import ClientConnection, connect

from tests.conftest import ROOT

T = TypeVar("T")
PATIENCE = 60.0  # seconds
CODES = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "Tab": 9}
CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def chromium_path() -> str | None:
    """Where the browser is, if there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Tab:
    """A page of the browser, and what it complained of once it is watched."""

    browser: "Browser"
    target: str
    session: str
    errors: list[str] = field(default_factory=list)  # of scripts, the console, the CSP
    failed: list[str] = field(default_factory=list)  # requests: status or reason, and address

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """What the tab answers."""
        return self.browser.call(method, self.session, **params)

    def watch(self) -> None:
        """Begin to note errors and failed requests."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go to an address; it need not have loaded."""
        self.call("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """The value of an expression; of a promise, what it comes to."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 10) -> Any:
        """The value of an expression as soon as it is true; an element counts as true."""
        until = time.monotonic() + seconds
        while not (value := self._try(script)):
            if time.monotonic() > until:
                text = self.evaluate("document.body?.innerText")
                raise AssertionError(f"{script} is {value!r} for {seconds} s; shown is:\n{text}")
            time.sleep(0.02)
        return value

    def _try(self, script: str) -> Any:
        try:
            return self.evaluate(f"(value => value instanceof Node || value)({script})")
        except RuntimeError:  # not there yet, or the page is being left
            return None

    def press(self, *keys: str) -> None:
        """Press keys one after the other: names as in `CODES`, or a character."""
        for key in keys:
            text = "\r" if key == "Enter" else key if len(key) == 1 else ""
            code = CODES.get(key, ord(key.upper()[0]))
            event = {"key": key, "text": text, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Put text in where the focus is."""
        self.call("Input.insertText", text=text)

    def point(self, selector: str, across: float = 0.5) -> tuple[float, float]:
        """Scroll an element into view and move the mouse to a point of it, which is returned."""
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)})
            element.scrollIntoView({{block: "nearest"}})
            const {{x, y, width, height}} = element.getBoundingClientRect()
            return [x + {across} * width, y + height / 2]
        }})()"""
        x, y = self.evaluate(script)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        x, y = self.point(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in a field for them."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drag(self, kind: str, *files: Path) -> None:
        """Drag files over the page: dragEnter, dragOver, drop or dragCancel."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        self.call("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Look at the page through a window of this size, in a light or a dark scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def offline(self, *, yes: bool) -> None:
        """Cut the tab's connection, or mend it."""
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=yes, **speed)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.call("Target.closeTarget", targetId=self.target)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Note what is an error or a request that failed."""
        match method, params:
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.errors.append(_thrown(details))
            case "Runtime.consoleAPICalled", {"type": "error" | "assert", "args": words}:
                self.errors.append(" ".join(str(word.get("value", "")) for word in words))
            case "Log.entryAdded", {"entry": {"level": "error", "source": source, "text": text}}:
                if source != "network":  # those are told as what they are, below
                    self.errors.append(f"{source}: {text}")
            case "Network.responseReceived", {"response": {"status": status, "url": url}}:
                if status >= 400:
                    self.failed.append(f"{status} {url}")
            case "Network.loadingFailed", {"canceled": False, "errorText": text}:
                self.failed.append(text)


@dataclass
class Browser:
    """A browser that has been nowhere yet."""

    connection: ClientConnection
    tabs: dict[str, Tab] = field(default_factory=dict)  # by session
    calls: int = 0

    def call(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        """What the browser, or a tab of it, answers; what it tells in between, its tab hears."""
        self.calls += 1
        of_tab = {"sessionId": session} if session else {}
        message = {"id": self.calls, "method": method, "params": params, **of_tab}
        self.connection.send(json.dumps(message))
        while (told := json.loads(self.connection.recv(PATIENCE))).get("id") != self.calls:
            if tab := self.tabs.get(told.get("sessionId", "")):
                tab.hear(told["method"], told["params"])
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    def tab(self) -> Tab:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.tabs[session] = Tab(self, target, session)
        return self.tabs[session]


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A browser with a profile of its own, which goes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--window-size=1500,950"]
        told = Path(profile) / "DevToolsActivePort"  # the port, and a path
        with (
            running(path, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}"),
            connect(
                patiently(lambda: _address(told)), max_size=None, ping_interval=None
            ) as connection,
        ):
            yield Browser(connection)


@contextmanager
def running(*command: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
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
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


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


def _address(told: Path) -> str:
    port, path = told.read_text().split("\n")  # not both, where it is being written
    return f"ws://127.0.0.1:{port}{path}"


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description", details["text"]))
