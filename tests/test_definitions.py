"""What Dagster loads: the shape of the platform, its instance, and the tools that look at it."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster_postgres import DagsterPostgresStorage

from stock_assets.definitions import defs
from stock_assets.defs import assets
from stock_assets.defs.instance import _make_tables
from stock_assets.files import Folder
from stock_assets.settings import current_settings
from tests.conftest import ROOT, empty_database

ASSETS = [
    assets.fetched_prices,
    assets.raw_prices,
    assets.validated_prices,
    assets.price_features,
    assets.ticker_models,
    assets.forecasts,
    assets.interval_widths,
    assets.market_model,
    assets.forecast_scores,
    assets.champion,
]
COMMANDS = ["dg check defs", "dg list defs", "dagster definitions validate -w workspace.yaml"]


def test_definitions_are_loadable() -> None:
    dg.Definitions.validate_loadable(defs())


def test_assets_have_the_shape_that_is_promised() -> None:
    assert {
        asset.key.to_user_string(): (
            asset.partitions_def.name
            if isinstance(asset.partitions_def, dg.DynamicPartitionsDefinition)
            else None,
            sorted(dep.asset_key.to_user_string() for dep in asset.specs_by_key[asset.key].deps),
            asset.specs_by_key[asset.key].group_name,
            asset.specs_by_key[asset.key].code_version,
            asset.backfill_policy and asset.backfill_policy.max_partitions_per_run,
        )
        for asset in ASSETS
    } == {
        "fetched_prices": (None, [], "drops", "1", None),
        "raw_prices": ("csv_drops", ["fetched_prices"], "drops", "1", None),
        "validated_prices": ("csv_drops", ["raw_prices"], "drops", "1", None),
        "price_features": ("tickers", ["validated_prices"], "forecasting", "2", 1000),
        "interval_widths": (None, ["validated_prices"], "forecasting", "1", None),
        "market_model": (None, ["validated_prices"], "forecasting", "3", None),
        "ticker_models": (
            "tickers",
            ["interval_widths", "market_model", "price_features"],
            "forecasting",
            "3",
            1000,
        ),
        "forecasts": (
            "tickers",
            ["interval_widths", "market_model", "price_features", "ticker_models"],
            "forecasting",
            "2",
            1000,
        ),
        "forecast_scores": (None, ["forecasts", "validated_prices"], "forecasting", "1", None),
        "champion": (
            None,
            ["forecast_scores", "forecasts", "ticker_models"],
            "forecasting",
            "1",
            None,
        ),
    }


def test_platform_has_these_assets_and_no_others() -> None:
    assert {spec.key for spec in defs().resolve_all_asset_specs()} == {
        asset.key for asset in ASSETS
    }


def test_checks_are_the_promised_ones_and_block_where_they_must() -> None:
    assert {
        (asset.key.to_user_string(), check.name, check.blocking)
        for asset in ASSETS
        for check in asset.check_specs
    } == {
        ("fetched_prices", "every_ticker_is_answered", False),
        ("raw_prices", "file_is_unchanged", True),
        ("validated_prices", "rows_add_up", True),
        ("validated_prices", "columns_and_types_hold", True),
        ("validated_prices", "keys_are_unique", True),
        ("validated_prices", "prices_are_ordered", True),
        ("validated_prices", "few_rows_are_rejected", False),
        ("price_features", "features_are_finite", True),
        ("price_features", "features_are_causal_in_shape", True),
        ("price_features", "closes_do_not_jump", False),
        ("price_features", "last_day_is_recent", False),
        ("price_features", "history_is_long_enough", False),
        ("price_features", "features_are_as_trained", False),
        ("interval_widths", "widths_are_ordered", True),
        ("ticker_models", "champion_is_not_worse_than_naive", False),
        ("forecasts", "intervals_are_ordered", True),
        ("forecasts", "every_ticker_is_forecast", True),
        ("forecast_scores", "forecasts_keep_up_with_naive", False),
        ("forecast_scores", "intervals_hold_80", False),
        ("forecast_scores", "intervals_hold_95", False),
        ("forecast_scores", "errors_are_as_trained", False),
    }


def test_jobs_hold_drops_and_all_that_comes_of_them() -> None:
    jobs = ("fetch_prices", "ingest_drop", "refresh_tickers")
    assert {
        job: sorted(
            key.to_user_string()
            for key in defs().resolve_job_def(job).asset_layer.selected_asset_keys
        )
        for job in jobs
    } == {
        "fetch_prices": ["fetched_prices"],
        "ingest_drop": ["raw_prices", "validated_prices"],
        "refresh_tickers": [
            "champion",
            "forecast_scores",
            "forecasts",
            "interval_widths",
            "market_model",
            "price_features",
            "ticker_models",
        ],
    }


def test_sensors_run_from_the_start() -> None:
    assert {
        (s.name, s.job_name, s.default_status)
        for s in map(defs().resolve_sensor_def, ("drop_sensor", "refresh_sensor"))
    } == {
        ("drop_sensor", "ingest_drop", dg.DefaultSensorStatus.RUNNING),
        ("refresh_sensor", "refresh_tickers", dg.DefaultSensorStatus.RUNNING),
    }


def test_schedules_keep_the_hours_of_the_exchange() -> None:
    running, stopped = dg.DefaultScheduleStatus.RUNNING, dg.DefaultScheduleStatus.STOPPED
    names = ("nightly_fetch", "hourly_fetch", "nightly_forecast", "weekly_training")
    schedules = [defs().resolve_schedule_def(name) for name in names]
    assert {schedule.execution_timezone for schedule in schedules} == {"America/New_York"}
    assert [(s.name, s.job_name, s.cron_schedule, s.default_status) for s in schedules] == [
        ("nightly_fetch", "fetch_prices", "5 18 * * 1-5", running),
        ("hourly_fetch", "fetch_prices", "35 * * * *", stopped),
        ("nightly_forecast", "refresh_tickers", "30 18 * * 1-5", running),
        ("weekly_training", "refresh_tickers", "0 6 * * 6", running),
    ]


def test_resources_are_those_that_the_settings_name(home: Path) -> None:
    resources = defs().resources
    assert resources is not None
    assert resources.keys() == {"settings", "database", "store", "watch"}
    assert resources["settings"] is current_settings()
    assert resources["store"].files == Folder(home / "store")
    assert resources["database"].url.database == str(home / "predictions.db")


def test_loading_the_definitions_touches_no_file(home: Path) -> None:
    defs()
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


def test_assets_are_overdue_after_their_schedule_was_missed() -> None:
    assert {
        spec.key.to_user_string(): spec.freshness_policy
        for spec in defs().resolve_all_asset_specs()
    } == {
        "fetched_prices": None,
        "raw_prices": None,
        "price_features": None,
        "champion": None,
        **{
            name: dg.FreshnessPolicy.time_window(fail_window=timedelta(days=days))
            for name, days in (
                ("validated_prices", 4),
                ("forecasts", 4),
                ("forecast_scores", 4),
                ("interval_widths", 4),
                ("ticker_models", 9),
                ("market_model", 9),
            )
        },
    }


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_asset_is_described_for_the_catalog(asset: dg.AssetsDefinition) -> None:
    spec = asset.specs_by_key[asset.key]
    assert spec.owners
    assert spec.kinds
    assert spec.description
    assert spec.description.count(". ") + spec.description.count(".\n") >= 1
    assert all(check.description for check in asset.check_specs)


# The instance


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:  # noqa: ARG001
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_lost_workers_are_retried_and_failed_steps_are_not(instance: dg.DagsterInstance) -> None:
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.run_monitoring_enabled


def test_few_runs_share_the_machine_and_none_runs_for_ever(instance: dg.DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    assert queue
    assert queue.max_concurrent_runs == 3
    assert instance.run_monitoring_max_runtime_seconds == 3 * 60 * 60


def test_nothing_is_told_to_others(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled


def test_dagster_keeps_its_records_in_the_home(instance: dg.DagsterInstance, home: Path) -> None:
    instance.add_dynamic_partitions("tickers", ["AAPL"])
    assert (home / "history" / "runs" / "index.db").exists()
    with dg.DagsterInstance.get() as again:
        assert again.get_dynamic_partitions("tickers") == ["AAPL"]


def test_one_setting_moves_dagsters_records_to_postgres(
    home: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", postgres_database)
    current_settings.cache_clear()
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("tickers", ["AAPL"])
    with dg.DagsterInstance.get() as again:
        assert again.get_dynamic_partitions("tickers") == ["AAPL"]
    assert sa.inspect(sa.create_engine(postgres_database)).has_table("event_logs")
    assert not (home / "history").exists()


# The tools


@pytest.fixture(scope="module", autouse=True)
def commands() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The tools, started before the first test of this module: each takes seconds."""
    programs = Path(sys.executable).parent
    processes = {
        command: subprocess.Popen(
            [programs / command.split()[0], *command.split()[1:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in COMMANDS
    }
    yield processes
    for process in processes.values():
        with process:
            process.kill()


@pytest.mark.parametrize("command", COMMANDS)
def test_tool_finds_no_fault(commands: dict[str, subprocess.Popen[str]], command: str) -> None:
    told, _ = commands[command].communicate()
    assert commands[command].returncode == 0, told


def test_dagsters_tables_in_postgres_are_those_that_it_makes_itself(
    postgres_url: str, postgres_database: str
) -> None:
    plain = empty_database(postgres_url, "plain")
    DagsterPostgresStorage(plain)
    for _ in range(2):
        _make_tables(postgres_database)
        assert tables_at(postgres_database) == tables_at(plain)


def tables_at(url: str) -> dict[str, Any]:
    """Tables with columns, keys and indexes; what is in them but for times."""
    engine = sa.create_engine(url)
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        looker = sa.inspect(connection)
        for name in looker.get_table_names():
            told = (looker.get_columns, looker.get_indexes, looker.get_foreign_keys)
            found[name] = [sorted(map(str, tell(name))) for tell in told]
            rows = connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()  # noqa: S608
            found[f"rows of {name}"] = sorted(
                str({k: v for k, v in row.items() if k != "id" and not isinstance(v, datetime)})
                for row in rows
            )
    engine.dispose()
    return found
