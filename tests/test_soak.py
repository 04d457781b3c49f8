"""Half an hour of everything at once: uploads, sensors, runs, trainings and readers."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from stock_assets.database import Database
from tests.bench.load import Load, get, steady
from tests.commands import Up, cut_power, members, new_home, wait_until
from tests.conftest import SOAK, as_csv, make_prices
from tests.test_database import table

MINUTES = 30
TICKERS = [f"T{number:03}" for number in range(100)]
READS = 100  # a second
EVERY_SECONDS = 5.0  # somebody uploads
P99_MS = 25.0  # of /predict, as of the service alone
GROWTH = 1.1  # of memory from the first third to the last
PARTS = {  # words of their command lines
    "service": {"serve"},
    "code server": {"api", "grpc"},
    "daemon": {"dagster._daemon"},
    "web server": {"dagster_webserver"},
}

pytestmark = [*SOAK, pytest.mark.timeout(60 * MINUTES + 1800)]


@dataclass
class Life:
    """What happens to a platform, and what is seen of it meanwhile."""

    up: Up
    over: threading.Event = field(default_factory=threading.Event)
    drops: list[str] = field(default_factory=list)
    newest: dict[tuple[str, str], float] = field(default_factory=dict)  # closes that were told last
    load: Load = field(default_factory=Load)
    memory: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    faults: list[str] = field(default_factory=list)

    def upload(self) -> None:
        """Another day of some tickers, or the last days of others once more, by turns."""
        days = pd.bdate_range("2019-07-01", periods=2_000)
        for number in count():
            if self.over.wait(EVERY_SECONDS):
                return
            some = TICKERS[number % 10 :: 10]
            rows = pd.concat([make_prices(ticker, 3, seed=number) for ticker in some])
            rows["date"] = [day for _ in some for day in days[number // 10 :][:3]]
            self._send(f"upload-{number}.csv", as_csv(rows))
            closes = zip(rows["ticker"], rows["date"].dt.strftime("%Y-%m-%d"), strict=True)
            self.newest |= dict(zip(closes, rows["close"], strict=True))

    def train(self) -> None:
        """All tickers, every five minutes."""
        while not self.over.wait(300):
            told = httpx.post(f"{self.up.url}/train", json={"tickers": TICKERS}, timeout=60)
            if not told.is_success:
                self.faults.append(f"train: {told.text}")

    def read(self) -> None:
        """Forecasts, at a steady rate, from a process that does nothing else."""
        requests = [get(f"/predict/{ticker}") for ticker in TICKERS]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            self.load = pool.submit(steady, self.up.port, requests, READS, 60 * MINUTES).result()

    def watch(self) -> None:
        """The memory of those that stay, in megabytes; runs come and go."""
        found = {
            part: next(p for p in members(self.up.process.pid) if words <= {*p.cmdline()})
            for part, words in PARTS.items()
        }
        while not self.over.wait(10):
            for part, process in found.items():
                self.memory[part].append(process.memory_info().rss / 1e6)

    def _send(self, name: str, content: bytes) -> None:
        told = httpx.post(f"{self.up.url}/upload", files={"file": (name, content)}, timeout=60)
        if told.is_success:
            self.drops.append(told.json()["drop"])
        else:
            self.faults.append(f"{name}: {told.text}")


@pytest.fixture
def up(tmp_path: Path, postgres_database: str) -> Iterator[Up]:
    up = Up(new_home(tmp_path / "up"))
    try:
        up.start(DATABASE_URL=postgres_database)
        wait_until("Dagster", up.web.is_up, seconds=120)
        yield up
    finally:
        cut_power(up.process)


def test_half_an_hour_of_everything_at_once(up: Up, postgres_database: str) -> None:
    life = Life(up)
    history = pd.concat([make_prices(ticker) for ticker in TICKERS])
    life._send("history.csv", as_csv(history))
    up.wait_for_forecasts(life.drops[0])
    doing = [
        threading.Thread(target=what) for what in (life.upload, life.train, life.read, life.watch)
    ]
    for thread in doing:
        thread.start()
    time.sleep(60 * MINUTES)  # what is tested is that time
    life.over.set()
    for thread in doing:
        thread.join()
    for drop in life.drops:
        up.wait_for_forecasts(drop, seconds=600)
    database = Database(postgres_database)
    told = figures(life)
    print(json.dumps(told))  # noqa: T201  for whoever runs it
    assert life.faults == []
    assert told["failed"] == 0
    assert len(table(database, "drops")) == len(life.drops) == len(set(life.drops))
    prices = table(database, "prices")[["ticker", "date", "close"]].itertuples(index=False)
    found = {(row.ticker, f"{row.date}"): row.close for row in prices}
    assert {key: found[key] for key in life.newest} == life.newest
    assert up.forecast_tickers() == set(TICKERS)
    for part, (first, last) in told["megabytes"].items():
        assert last < GROWTH * first, part
    assert told["p99_ms"] < P99_MS


def figures(life: Life) -> dict[str, Any]:
    """What was measured; of memory, the most in the first third and in the last."""
    third = max(1, len(life.memory["service"]) // 3)
    return {
        "uploads": len(life.drops),
        "reads": len(life.load.seconds),
        "failed": life.load.failed,
        "p50_ms": life.load.milliseconds(0.5),
        "p99_ms": life.load.milliseconds(0.99),
        "megabytes": {
            part: (max(told[:third]), max(told[-third:])) for part, told in life.memory.items()
        },
    }
