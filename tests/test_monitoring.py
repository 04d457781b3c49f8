"""A real Prometheus scrapes a platform at work: panels and alerts have something to tell."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml

from tests import grafana
from tests.browser import free_port, running
from tests.commands import LOCATION, Up, cut_power, new_home, typed, wait_until
from tests.conftest import ROOT, as_csv, empty_database, make_prices

TOOLS = ("prometheus", "prometheus-node-exporter", "prometheus-postgres-exporter")
LACKING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"not here: {', '.join(LACKING)}"),
    pytest.mark.timeout(500),
]
TICKERS = ("AAPL", "IBM", "MSFT")
SECONDS = 240  # a busy machine may take for anything that is waited for
NEVER_LAUNCHED = "tag_concurrency_limits: [{key: waits, limit: 0}]"
WINDOWS = {"__range": "10m", "__rate_interval": "30s"}
_METRIC = re.compile(r"\b(?:stock_assets|node|pg|process)_\w+")


@dataclass
class Prometheus:
    """Its API, over the time that the test lasts."""

    port: int
    begun: float = field(default_factory=time.time)

    def get(self, path: str, **params: Any) -> Any:
        """What it says."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        told = httpx.get(url, params=params, timeout=30).json()
        assert told["status"] == "success", told
        return told["data"]

    def has_told(self, expression: str) -> bool:
        """Whether an expression has had a value."""
        span = {"start": self.begun, "end": time.time(), "step": 1}
        found = self.get("query_range", query=expression, **span)["result"]
        return any(value != "NaN" for series in found for _, value in series["values"])

    def value(self, expression: str) -> float:
        """What it is now; NaN if there is none."""
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else float("nan")

    def is_up(self) -> bool:
        """Whether it is ready to answer."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/-/ready").is_success
        except httpx.TransportError:
            return False


@dataclass
class Monitored:
    """A platform on PostgreSQL, and who watches it."""

    up: Up
    prometheus: Prometheus
    folder: Path

    def upload(self, prices: pd.DataFrame, *more: bytes) -> dict[str, Any]:
        """Drop prices through the service, and wait for their forecasts."""
        (self.folder / "prices.csv").write_bytes(as_csv(prices) + b"".join(more))
        told = typed('curl -X POST -F "file=@prices.csv" URL/upload', self.up.url, self.folder)
        return self.up.wait_for_forecasts(told.content["drop"], seconds=SECONDS)

    def launch(self, asset: str, **tags: str) -> None:
        """Have a run of an asset launched, as the web UI does."""
        selector = {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]}
        told = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"mode": "default", "runConfigData": "{}", "executionMetadata": told}
        self.up.web.query(
            """mutation ($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
                __typename } }""",
            p=params | {"selector": LOCATION | selector},
        )

    def cancel_what_is_queued(self) -> None:
        """Terminate the runs that no worker has taken."""
        queued = [run["id"] for run in self.up.web.runs() if run["status"] == "QUEUED"]
        self.up.web.query(
            """mutation ($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }""",
            ids=queued,
        )


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    database = empty_database(postgres_url, "monitored")
    up = Up(new_home(folder / "home"))
    ours = up.home / "dagster.yaml"
    most = "max_concurrent_runs: 3"
    assert most in ours.read_text()
    ours.write_text(ours.read_text().replace(most, f"{most}\n    {NEVER_LAUNCHED}"))
    ports = {"8000": up.port, "9187": free_port(), "9100": free_port()}
    watcher = Prometheus(free_port())
    with ExitStack() as stack:
        stack.callback(lambda: cut_power(up.process))
        up.start(DATABASE_URL=database)
        node = f"--web.listen-address=127.0.0.1:{ports['9100']}"
        stack.enter_context(running("prometheus-node-exporter", node))
        exporter = f"--web.listen-address=127.0.0.1:{ports['9187']}"
        source = f"{database}&sslmode=disable"
        stack.enter_context(
            running("prometheus-postgres-exporter", exporter, DATA_SOURCE_NAME=source)
        )
        stack.enter_context(
            running(
                "prometheus",
                f"--config.file={scrape_configuration(folder, ports)}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{watcher.port}",
            )
        )
        wait_until("Prometheus", watcher.is_up, seconds=60)
        yield Monitored(up, watcher, folder)


def scrape_configuration(folder: Path, ports: dict[str, int]) -> Path:
    """Ours, on other ports and every second."""
    text = (ROOT / "dashboards" / "prometheus.yaml").read_text()
    for usual, port in ports.items():
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
    text = re.sub(r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s", text)
    shutil.copy(ROOT / "dashboards" / "alerts.yaml", folder)
    path = folder / "prometheus.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def at_work(monitored: Monitored) -> Monitored:
    """Something of everything has happened: what goes well, and what does not."""
    up, drops = monitored.up, monitored.up.home / "drops"
    assert httpx.get(f"{up.url}/readyz").status_code == 503  # Dagster takes longer
    wait_until("Dagster", lambda: httpx.get(f"{up.url}/readyz").is_success, seconds=SECONDS)
    prices = pd.concat([make_prices(ticker, 130) for ticker in TICKERS])
    is_late = prices["date"] > "2019-06-14"
    wrong = b"AAPL,Technology,2010-01-04,9.0,10.0,11.0,12.0,5\nAAPL,Technology,4 Jan,9,9,9,9,5\n"
    (drops / "no prices.csv").write_bytes(b"a,b\n1,2\n")
    assert monitored.upload(prices[~is_late], wrong)["rejected"] == 2
    monitored.upload(prices[is_late])
    wait_until("failed run", lambda: failed(up), seconds=SECONDS)

    for asset in ("market_model", "forecast_scores"):
        monitored.launch(asset)
    monitored.launch("forecast_scores", waits="for a place")
    aside = drops.rename(monitored.folder / "aside")  # somebody puts a file in its place
    drops.touch()
    for call in ("train/AAPL", "predict/AAPL", "predict/NONE", "tickers"):
        httpx.get(f"{up.url}/{call}", timeout=60)
    httpx.post(f"{up.url}/batch-predict", json={"tickers": [*TICKERS]})
    ticked = 'stock_assets_last_tick_timestamp_seconds{status="failure"}'
    waits = "stock_assets_oldest_queued_run_timestamp_seconds"
    for what, expression in {"failed tick": ticked, "queue": waits}.items():
        wait_until(what, partial(monitored.prometheus.has_told, expression), seconds=SECONDS)
    drops.unlink()
    aside.rename(drops)
    monitored.cancel_what_is_queued()
    return monitored


def failed(up: Up) -> bool:
    """Whether a run has."""
    return any(run["status"] == "FAILURE" for run in up.web.runs())


def test_every_panel_has_something_to_tell(at_work: Monitored) -> None:
    silent = {
        f"{name}: {target.title}: {target.expression}"
        for name in grafana.NAMES
        for target in grafana.targets(grafana.dashboard(name))
        if target.kind == "prometheus"
    }
    assert len(silent) > 30

    def all_told() -> bool:
        for one in [*silent]:
            expression = grafana.promql(one.split(": ", 2)[2], WINDOWS)
            if at_work.prometheus.has_told(expression):
                silent.discard(one)
        return not silent

    end = time.monotonic() + 90
    while not all_told() and time.monotonic() < end:
        time.sleep(1)  # between two looks
    assert silent == set()


def test_every_alert_asks_for_what_is_there(at_work: Monitored) -> None:
    rules = yaml.safe_load((ROOT / "dashboards" / "alerts.yaml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for expression in expressions:
        at_work.prometheus.get("query", query=expression)
    asked = {name for expression in expressions for name in _METRIC.findall(expression)}
    assert len(asked) > 15
    missing = [name for name in sorted(asked) if not at_work.prometheus.has_told(name)]
    assert missing == []


def test_an_operator_is_told_of_what_went_wrong_and_of_nothing_else(at_work: Monitored) -> None:
    expected = {"StockAssetsNoPrices", "StockAssetsRunsFailed"}  # prices end in 2019

    def active() -> set[str]:
        alerts = at_work.prometheus.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts} - {"StockAssetsHighCpu"}

    wait_until("alerts", lambda: active() >= expected, seconds=60)
    assert active() == expected
    health = at_work.prometheus.get("rules")["groups"]
    assert {rule["health"] for group in health for rule in group["rules"]} == {"ok"}


def test_every_target_is_scraped(at_work: Monitored) -> None:
    targets = at_work.prometheus.get("targets")["activeTargets"]
    assert len(targets) == 6
    assert {target["health"]: target["lastError"] for target in targets} == {"up": ""}


def test_facts_are_those_of_the_platform(at_work: Monitored) -> None:
    value = at_work.prometheus.value
    assert value("stock_assets_rows_read_total") == len(TICKERS) * 130 + 2
    assert value("stock_assets_rows_rejected_total") == 2
    assert value('stock_assets_drops{status="accepted"}') == 2
    assert value('stock_assets_drops{status="refused"}') == 1
    assert value('stock_assets_tickers{forecast="current"}') == len(TICKERS)
    assert value("stock_assets_scored_sessions") == 1
    assert value("min(stock_assets_daemon_healthy)") == 1
    assert value("sum(stock_assets_champion_tickers)") == len(TICKERS)
