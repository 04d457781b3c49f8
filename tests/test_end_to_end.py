"""The commands a newcomer types, as they are typed: real processes, real Dagster, real files."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from stock_assets.database import Database
from stock_assets.tables import METADATA
from tests.browser import Browser, Tab, chromium, chromium_path, free_port
from tests.commands import (
    LOCATION,
    STOCK_ASSETS,
    Answer,
    Up,
    Web,
    begin,
    cut_power,
    members,
    new_home,
    press_ctrl_c,
    typed,
    wait_until,
)
from tests.conftest import ROOT, as_csv, make_prices

TICKER_ASSETS = [{"path": [name]} for name in ("price_features", "ticker_models", "forecasts")]

# As the README has them, but for the address.
UPLOAD = 'curl -X POST -F "file=@your_stock_data.csv" URL/upload'
TICKERS = "curl URL/tickers"
PREDICT = "curl URL/predict/AAPL"
BATCH = (
    'curl -X POST -H "Content-Type: application/json" '
    """-d '{"tickers": ["AAPL","MSFT","GOOGL"]}' URL/batch-predict"""
)
TRAIN = "curl URL/train/AAPL"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """All of the platform on an empty home, as it starts; tests have tickers of their own."""
    up = Up(new_home(tmp_path_factory.mktemp("up")))
    try:
        up.start()
        yield up
    finally:
        cut_power(up.process)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files are before they are dropped."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def uploaded(up: Up, folder: Path) -> Answer:
    """The answer to the README's first call: two rows are wrong, and one stands there twice."""
    good = as_csv(pd.concat([make_prices("AAPL"), make_prices("MSFT")]))
    repeat = good.splitlines()[1]
    wrong = b"AAPL,Technology,2010-01-04,9.0,10.0,11.0,12.0,5\nAAPL,Technology,4 Jan,9,9,9,9,5"
    (folder / "your_stock_data.csv").write_bytes(good + repeat + b"\n" + wrong + b"\n")
    return typed(UPLOAD, up.url, folder)


@pytest.fixture(scope="module")
def copied(up: Up) -> list[str]:
    """Tickers of a file that was copied into the drop folder."""
    tickers = ["T", "V", "XOM"]
    prices = pd.concat([make_prices(ticker) for ticker in tickers])
    (up.home / "drops" / "prices.csv").write_bytes(as_csv(prices))
    return tickers


@pytest.fixture(scope="module")
def backfill(up: Up, copied: list[str]) -> str:
    """A backfill of those tickers, as the web UI asks for it; its daemon looks every 30 s."""
    wait_until(
        "forecast of the copied tickers",
        lambda: up.forecast_tickers().issuperset(copied),
        seconds=240,
    )
    launched = up.web.query(
        """mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
            __typename ... on LaunchBackfillSuccess { backfillId } } }""",
        p={
            "assetSelection": TICKER_ASSETS,
            "partitionNames": copied,
            "fromFailure": False,
            "tags": [],
        },
    )["launchPartitionBackfill"]
    return str(launched["backfillId"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("There is no Chromium.")
    with chromium(path) as started:
        yield started


@pytest.fixture
def tab(browser: Browser, up: Up) -> Iterator[Tab]:
    """The page; in the end nothing has failed."""
    tab = browser.tab()
    tab.watch()
    tab.open(up.url)
    tab.wait("document.querySelector('main[aria-busy=false]')")
    yield tab
    tab.evaluate("1")  # whatever was said until now is heard
    assert (tab.errors, tab.failed) == ([], [])
    tab.close()


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("uploaded", "copied")  # they are taken meanwhile
def test_a_csv_dropped_on_the_page_turns_into_forecasts(tab: Tab, folder: Path) -> None:
    file = folder / "chips.csv"
    file.write_bytes(as_csv(pd.concat([make_prices("AMD"), make_prices("NVDA")])))
    assert tab.evaluate("document.querySelector('h1').textContent") == "No prices yet"
    tab.evaluate("""window.steps = [], new MutationObserver(() => {
        const step = document.querySelector('.fate .now')?.textContent
        if (step && steps.at(-1) !== step) steps.push(step)
    }).observe(document.querySelector('#fates'), {subtree: true, childList: true})""")
    tab.drag("dragEnter", file)
    tab.wait("!document.querySelector('#veil').hidden")
    tab.drag("drop", file)
    tab.wait("document.querySelector('.fate.ready')", seconds=240)
    assert tab.evaluate("steps") == ["Send", "Queue", "Check", "Forecast"]
    told = " ".join(tab.evaluate("document.querySelector('.fate').innerText").split())
    assert "Forecasts are ready: AMD NVDA 240 rows: 240 accepted, 0 collapsed, 0 rejected" in told

    tab.click(".fate .links a")
    tab.wait("document.querySelector('h1').textContent === 'AMD'")
    tab.wait("document.querySelector('#chart .closes')")
    assert tab.evaluate("document.querySelectorAll('#chart .band').length") == 2
    facts = tab.evaluate("document.querySelector('.facts').innerText")
    assert "champion" in facts
    assert "not current" not in facts
    models = tab.evaluate(
        "[...document.querySelectorAll('[aria-label=Models] td:first-child')]"
        ".map(cell => cell.firstChild.textContent).sort()"
    )
    assert models == ["gradient_boosting", "linear_regression", "naive", "random_forest", "ridge"]
    assert (
        tab.evaluate("document.querySelectorAll('[aria-label=\"The next ten days\"] tr').length")
        == 11
    )


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("backfill")  # it is waited for meanwhile
def test_the_calls_of_the_readme(up: Up, uploaded: Answer, folder: Path) -> None:
    readme = (ROOT / "README.md").read_text().replace("http://127.0.0.1:8000", "URL")
    assert [line for line in (UPLOAD, TICKERS, PREDICT, BATCH, TRAIN) if line not in readme] == []

    drop = uploaded.content["drop"]
    assert uploaded.status == 202
    assert uploaded.content["is_new"]
    assert uploaded.content["follow"] == f"/drops/{drop}"
    report = up.wait_for_forecasts(drop)
    counts = [report[name] for name in ("rows_read", "accepted", "collapsed", "rejected")]
    assert counts == [243, 240, 1, 2]
    assert sum(reason["rows"] for reason in report["reasons"]) >= 2
    assert report["tickers"] == ["AAPL", "MSFT"]

    again = typed(UPLOAD, up.url, folder)
    assert again == Answer(202, uploaded.content | {"is_new": False})
    assert up.get(f"/drops/{drop}").content == report

    listed = typed(TICKERS, up.url, folder).content["tickers"]
    assert {"AAPL", "MSFT"} <= {row["ticker"] for row in listed if row["is_current"]}
    told = typed(PREDICT, up.url, folder).content
    assert [day["h"] for day in told["days"]] == list(range(1, 11))
    assert (told["as_of"], told["is_champion"], told["is_current"]) == ("2019-06-28", True, True)
    assert told["days"][0]["date"] == "2019-07-01"
    batch = typed(BATCH, up.url, folder).content["forecasts"]
    assert [row["ticker"] for row in batch] == ["AAPL", "MSFT", "GOOGL"]
    assert batch[0]["forecast"] == told
    assert batch[1]["forecast"]["ticker"] == "MSFT"
    assert batch[2]["forecast"] is None
    assert batch[2]["error"].startswith("No prices of GOOGL.")

    for call in (TRAIN, TRAIN.replace("curl", "curl -X POST")):
        trained = typed(call, up.url, folder)
        assert trained.status == 202
        (run,) = trained.content["runs"]
        assert run["tickers"] == ["AAPL"]
        ended = wait_until("end of the training", partial(over, up, run), seconds=240)
        assert ended["status"] == "succeeded", ended["detail"]
        assert {"ticker_models", "forecasts"} <= up.web.steps(run["run"])
        assert typed(PREDICT, up.url, folder).content["is_current"]


def over(up: Up, run: dict[str, Any]) -> dict[str, Any] | None:
    """What is told of a run that has ended."""
    told: dict[str, Any] = up.get(run["follow"]).content
    return told if told["ended_at"] else None


@pytest.mark.timeout(400)
def test_the_page_trains_anew(up: Up, tab: Tab, uploaded: Answer) -> None:
    up.wait_for_forecasts(uploaded.content["drop"])
    before = up.trainings("MSFT")
    tab.evaluate("location.hash = 'MSFT'")
    tab.wait("document.querySelector('#chart .closes')")
    tab.click("#train")
    tab.wait("document.querySelector('#train').disabled")
    tab.wait("document.querySelector('.fate.ready')", seconds=240)
    assert up.trainings("MSFT") == before + 1
    tab.wait("document.querySelector('#train:enabled')")
    tab.wait("document.querySelector('main[aria-busy=false] #chart .closes')")


@pytest.mark.timeout(400)
def test_a_copied_csv_is_forecast_and_the_ui_runs_ranges_of_it(up: Up, backfill: str) -> None:
    ingested = wait_until("ingestion", lambda: ended(up.web, "ingest_drop"), seconds=10)
    assert {run["status"] for run in ingested} == {"SUCCESS"}

    launched = up.web.query(
        """mutation ($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
            __typename ... on LaunchRunSuccess { run { id } } } }""",
        p={
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "V"}]},
            "selector": LOCATION | {"pipelineName": "__ASSET_JOB", "assetSelection": TICKER_ASSETS},
        },
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess"
    (by_hand,) = wait_until(
        "end of the run by hand",
        lambda: up.web.ended(**{"dagster/partition": "V"}),
        seconds=90,
    )
    assert by_hand["status"] == "SUCCESS"
    (of_backfill,) = wait_until(
        "end of the backfill's run",
        lambda: up.web.ended(**{"dagster/backfill": backfill}),
        seconds=240,
    )
    assert of_backfill["status"] == "SUCCESS"
    assert {"key": "dagster/asset_partition_range_start", "value": "T"} in of_backfill["tags"]


def ended(web: Web, job: str) -> list[dict[str, Any]]:
    """Runs of a job, if there are some and all have ended."""
    runs = [run for run in web.runs() if run["jobName"] == job]
    return runs if all(run["status"] in {"SUCCESS", "FAILURE"} for run in runs) else []


@pytest.mark.timeout(300)
def test_up_goes_on_after_a_power_cut(up: Up) -> None:
    wait_until("web UI", up.web.is_up, seconds=90)
    (up.home / "drops" / "oil.csv").write_bytes(as_csv(make_prices("OXY")))
    wait_until(
        "run that has started",
        lambda: any(run["status"] == "STARTED" for run in up.web.runs()),
        seconds=60,
    )
    cut_power(up.process)
    up.start()
    wait_until("forecast", lambda: "OXY" in up.forecast_tickers(), seconds=240)


@pytest.mark.timeout(300)
def test_ctrl_c_ends_all_of_up(up: Up) -> None:
    wait_until("web UI", up.web.is_up, seconds=90)
    press_ctrl_c(up.process)
    assert up.process.wait(30) == 0
    assert '"level": "error"' not in (up.home / "output.log").read_text()  # of the service
    wait_until("end of all processes", lambda: not members(up.process.pid), seconds=15)


@pytest.mark.timeout(200)
def test_plain_dagster_dev_serves_the_workspace(home: Path) -> None:
    web, dagster = Web(free_port()), STOCK_ASSETS.with_name("dagster")
    process = begin(home, dagster, "dev", "--workspace", "workspace.yaml", "--port", web.port)
    try:
        wait_until("web UI", web.is_up, seconds=90)
    finally:
        cut_power(process)


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
