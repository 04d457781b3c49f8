"""The HTTP service under load on this machine, beside a bare handler of FastAPI."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import psutil

from tests.bench.load import Load, flat_out, get, post, steady
from tests.browser import free_port, patiently, running
from tests.conftest import as_csv, make_prices

STOCK_ASSETS = Path(sys.executable).with_name("stock-assets")
RATE, BATCH = 300, 100  # requests a second; tickers in one
ROUNDS = 9  # of throughput, each beside the other
SCRAPES = 50


@dataclass(frozen=True)
class Served:
    """What was measured of the service.

    Attributes:
        tickers: It had forecasts of.
        start: Seconds from its start to its first answer.
        resident: Megabytes after all of the load.
        predict: /predict at a steady rate.
        batch: /batch-predict of a hundred tickers.
        ours, bare: Answers a second, flat out, in rounds beside each other.
        upload: Megabytes sent, seconds it took, and megabytes of memory it took at its height.
    """

    tickers: int
    start: float
    resident: float
    predict: Load
    batch: Load
    ours: list[float]
    bare: list[float]
    upload: tuple[float, float, float]

    def rows(self) -> Iterator[list[str]]:
        """Of a table: what, and how much."""
        steady_load, batch = self.predict, self.batch
        ratio = statistics.median(x / y for x, y in zip(self.ours, self.bare, strict=True))
        size, seconds, height = self.upload
        yield ["start to first answer, s", f"{self.start:.2f}"]
        yield ["resident memory after the load, MB", f"{self.resident:.0f}"]
        yield [
            f"/predict at {RATE}/s, {len(steady_load.seconds):,} requests: p50, p99, ms",
            f"{steady_load.milliseconds(0.5):.1f}, {steady_load.milliseconds(0.99):.1f}",
        ]
        yield ["failed", f"{steady_load.failed}"]
        yield [
            f"/batch-predict of {BATCH} tickers, {len(batch.seconds)} requests: p50, p99, ms",
            f"{batch.milliseconds(0.5):.1f}, {batch.milliseconds(0.99):.1f}",
        ]
        yield ["/predict flat out, answers/s", f"{statistics.median(self.ours):,.0f}"]
        yield ["a constant from a bare FastAPI", f"{statistics.median(self.bare):,.0f}"]
        yield ["ours / bare", f"{ratio:.2f}"]
        yield [f"upload of {size:.0f} MB: s", f"{seconds:.1f}"]
        yield ["memory it takes, MB", f"{height:.1f}"]


def measure(work: Path, seconds: float, **environment: str) -> Served:
    """Load the service of an installation that has forecasts."""
    port, bare_port = free_port(), free_port()
    begun = time.perf_counter()
    with running(STOCK_ASSETS, "serve", "--port", port, **environment) as process:
        patiently(lambda: answer(port, "/healthz"))
        start = time.perf_counter() - begun
        told = json.loads(answer(port, "/tickers?limit=1000"))
        names = [row["ticker"] for row in told["tickers"]]
        requests = [get(f"/predict/{name}") for name in names]
        size = len(answer(port, f"/predict/{names[0]}"))
        steady_load = steady(port, requests, RATE, seconds)
        batch = steady(port, batches(names), 20, seconds / 4)
        bare_server = [sys.executable, "-m", "uvicorn", "tests.bench.bare:app"]
        options = ["--port", bare_port, "--no-access-log"]
        with running(*bare_server, *options, CONSTANT_BYTES=str(size)):
            patiently(lambda: answer(bare_port, "/constant"))
            constant = [get("/constant")]
            rounds = [
                (flat_out(port, requests, span).rate, flat_out(bare_port, constant, span).rate)
                for span in [seconds / 30] * ROUNDS
            ]
        memory = psutil.Process(process.pid).memory_info
        return Served(
            tickers=len(names),
            start=start,
            resident=memory().rss / 1e6,
            predict=steady_load,
            batch=batch,
            ours=[ours for ours, _ in rounds],
            bare=[bare for _, bare in rounds],
            upload=uploaded(work, port, memory),
        )


def scraped(**environment: str) -> Iterator[list[str]]:
    """What Prometheus waits for, and what the service reads for it: rows of a table."""
    port, seconds = free_port(), []
    with running(STOCK_ASSETS, "serve", "--port", port, **environment):
        patiently(lambda: answer(port, "/healthz"))
        for _ in range(SCRAPES):
            begun = time.perf_counter()
            told = answer(port, "/metrics").decode()
            seconds.append(time.perf_counter() - begun)
            time.sleep(0.1)  # facts are read meanwhile
    name = 'stock_assets_source_read_duration_seconds{source="database"} '
    (reading,) = (line.removeprefix(name) for line in told.splitlines() if line.startswith(name))
    yield [f"/metrics, the slowest of {SCRAPES} scrapes, ms", f"{1000 * max(seconds):.0f}"]
    yield ["the database's facts, read every 20 s, ms", f"{1000 * float(reading):.0f}"]


def batches(names: list[str]) -> list[bytes]:
    """Requests of a hundred tickers each, no two alike."""
    return [
        post(
            "/batch-predict",
            json.dumps({"tickers": (names[first:] + names[:first])[:BATCH]}).encode(),
        )
        for first in range(len(names))
    ]


def answer(port: int, path: str) -> bytes:
    """What the service says."""
    with urlopen(f"http://127.0.0.1:{port}{path}") as said:
        return bytes(said.read())


def uploaded(work: Path, port: int, memory: Any) -> tuple[float, float, float]:
    """Megabytes sent, seconds, and megabytes of memory above those before, at the height."""
    file = work / "upload.csv"
    lines = as_csv(make_prices("BIG", 3_000)).splitlines(keepends=True)
    copies = 35_000_000 // sum(map(len, lines))
    rows = b"".join(lines[1:])
    file.write_bytes(
        lines[0] + b"".join(rows.replace(b"BIG", b"B%d" % copy) for copy in range(copies + 1))
    )
    before = memory().rss
    with highest(lambda: memory().rss) as height:
        begun = time.perf_counter()
        form = ["-F", f"file=@{file}", f"http://127.0.0.1:{port}/upload"]
        subprocess.run(["curl", "--silent", "--fail", *form], check=True, capture_output=True)
        seconds = time.perf_counter() - begun
    return file.stat().st_size / 1e6, seconds, (max(height) - before) / 1e6


@contextmanager
def highest(look: Any) -> Iterator[list[float]]:
    """What is seen while the block runs."""
    seen, over = [look()], Event()

    def watch() -> None:
        while not over.wait(0.002):
            seen.append(look())

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
