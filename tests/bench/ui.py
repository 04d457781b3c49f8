"""Seconds until pages of an installation's web UI can be read.

Starts the web server on the home, but no daemon, and opens each page a few times in Chromium, which
shows no window. A page's time is from navigation until what it is opened for is there. Told is the
median.
"""

import json
import socket
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser import Browser, chromium, chromium_path, free_port, patiently, running

ROUNDS = 5
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
    path = chromium_path()
    if path is None:
        return {}
    seconds = {}
    with web_server(home) as address, chromium(path) as browser:
        for name, (view, words) in PAGES.items():
            page = f"{address}/assets/forecasts?view={view}"
            _, *rounds = [opened(browser, page, words) for _ in range(1 + ROUNDS)]
            seconds[name] = statistics.median(rounds)
    return seconds


def opened(browser: Browser, page: str, words: str) -> float:
    """Seconds until a new tab shows the words of a page."""
    tab = browser.tab()
    tab.open(page)
    found = tab.evaluate(LOOK % json.dumps(words))
    tab.close()
    return float(found)


@contextmanager
def web_server(home: str) -> Iterator[str]:
    """The address of a home's web UI, from when it answers."""
    port = free_port()
    places = {"STOCK_ASSETS_HOME": home, "DAGSTER_HOME": home}
    server = Path(sys.executable).with_name("dagster-webserver")
    with running(server, "--workspace", "workspace.yaml", "--port", port, **places):
        patiently(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield f"http://127.0.0.1:{port}"
