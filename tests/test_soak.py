"""Half an hour of everything at once: uploads, sensors, runs, trainings and readers."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

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

pytestmark = [*SOAK, pytest.mark.timeout(60 * MINUTES + 1800)]


@dataclass
class Life:
    """What happens to a platform, and what is seen of it meanwhile."""

    up: Up
    over: threading.Event = field(default_factory=threading.Event)
    drops: list[str] = field(default_factory=list)
    newest: dict[tuple[str, str], float] = field(default_factory=dict)  # closes that were told last
    loads: list[Load] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
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
        """Forecasts, at a steady rate."""
        requests = [get(f"/predict/{ticker}") for ticker in TICKERS]
        while not self.over.is_set():
            self.loads.append(steady(self.up.port, requests, READS, 30))

    def watch(self) -> None:
        """The memory of the service, in megabytes."""
        (service,) = (
            process for process in members(self.up.process.pid) if "serve" in process.cmdline()
        )
        while not self.over.wait(10):
            self.memory.append(service.memory_info().rss / 1e6)

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
    assert told["memory_last_mb"] < GROWTH * told["memory_first_mb"]
    assert told["p99_ms"] < P99_MS


def figures(life: Life) -> dict[str, float]:
    """What was measured."""
    seconds = Load([second for load in life.loads for second in load.seconds])
    third = max(1, len(life.memory) // 3)
    return {
        "uploads": len(life.drops),
        "reads": len(seconds.seconds),
        "failed": sum(load.failed for load in life.loads),
        "p50_ms": seconds.milliseconds(0.5),
        "p99_ms": seconds.milliseconds(0.99),
        "memory_first_mb": max(life.memory[:third]),
        "memory_last_mb": max(life.memory[-third:]),
    }
