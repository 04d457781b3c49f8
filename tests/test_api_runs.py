"""Drops, trainings and runs as the service tells of them, beside a real Dagster webserver."""

import gzip
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pandas as pd
import pytest
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.events.log import EventLogEntry

from stock_assets.api import monitor, service
from stock_assets.api.app import create_app
from stock_assets.api.dagster import Dagster
from stock_assets.database import Database
from stock_assets.errors import RunFailedError
from stock_assets.files import files_at
from stock_assets.keys import Scope, new_key
from stock_assets.local_runs import LocalRuns
from stock_assets.ranges import memory_tags, of_tickers
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store
from tests.bench.ui import web_server
from tests.browser import free_port, patiently, running
from tests.conftest import ROOT, as_csv, make_prices
from tests.series import Series
from tests.test_api import Client, body, problem, settings_of, tell
from tests.test_automation import EVENTS, ORIGIN, Sensors
from tests.test_database import register, take, validate

HALF_WRONG = as_csv(make_prices("HALF", 4)) + b"HALF,x,2019-01-02,1,1,1,1,-1\n" * 4
ENDINGS = ("success", "failure", "retried", "canceled")
MANY = [f"T{n:03}" for n in range(250)]
DOWN = "http://127.0.0.1:9"  # nobody listens there


@dataclass
class Platform:
    """A home with its Dagster: a webserver, no daemon; runs are executed here."""

    settings: Settings
    database: Database
    instance: dg.DagsterInstance
    runs: LocalRuns
    sensors: Sensors

    @property
    def folder(self) -> Path:
        """The drop folder."""
        return self.settings.home / "drops"

    @contextmanager
    def service(self, **changes: Any) -> Iterator[Client]:
        """The service on it, with other settings than it has."""
        with Client(create_app(self.settings.model_copy(update=changes))) as client:
            yield client

    def dropped(self) -> dict[str, int]:
        """When the files in the drop folder changed, in ns."""
        return {path.name: path.stat().st_mtime_ns for path in self.folder.iterdir()}

    def take(self) -> list[str]:
        """The drops that the sensor asks runs for when it has looked twice."""
        return [*self.sensors.look(), *self.sensors.look()]

    def refresh(self, *tickers: str) -> None:
        """Forecast tickers, as the second sensor has it done."""
        for request, _ in self.runs.plan(tickers, train=False):
            self.runs.refresh(request)

    def begin(
        self, status: dg.DagsterRunStatus, job: str = "ingest_drop", **tags: str
    ) -> dg.DagsterRun:
        """A run that nobody executes."""
        run = dg.DagsterRun(
            job_name=job,
            run_id=str(uuid4()),
            tags={name.replace("_", "/"): value for name, value in tags.items()},
            remote_job_origin=ORIGIN,
        )
        self.instance.add_run(run)
        self.turn(run, status)
        return run

    def turn(self, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> None:
        """Give a run another status."""
        if status in EVENTS:
            event = dg.DagsterEvent(EVENTS[status].value, job_name=run.job_name)
            self.instance.report_dagster_event(event, run.run_id)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STOCK_ASSETS_HOME", "DAGSTER_HOME"):
            patch.setenv(name, str(home))
        current_settings.cache_clear()
        with web_server(str(home)) as address, dg.DagsterInstance.get() as instance:
            settings = current_settings().model_copy(update={"dagster_url": address})
            (settings.home / "drops").mkdir()
            instance.add_dynamic_partitions("tickers", MANY)
            database = Database(settings.prediction_database_url)
            yield Platform(
                settings,
                database,
                instance,
                LocalRuns(settings, database),
                Sensors(settings, database, Store(files_at(settings.store)), instance),
            )
            database.engine.dispose()
    current_settings.cache_clear()


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    with platform.service() as client:
        yield client


def upload(client: Client, content: bytes, name: str = "prices.csv") -> dict[str, Any]:
    """What an upload is answered with."""
    told: dict[str, Any] = body(client.post("/upload", files={"file": (name, content)}), 202)
    return told


def fate(client: Client, drop: str) -> tuple[str, str]:
    """Where a drop stands, and what is said of it."""
    told = body(client.get(f"/drops/{drop}"))
    return told["status"], told["detail"]


# Drops


def test_upload_is_followed_until_its_forecasts_are_there(
    platform: Platform, client: Client
) -> None:
    good = pd.concat([make_prices("AAPL"), make_prices("MSFT")])
    faults: list[dict[str, object]] = [
        {"close": -1},
        {"close": -1, "volume": "x"},
        {"volume": "y"},
        {"sector": ""},
    ]
    faulty = pd.DataFrame(
        [
            {**good.iloc[0], "date": pd.Timestamp(2020, 1, day), **fault}
            for day, fault in enumerate(faults, 1)
        ]
    )
    content = as_csv(pd.concat([good, good[:2], faulty]).assign(note="?"))
    told = upload(client, content, "my prices.csv")
    drop = told["drop"]
    assert told == {
        "drop": drop,
        "is_new": True,
        "file_name": "my prices.csv",
        "size": len(content),
        "ignored_columns": ["note"],
        "doubts": [],
        "follow": f"/drops/{drop}",
    }
    queued = body(client.get(told["follow"]))
    assert queued.pop("received_at")[:4] >= "2026"
    assert queued == {
        "drop": drop,
        "file_name": "my prices.csv",
        "size": len(content),
        "status": "queued",
        "detail": "It waits for the sensor, which looks every few seconds.",
        **dict.fromkeys(("rows_read", "accepted", "collapsed", "rejected")),
        "reasons": [],
        "tickers": [],
        "waiting": 0,
    }

    assert platform.take() == [drop]
    run = platform.begin(dg.DagsterRunStatus.QUEUED, dagster_partition=drop)
    assert fate(client, drop) == ("queued", "It waits for its turn.")
    platform.turn(run, dg.DagsterRunStatus.STARTED)
    assert fate(client, drop) == ("running", "Its rows are validated.")
    platform.runs.ingest(drop)

    accepted = body(client.get(told["follow"]))
    assert (accepted["status"], accepted["detail"]) == (
        "accepted",
        "Its tickers wait for forecasts.",
    )
    counts = [accepted[name] for name in ("rows_read", "accepted", "collapsed", "rejected")]
    assert counts == [246, 240, 2, 4]
    reasons = {one["reason"]: one["rows"] for one in accepted["reasons"]}
    assert reasons["close is not a number above 0"] == 2
    assert reasons["volume is not a whole number of 0 or more"] == 2
    assert reasons["sector is empty"] == 1
    assert [*reasons.values()] == sorted(reasons.values(), reverse=True)
    assert (accepted["tickers"], accepted["waiting"]) == (["AAPL", "MSFT"], 2)
    assert "POST /train/MSFT" in problem(client.get("/predict/MSFT"), 409)

    platform.refresh("AAPL", "MSFT")
    ready = body(client.get(told["follow"]))
    assert (ready["detail"], ready["waiting"]) == ("Forecasts are ready.", 0)
    for ticker in ("AAPL", "MSFT"):
        assert_forecast(body(client.get(f"/predict/{ticker}")))
    again = upload(client, content, "again.csv")
    assert again == told | {"is_new": False}
    assert platform.take() == []


def assert_forecast(told: dict[str, Any]) -> None:
    """Ten trading days, in order, with intervals in order."""
    days = told["days"]
    sessions = (1, 2, 3, 5, 8, 9, 10, 11, 12, 15)
    assert [day["date"] for day in days] == [f"2019-07-{day:02}" for day in sessions]
    assert [day["h"] for day in days] == [*range(1, 11)]
    for day in days:
        bounds = [day[name] for name in ("lo_95", "lo_80", "close", "hi_80", "hi_95")]
        assert bounds == sorted(set(bounds))
    for one, other in pairwise(days):
        assert other["hi_95"] - other["lo_95"] > one["hi_95"] - one["lo_95"]
    assert (told["as_of"], told["is_current"]) == ("2019-06-28", True)


def test_counts_of_reasons_hold_on_both_databases(database: Database, tmp_path: Path) -> None:
    rows = make_prices(days=9)
    rows.loc[:2, "close"] = -1
    rows.loc[1:4, "sector"] = ""
    content = as_csv(rows)
    drop = register(database, content)
    database.store_drop(drop, validate(content))
    address = database.url.render_as_string(hide_password=False)
    with Client(create_app(settings_of(tmp_path, address))) as client:
        told = body(client.get(f"/drops/{drop.key}"))
    assert told["reasons"][:2] == [
        {"reason": "sector is empty", "rows": 4},
        {"reason": "close is not a number above 0", "rows": 3},
    ]
    assert told["rejected"] == 5
    assert told["detail"].startswith("It is forecast when Dagster is up. Dagster at")


def test_same_bytes_are_left_alone_while_they_are_on_their_way(
    platform: Platform, client: Client
) -> None:
    content = as_csv(make_prices("SAME", 3))
    drop = upload(client, content, "first.csv")["drop"]
    before = platform.dropped()
    run = None
    for status in (None, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED):
        if status:
            run = run or platform.begin(status, dagster_partition=drop)
            platform.turn(run, status)
        told = upload(client, content, "second.csv")
        assert (told["drop"], told["is_new"], told["file_name"]) == (drop, False, "first.csv")
        assert platform.dropped() == before
    platform.take()
    platform.runs.ingest(drop)
    (platform.folder / f"{drop}.csv").unlink()
    assert upload(client, content, "third.csv")["drop"] == drop
    assert f"{drop}.csv" not in platform.dropped()


def test_file_that_was_lost_on_its_way_is_put_there_again(
    platform: Platform, client: Client
) -> None:
    content = as_csv(make_prices("LOST", 3))
    drop = upload(client, content)["drop"]
    (platform.folder / f"{drop}.csv").unlink()
    assert upload(client, content)["is_new"] is False
    assert platform.take() == [drop]


def test_gzip_is_dropped_as_one(platform: Platform, client: Client) -> None:
    drop = upload(client, gzip.compress(as_csv(make_prices("ZIP", 3))), "p.csv.gz")["drop"]
    assert f"{drop}.csv.gz" in platform.dropped()
    assert platform.take() == [drop]
    platform.runs.ingest(drop)
    assert body(client.get(f"/drops/{drop}"))["accepted"] == 3


def test_drop_of_known_prices_changes_nothing(platform: Platform, client: Client) -> None:
    for content in (as_csv(make_prices("KNOWN", 3)), as_csv(make_prices("KNOWN", 3)) + b"\n"):
        drop = upload(client, content)["drop"]
        assert platform.take() == [drop]
        platform.runs.ingest(drop)
    assert fate(client, drop) == ("accepted", "It changes no prices.")


def test_refused_file_fails_with_the_sentence_that_says_why(
    platform: Platform, client: Client
) -> None:
    content = as_csv(make_prices("AAPL", 1500)) + b"\0"
    drop = upload(client, content)["drop"]
    assert platform.take() == [drop]
    said = "The file is not text: line 1502 holds the byte 0x00. Expected a CSV in UTF-8, plain "
    with pytest.raises(RunFailedError, match=said):
        platform.runs.ingest(drop)
    told = body(client.get(f"/drops/{drop}"))
    assert (told["status"], told["detail"]) == ("failed", f"{said}or gzip.")
    assert (told["rows_read"], told["tickers"], told["reasons"]) == (None, [], [])
    (failed,) = platform.instance.get_runs(dg.RunsFilter(tags={"dagster/partition": drop}))
    run = body(client.get(f"/runs/{failed.run_id}"))
    assert (run["status"], run["job"]) == ("failed", "ingest_drop")
    assert run["detail"] == f"prices.csv: {said}or gzip."


def test_drop_whose_run_failed_may_be_uploaded_once_more(
    platform: Platform, client: Client
) -> None:
    content = as_csv(make_prices("AGAIN", 3))
    drop = upload(client, content)["drop"]
    assert platform.take() == [drop]
    kept = platform.settings.home / "store" / "drops"
    hidden = kept.rename(kept.with_name("hidden"))
    with pytest.raises(RunFailedError, match="is not there: put it back"):
        platform.runs.ingest(drop)
    hidden.rename(kept)
    status, detail = fate(client, drop)
    assert status == "failed"
    assert f"SetupError: The database knows of drops/{drop}, but file://" in detail
    assert detail.endswith(" Upload it again to have it tried once more.")

    before = platform.dropped()
    assert upload(client, content, "renamed.csv")["drop"] == drop
    after = platform.dropped()
    assert after.keys() == before.keys()
    assert after[f"{drop}.csv"] > before[f"{drop}.csv"]
    waits = ("queued", "It waits for the sensor, which looks every few seconds.")
    assert fate(client, drop) == waits
    upload(client, content)
    assert platform.dropped() == after

    assert platform.take() == [drop]
    platform.runs.ingest(drop)
    assert fate(client, drop)[0] == "accepted"


def test_drop_whose_run_was_canceled_says_so_and_others_do_not(
    platform: Platform, client: Client
) -> None:
    other = upload(client, as_csv(make_prices("OTHER", 3)))["drop"]
    drop = upload(client, as_csv(make_prices("CANCEL", 3)))["drop"]
    platform.begin(dg.DagsterRunStatus.CANCELED, dagster_partition=drop)
    assert fate(client, drop) == (
        "failed",
        "Its run was canceled: upload it again to have it tried.",
    )
    assert fate(client, other)[1].startswith("It waits for the sensor")


def test_drop_waits_where_dagster_is_down(platform: Platform) -> None:
    content = as_csv(make_prices("DOWN", 3))
    with platform.service(dagster_url=DOWN) as client:
        drop = upload(client, content)["drop"]
        before = platform.dropped()
        assert upload(client, content)["drop"] == drop
        assert platform.dropped() == before
        status, detail = fate(client, drop)
        assert status == "queued"
        assert detail.startswith(
            f"It is kept, and taken when Dagster is up. Dagster at {DOWN} does"
        )
        assert drop in platform.take()
        platform.runs.ingest(drop)
        status, detail = fate(client, drop)
        assert status == "accepted"
        assert detail.startswith(f"It is forecast when Dagster is up. Dagster at {DOWN} does not")


def test_forecasting_that_failed_is_told_of_the_drops_that_wait_for_it(
    platform: Platform, client: Client
) -> None:
    earlier = platform.begin(dg.DagsterRunStatus.STARTED, "refresh_tickers")
    platform.instance.report_run_failed(earlier, "Nobody has room.")
    begun = int(time.time())
    while int(time.time()) == begun:  # drops are dated by the second
        time.sleep(0.02)
    drop = upload(client, as_csv(make_prices("WAITS", 3)))["drop"]
    assert drop in platform.take()
    platform.runs.ingest(drop)
    assert fate(client, drop) == ("accepted", "Its tickers wait for forecasts.")
    run = platform.begin(dg.DagsterRunStatus.STARTED, "refresh_tickers")
    assert fate(client, drop) == ("accepted", "Its tickers wait for forecasts.")
    platform.instance.report_run_failed(run, "The worker was lost.")
    assert fate(client, drop) == (
        "accepted",
        "The last forecasting run failed: The worker was lost. It is tried again at night.",
    )


# Training


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database with 250 tickers, of which Dagster knows too."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('many') / 'predictions.db'}")
    tell(database, *MANY, "STRANGER")
    database.engine.dispose()
    return database.url.render_as_string()


Launched = dict[str, tuple[list[str], dict[str, str]]]


def launched(platform: Platform, *answers: dict[str, Any]) -> Launched:
    """The tickers of each run that was told, and the run's tags."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        for one in answer["runs"]:
            assert one["follow"] == f"/runs/{one['run']}"
            found.setdefault(one["run"], []).extend(one["tickers"])
    tags = {}
    for run_id in found:
        run = platform.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.job_name == "refresh_tickers"
        assert run.status == dg.DagsterRunStatus.QUEUED
        assert {key.to_user_string() for key in run.asset_selection or ()} == {
            *of_tickers(train=True)
        }
        tags[run_id] = dict(run.tags)
    return {run_id: (sorted(names), tags[run_id]) for run_id, names in found.items()}


def ends(tags: dict[str, str]) -> tuple[str, str]:
    """The first and the last ticker that a run is of."""
    return (
        tags["dagster/asset_partition_range_start"],
        tags["dagster/asset_partition_range_end"],
    )


@pytest.mark.parametrize(("method", "path"), [("GET", "/train/t007"), ("POST", "/train/T007")])
def test_training_of_one_is_a_run_of_it(
    platform: Platform, many: str, method: str, path: str
) -> None:
    with platform.service(database_url=many, heavy_memory="4Gi") as client:
        told = body(client.request(method, path), 202)
        ((run_id, (names, tags)),) = launched(platform, told).items()
        assert (names, ends(tags)) == (["T007"], ("T007", "T007"))
        assert memory_tags(of_tickers(train=True), "4Gi").items() <= tags.items()
        assert body(client.get(f"/runs/{run_id}")) == {
            "run": run_id,
            "job": "refresh_tickers",
            "status": "queued",
            "detail": "",
            "started_at": None,
            "ended_at": None,
        }


def test_trainings_that_are_asked_for_at_once_share_a_run(platform: Platform, many: str) -> None:
    wanted = MANY[20:220]
    with platform.service(database_url=many) as client:
        before = trainings(client)
        answers = client.at_once("POST", [f"/train/{name}" for name in wanted])
        told = [body(answer, 202) for answer in answers]
        assert trainings(client) == before + 200
    for name, answer in zip(wanted, told, strict=True):
        assert [one["tickers"] for one in answer["runs"]] == [[name]]
    runs = launched(platform, *told).values()
    assert len(runs) <= 4  # one, unless this machine stumbles
    assert sorted(name for names, _ in runs for name in names) == wanted
    for names, tags in runs:
        assert ends(tags) == (names[0], names[-1])


def trainings(client: Client) -> float:
    """How many were asked for."""
    lines = client.get("/metrics").text.splitlines()
    (told,) = [line for line in lines if line.startswith("stock_assets_api_trainings_total ")]
    return float(told.split()[1])


def test_range_has_no_more_tickers_than_a_run_may_have(
    platform: Platform, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "GATHER_SECONDS", 1.0)
    with platform.service(database_url=many, max_tickers_per_run=60) as client:
        answers = client.at_once("GET", [f"/train/{name}" for name in MANY[:200]])
        told = launched(platform, *(body(answer, 202) for answer in answers))
    assert sorted(ends(tags) for _, tags in told.values()) == [
        ("T000", "T059"),
        ("T060", "T119"),
        ("T120", "T179"),
        ("T180", "T199"),
    ]
    assert sorted(name for names, _ in told.values() for name in names) == MANY[:200]
    for names, tags in told.values():
        assert (names[0], names[-1]) == ends(tags)


def test_tickers_far_apart_are_runs_of_their_own(platform: Platform, many: str) -> None:
    wanted = ["T249", "t000", "T001", "T249", "T002"]
    with platform.service(database_url=many) as client:
        told = launched(platform, body(client.post("/train", json={"tickers": wanted}), 202))
    assert sorted((names, ends(tags)) for names, tags in told.values()) == [
        (["T000", "T001", "T002"], ("T000", "T002")),
        (["T249"], ("T249", "T249")),
    ]


def test_those_who_come_later_get_a_run_of_their_own(platform: Platform, many: str) -> None:
    with platform.service(database_url=many) as client:
        runs = [body(client.post("/train/T001"), 202)["runs"][0]["run"] for _ in range(2)]
    assert len(set(runs)) == 2


def test_unknown_tickers_are_not_trained(platform: Platform, many: str) -> None:
    count = platform.instance.get_runs_count()
    with platform.service(database_url=many) as client:
        said = problem(client.get("/train/T999"), 404)
        assert said.startswith("No prices of T999. Did you mean T199, T099")
        said = problem(client.post("/train", json={"tickers": ["T001", "NONE", "WHO"]}), 404)
    assert "No prices of NONE." in said
    assert "No prices of WHO." in said
    assert platform.instance.get_runs_count() == count


def test_ticker_that_dagster_does_not_know_yet_is_told(platform: Platform, many: str) -> None:
    with platform.service(database_url=many) as client:
        answers = client.at_once(
            "POST", [f"/train/{name}" for name in ("T001", "STRANGER", "T003")]
        )
    said = problem(answers[1], 409)
    assert said.startswith("Dagster has no partition of STRANGER yet")
    launched(platform, *(body(answer, 202) for answer in answers[::2]))


def test_tickers_that_dagster_does_not_know_yet_keep_no_others_waiting(
    platform: Platform, many: str
) -> None:
    with platform.service(database_url=many) as client:
        before = trainings(client)
        told = body(client.post("/train", json={"tickers": ["T001", "STRANGER"]}), 202)
        assert trainings(client) == before + 1
    assert told["lacking"] == ["STRANGER"]
    assert [run["tickers"] for run in told["runs"]] == [["T001"]]
    launched(platform, told)


def test_training_needs_what_all_tickers_tell(platform: Platform, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'predictions.db'}")
    take(database, make_prices("T001", 9))
    with platform.service(database_url=database.url.render_as_string()) as client:
        said = problem(client.post("/train/T001"), 409)
    assert said.startswith("What all tickers tell together is not learned yet.")


# Runs


def test_run_is_followed_to_its_end(platform: Platform, client: Client) -> None:
    run = platform.begin(dg.DagsterRunStatus.QUEUED, "refresh_tickers")

    def told() -> tuple[str, bool, bool]:
        report = body(client.get(f"/runs/{run.run_id}"))
        assert (report["run"], report["job"]) == (run.run_id, "refresh_tickers")
        assert report["detail"] == ""
        return report["status"], bool(report["started_at"]), bool(report["ended_at"])

    assert told() == ("queued", False, False)
    platform.turn(run, dg.DagsterRunStatus.STARTING)
    assert told() == ("running", False, False)
    platform.turn(run, dg.DagsterRunStatus.STARTED)
    assert told() == ("running", True, False)
    platform.turn(run, dg.DagsterRunStatus.SUCCESS)
    assert told() == ("succeeded", True, True)


def test_canceled_run_is_told(platform: Platform, client: Client) -> None:
    run = platform.begin(dg.DagsterRunStatus.STARTED, "refresh_tickers")
    platform.turn(run, dg.DagsterRunStatus.CANCELED)
    assert body(client.get(f"/runs/{run.run_id}"))["status"] == "canceled"


def test_run_that_failed_outside_of_its_steps_says_why(platform: Platform, client: Client) -> None:
    run = platform.begin(dg.DagsterRunStatus.STARTED, "refresh_tickers")
    platform.instance.report_run_failed(run, "The worker was lost.")
    told = body(client.get(f"/runs/{run.run_id}"))
    assert (told["status"], told["detail"]) == ("failed", "The worker was lost.")


def test_sentence_of_a_step_is_found_behind_thousands_of_events(
    platform: Platform, client: Client
) -> None:
    drop = upload(client, as_csv(make_prices("AAPL", 1600)) + b"\0")["drop"]
    assert platform.take() == [drop]
    platform.instance.add_dynamic_partitions("csv_drops", [drop])
    run_id = str(uuid4())
    platform.instance.event_log_storage.store_event_batch(
        [materialization(run_id, f"T{n}") for n in range(2_500)]
    )
    with pytest.raises(RunFailedError):
        platform.runs._run("ingest_drop", partition_key=drop, run_id=run_id)
    told = body(client.get(f"/runs/{run_id}"))
    assert told["status"] == "failed"
    assert told["detail"].startswith("prices.csv: The file is not text: line 1602 holds the byte ")


def materialization(run_id: str, partition: str) -> EventLogEntry:
    """An event as it lies in the log."""
    made = StepMaterializationData(dg.AssetMaterialization("forecasts", partition=partition))
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level=20,
        user_message="",
        run_id=run_id,
        timestamp=time.time(),
        job_name="ingest_drop",
        dagster_event=DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            "ingest_drop",
            event_specific_data=made,
        ),
    )


def test_unknown_run_is_told(client: Client) -> None:
    for unknown in (uuid4(), "x", "0" * 64):
        said = problem(client.get(f"/runs/{unknown}"), 404)
        assert said.startswith(f"No run {unknown}. ")


def test_service_is_ready_when_both_answer(client: Client) -> None:
    assert body(client.get("/readyz")) == {"database": "ok", "dagster": "ok"}


# All that it describes

CONFIG = """
[[operations]]
include-path = "/upload"
# Of its file OpenAPI can say no more than that it is one.
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]
"""


def test_service_keeps_to_what_it_describes(
    platform: Platform, postgres_database: str, tmp_path: Path
) -> None:
    database = Database(postgres_database)
    tell(database, *MANY[:3])
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    secret, key = new_key("tester", [*Scope])
    environment = {
        "STOCK_ASSETS_API_KEYS": str(key),
        "STOCK_ASSETS_API_RATE_LIMIT": "100000/second",
        "STOCK_ASSETS_DAGSTER_URL": platform.settings.dagster_url,
        "STOCK_ASSETS_DATABASE_URL": postgres_database,
        "STOCK_ASSETS_HOME": str(tmp_path),
    }
    port, programs = free_port(), Path(sys.executable).parent
    with running(programs / "stock-assets", "serve", "--port", port, **environment):
        patiently(lambda: socket.create_connection(("127.0.0.1", port)).close())
        found = subprocess.run(
            [
                *(programs / "schemathesis", "--config-file", "schemathesis.toml", "run"),
                f"http://127.0.0.1:{port}/openapi.json",
                *("--checks", "all", "--max-examples", "8", "--seed", "1"),
                *("--suppress-health-check", "all"),
                *("--header", f"Authorization: Bearer {secret}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "13 selected / 13 total" in found.stdout
    database.engine.dispose()


# A Dagster that is none, or answers otherwise


Reply = tuple[int, str, bytes]


@contextmanager
def answering(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[str]:
    """The address of a server that answers every question so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, kind, content = reply(asked)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def in_json(document: object, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(document).encode()


@pytest.fixture
def no_dagster(tmp_path: Path) -> Callable[[str], Any]:
    """A service with one drop, of an installation that has another Dagster."""

    @contextmanager
    def serve(address: str) -> Iterator[tuple[Client, str]]:
        home = tmp_path / uuid4().hex
        url = f"sqlite:///{home / 'predictions.db'}"
        database = Database(url)
        drop = register(database, b"content")
        with Client(create_app(settings_of(home, url, dagster_url=address))) as client:
            yield client, drop.key

    return serve


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        ((200, "text/html", b"<html>Welcome</html>"), 503, "does not answer (JSONDecodeError)."),
        ((500, "text/plain", b"Internal Server Error"), 503, "does not answer (JSONDecodeError)."),
        ((502, "text/html", b"\xff\xfe"), 503, "does not answer ("),
        (in_json({"detail": "Not Found"}, 404), 503, "(what does is no GraphQL)."),
        (in_json({"data": None}), 503, "(what does is no GraphQL)."),
        (in_json([]), 503, "(what does is no GraphQL)."),
        (in_json("errors"), 503, "(what does is no GraphQL)."),
        (in_json({"errors": ["strange"]}), 503, "(what does is no GraphQL)."),
        (in_json({"errors": [{"message": "No such field."}]}, 400), 502, "Dagster says: No such "),
        (
            in_json({"errors": [{"message": "It broke."}], "data": None}, 200),
            502,
            "Dagster says: It broke.",
        ),
    ],
)
def test_whoever_is_no_dagster_is_told(
    no_dagster: Any, reply: Reply, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(lambda _: reply) as address, no_dagster(address) as (client, drop):
        assert said in problem(client.get("/runs/1"), status)
        assert body(client.get("/readyz"), 503)["dagster"] == service.NO_DAGSTER
        assert said in capsys.readouterr().out
        assert fate(client, drop)[0] == "queued"


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://127.0.0.1:port", "ftp://here", "", DOWN]
)
def test_address_where_nobody_is_is_told(no_dagster: Any, address: str) -> None:
    with no_dagster(address) as (client, _):
        assert "STOCK_ASSETS_DAGSTER_URL" in problem(client.get("/runs/1"), 503)
        assert "STOCK_ASSETS_DAGSTER_URL" in body(client.get("/readyz"), 503)["dagster"]


@dataclass
class Small:
    """A Dagster of one ticker, whose code is somewhere."""

    location: str = "here"
    job: str = "refresh_tickers"
    refusal: dict[str, str] = field(default_factory=dict)
    launched: int = 0

    def __call__(self, asked: dict[str, Any]) -> Reply:
        """Answer the questions that the service has when it launches runs."""
        query = asked["query"]
        if "repositoriesOrError" in query:
            node = {"name": "__repository__", "location": {"name": self.location}}
            nodes = [{**node, "pipelines": [{"name": self.job}]}] if self.location else []
            return in_json({"data": {"repositoriesOrError": {"nodes": nodes}}})
        if "assetNodeOrError" in query:
            return in_json({"data": {"assetNodeOrError": {"partitionKeys": ["T001"]}}})
        selector = asked["variables"]["params"]["selector"]
        if self.refusal or selector["repositoryLocationName"] != self.location:
            told: Any = self.refusal or {"__typename": "PipelineNotFoundError", "message": "Gone."}
        else:
            self.launched += 1
            told = {"__typename": "LaunchRunSuccess", "run": {"runId": f"run-{self.launched}"}}
        return in_json({"data": {"launchPipelineExecution": told}})


@pytest.mark.parametrize("dagster", [Small(location=""), Small(job="another")])
def test_dagster_that_has_not_loaded_our_jobs_is_told(
    no_dagster: Any, dagster: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(dagster) as address, no_dagster(address) as (client, _):
        assert body(client.get("/readyz"), 503)["dagster"] == service.NO_DAGSTER
        assert "has not loaded our jobs" in capsys.readouterr().out


def said_by(refusal: dict[str, str]) -> str:
    """What Dagster says of a refusal, at least its kind."""
    return refusal.get("message", refusal["__typename"])


@pytest.mark.parametrize(
    "refusal",
    [
        {"__typename": "PythonError", "message": "No room."},
        {"__typename": "UnauthorizedError"},
    ],
)
def test_launch_that_is_refused_is_told(
    platform: Platform, many: str, refusal: dict[str, str]
) -> None:
    dagster = Small(refusal=refusal)
    with (
        answering(dagster) as address,
        platform.service(database_url=many, dagster_url=address) as client,
    ):
        said = problem(client.post("/train/T001"), 502)
        assert said == f"Dagster does not launch the run: {said_by(refusal)}"
        dagster.refusal = {}
        assert body(client.post("/train/T001"), 202)["runs"][0]["run"] == "run-1"


def test_code_that_has_moved_is_found_again(platform: Platform, many: str) -> None:
    dagster = Small()
    with (
        answering(dagster) as address,
        platform.service(database_url=many, dagster_url=address) as client,
    ):
        body(client.post("/train/T001"), 202)
        dagster.location = "there"
        with suppress(AssertionError):
            body(client.post("/train/T001"), 202)
        assert body(client.post("/train/T001"), 202)["runs"][0]["run"] == "run-2"


def test_training_is_refused_where_dagster_is_down(platform: Platform, many: str) -> None:
    with platform.service(database_url=many, dagster_url=DOWN) as client:
        answers = client.at_once("POST", [f"/train/{name}" for name in MANY[:5]])
        for answer in answers:
            assert "STOCK_ASSETS_DAGSTER_URL" in problem(answer, 503)


# Metrics


def scraped(client: Client) -> Series:
    """What Prometheus is told of Dagster."""
    return Series.of(client.get("/metrics", params={"group": ["dagster", "api"]}).text)


def test_metrics_tell_of_runs_assets_and_checks(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "PATIENCE_SECONDS", 10.0)
    monkeypatch.setattr(monitor, "FRESH_SECONDS", 0.0)
    with platform.service() as client:
        before = scraped(client)
        assert before["source_up", "dagster"] == 1
        refused = upload(client, as_csv(make_prices("METR", 1500)) + b"\0")["drop"]
        assert platform.take() == [refused]
        with pytest.raises(RunFailedError):
            platform.runs.ingest(refused)
        good = upload(client, as_csv(make_prices("METR", 30)), "metrics.csv")["drop"]
        bad = upload(client, HALF_WRONG, "wrong.csv")["drop"]
        assert sorted(platform.take()) == sorted([good, bad])
        begun = time.time()
        for drop in (good, bad):
            platform.runs.ingest(drop)
        status = dg.DagsterRunStatus
        platform.begin(status.FAILURE)  # of a worker that was lost: it is tried anew
        platform.begin(status.CANCELED, "refresh_tickers")
        platform.begin(status.STARTED, "refresh_tickers")
        queued = time.time()
        for _ in range(2):
            platform.begin(status.QUEUED)
        told = scraped(client)

    def more(*key: str) -> float:
        return told[key] - before[key]

    assert {s: more("runs_ended_total", "ingest_drop", s) for s in ENDINGS} == {
        "success": 2,
        "failure": 1,
        "retried": 1,
        "canceled": 0,
    }
    assert more("runs_ended_total", "refresh_tickers", "canceled") == 1
    assert more("runs", "refresh_tickers", "running") == 1
    assert more("runs", "ingest_drop", "queued") == 2
    assert told["oldest_queued_run_timestamp_seconds",] <= queued + 1
    for asset in ("raw_prices", "validated_prices"):
        assert told["asset_materialization_timestamp_seconds", asset] >= begun
        assert 0 < told["step_duration_seconds", asset] < 60
    assert told["check_failed", "validated_prices", "few_rows_are_rejected", "warning"] == 1
    assert told["check_failed", "validated_prices", "rows_add_up", "error"] == 0
    assert not any(told.of_name("daemon_healthy").values())  # none runs here
    assert told["daemon_healthy", "sensor"] == 0


def test_metrics_are_asked_for_in_one_query_and_told_while_it_lasts(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "PATIENCE_SECONDS", 10.0)
    asked, ask = [], Dagster.ask

    async def heard(dagster: Dagster, query: str, **variables: Any) -> dict[str, Any]:
        asked.append(query)
        return await ask(dagster, query, **variables)

    monkeypatch.setattr(Dagster, "ask", heard)
    with platform.service() as client:
        told = scraped(client)
        assert told["source_up", "dagster"] == 1
        assert len(asked) == 2  # where our jobs are, which is asked once, and all else
        assert scraped(client).of_name("runs") == told.of_name("runs")
        assert len(asked) == 2
        monkeypatch.setattr(monitor, "FRESH_SECONDS", 0.0)
        scraped(client)
        assert len(asked) == 3
