"""The commands a newcomer types, as they are typed: real processes, real Dagster, real files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
import psutil
import pytest
import sqlalchemy as sa

from stock_assets.database import Database
from stock_assets.tables import METADATA
from tests.conftest import ROOT, as_csv, make_prices

STOCK_ASSETS = Path(sys.executable).parent / "stock-assets"
LOCATION = {
    "repositoryLocationName": "stock_assets.definitions",
    "repositoryName": "__repository__",
}
TICKER_ASSETS = [{"path": [name]} for name in ("price_features", "ticker_models", "forecasts")]


def wait_until(what: str, look: Callable[[], Any], *, seconds: float) -> Any:
    """What ``look`` returns, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)  # between two looks
    pytest.fail(f"no {what} within {seconds} s")


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


@contextmanager
def serving(home: Path, *command: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], Web]]:
    """A command that serves the web UI, in a terminal session of its own, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        web = Web(free.getsockname()[1])
    with (home / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(web.port)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until("web UI", web.is_up, seconds=90)
            yield process, web
        finally:
            for left in members(process.pid):
                left.kill()
            process.wait()


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


def forecast_tickers(database: Database) -> set[str]:
    """Tickers with a forecast that is made of their newest prices."""
    return {state.ticker for state in database.ticker_states() if not state.needs_forecast}


@pytest.mark.timeout(400)
def test_up_turns_a_dropped_csv_into_forecasts_and_serves_the_ui(home: Path) -> None:
    prices = [make_prices(ticker) for ticker in ("AAPL", "IBM", "MSFT")]
    database = Database(f"sqlite:///{home / 'predictions.db'}")
    with serving(home, STOCK_ASSETS, "up") as (process, web):
        (home / "drops" / "prices.csv").write_bytes(as_csv(pd.concat(prices)))
        wait_until(
            "forecast of the dropped tickers",
            lambda: forecast_tickers(database) == {"AAPL", "IBM", "MSFT"},
            seconds=60,
        )
        (ingested,) = wait_until(
            "finished ingestion",
            lambda: [r for r in web.runs() if r["jobName"] == "ingest_drop"],
            seconds=10,
        )
        assert ingested["status"] == "SUCCESS"

        launched = web.query(
            """mutation ($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
                __typename ... on LaunchRunSuccess { run { id } } } }""",
            p={
                "mode": "default",
                "runConfigData": "{}",
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "IBM"}]},
                "selector": LOCATION
                | {"pipelineName": "__ASSET_JOB", "assetSelection": TICKER_ASSETS},
            },
        )["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess"
        backfill = web.query(
            """mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                __typename ... on LaunchBackfillSuccess { backfillId } } }""",
            p={
                "assetSelection": TICKER_ASSETS,
                "partitionNames": ["AAPL", "IBM", "MSFT"],
                "fromFailure": False,
                "tags": [],
            },
        )["launchPartitionBackfill"]
        by_hand = wait_until(
            "end of the run by hand",
            lambda: [
                run
                for run in web.runs(**{"dagster/partition": "IBM"})
                if run["status"] in {"SUCCESS", "FAILURE"}
            ],
            seconds=90,
        )
        assert [run["status"] for run in by_hand] == ["SUCCESS"]
        (of_backfill,) = wait_until(
            "end of the backfill's run",
            lambda: [
                run
                for run in web.runs(**{"dagster/backfill": backfill["backfillId"]})
                if run["status"] in {"SUCCESS", "FAILURE"}
            ],
            seconds=120,
        )
        assert of_backfill["status"] == "SUCCESS"
        assert {
            "key": "dagster/asset_partition_range_start",
            "value": "AAPL",
        } in of_backfill["tags"]

        assert_ends_cleanly(process)


@pytest.mark.timeout(200)
def test_plain_dagster_dev_serves_the_workspace(home: Path) -> None:
    dagster = STOCK_ASSETS.with_name("dagster")
    with serving(home, dagster, "dev", "--workspace", "workspace.yaml") as (process, _):
        assert process.poll() is None


@pytest.mark.timeout(300)
def test_up_goes_on_after_a_power_cut(home: Path) -> None:
    database = Database(f"sqlite:///{home / 'predictions.db'}")
    with serving(home, STOCK_ASSETS, "up") as (process, web):
        (home / "drops" / "prices.csv").write_bytes(as_csv(make_prices("IBM")))
        wait_until(
            "run that has started",
            lambda: any(run["status"] == "STARTED" for run in web.runs()),
            seconds=60,
        )
        while alive := members(process.pid):
            for member in alive:
                member.kill()
    with serving(home, STOCK_ASSETS, "up"):
        wait_until("forecast", lambda: forecast_tickers(database) == {"IBM"}, seconds=120)


def assert_ends_cleanly(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    assert process.wait(30) == 0
    wait_until("end of all processes", lambda: not members(process.pid), seconds=15)


@pytest.mark.timeout(200)
def test_one_setting_moves_everything_to_postgres(
    home: Path, tmp_path: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", postgres_database)
    (tmp_path / "prices.csv").write_bytes(as_csv(make_prices("IBM")))
    subprocess.run([STOCK_ASSETS, "ingest", tmp_path / "prices.csv"], check=True)
    predicted = subprocess.run(
        [STOCK_ASSETS, "predict", "IBM", "--json"], check=True, capture_output=True
    )
    assert len(json.loads(predicted.stdout)["forecast"]) == 10

    with sa.create_engine(postgres_database).connect() as connection:
        runs = connection.execute(sa.text("SELECT pipeline_name, status FROM runs ORDER BY id"))
        assert dict(runs.tuples().all()) == {"ingest_drop": "SUCCESS", "refresh_tickers": "SUCCESS"}
    assert not list(home.rglob("*.db"))


@pytest.mark.timeout(200)
def test_make_demo_forecasts_and_a_second_one_changes_nothing(home: Path) -> None:
    pytest.importorskip("bokeh_sampledata", reason="the extra 'demo' is not installed")
    database = Database(f"sqlite:///{home / 'predictions.db'}")

    first = [line.rstrip() for line in make_demo().splitlines()]
    promised = (ROOT / "README.md").read_text().split("```")[3].strip("\n").splitlines()
    assert len(promised) > 10
    assert [line for line in promised if line not in first] == []
    before, runs = contents(database), sorted((home / "history" / "runs").iterdir())
    second = make_demo()

    assert "known" in second
    assert contents(database) == before
    assert sorted((home / "history" / "runs").iterdir()) == runs


def make_demo() -> str:
    """What ``make demo`` prints, on a terminal of 80 columns."""
    return subprocess.run(
        ["make", "--silent", "demo"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def contents(database: Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    with database.engine.connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(table.select())))
            for table in METADATA.sorted_tables
            if table.name != "writes"
        }
