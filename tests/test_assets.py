"""The chain of assets, in this process: what it writes, reports, refuses and survives."""

import base64
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from stock_assets.database import Database
from stock_assets.definitions import defs
from stock_assets.defs import assets
from stock_assets.defs.checks import FACTS
from stock_assets.drops import register
from stock_assets.features import WARM_UP, FloatArray, Rows
from stock_assets.features import price_features as compute_features
from stock_assets.files import files_at
from stock_assets.forecasting import forecast
from stock_assets.models import MODELS, H, LeastSquares, Linear
from stock_assets.prices import validate_csv
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store
from tests.conftest import as_csv, make_prices
from tests.test_database import age, contents

ALL = [
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
OF_DROP, OF_TICKER = ALL[:2], ALL[2:]
PER_TICKER, OF_MARKET = ALL[2:5], ALL[5:7]
WITHOUT_TRAINING = [assets.price_features, assets.forecasts]


@dataclass
class Platform:
    """The assets on a folder and a Dagster instance of their own."""

    root: Path
    instance: dg.DagsterInstance
    bucket: str | None = None

    @cached_property
    def settings(self) -> Settings:
        """The default settings, but for the home and where files are."""
        return current_settings().model_copy(update={"home": self.root, "files": self.bucket})

    @cached_property
    def database(self) -> Database:
        """Its prediction database."""
        return Database(self.settings.prediction_database_url)

    @cached_property
    def store(self) -> Store:
        """Its files."""
        return Store(files_at(self.settings.store))

    def keep(self, content: bytes, name: str = "prices.csv") -> str:
        """Register a file as a drop."""
        drops = files_at(self.settings.drop_folder)
        drops.write_each([(name, content)])
        drop = register(drops, name, self.store, self.database)
        self.instance.add_dynamic_partitions("csv_drops", [drop.key])
        return drop.key

    def ingest(self, *prices: pd.DataFrame) -> dg.ExecuteInProcessResult:
        """Take prices as one drop."""
        return self.run(OF_DROP, partition_key=self.keep(as_csv(pd.concat(prices))))

    def refresh(
        self, *tickers: str, selection: Sequence[dg.AssetsDefinition] = OF_TICKER
    ) -> dg.ExecuteInProcessResult:
        """Materialize the range from the first to the last of these tickers."""
        self.instance.add_dynamic_partitions("tickers", list(tickers))
        tags = {
            "dagster/asset_partition_range_start": tickers[0],
            "dagster/asset_partition_range_end": tickers[-1],
        }
        return self.run(selection, tags=tags)

    def run(
        self, selection: Sequence[dg.AssetsDefinition], **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Run assets; a failure is raised."""
        return dg.materialize(
            ALL,
            selection=selection,
            instance=self.instance,
            resources={
                "settings": self.settings,
                "database": self.database,
                "store": self.store,
            },
            **options,
        )


def told_by(
    run: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition
) -> dict[str, dict[str, Any]]:
    """The metadata of each partition that a run made."""
    return {
        str(made.partition): {
            name: [record.data for record in value.records]
            if isinstance(value, dg.TableMetadataValue)
            else value.value
            for name, value in made.metadata.items()
        }
        for made in run.asset_materializations_for_node(asset.op.name)
    }


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(tmp_path, instance)


# One range of tickers, undisturbed


TICKERS = ("AAPL", "MSFT", "NEW")
PRICES = (make_prices("AAPL"), make_prices("MSFT"), make_prices("NEW", 25))


@dataclass
class Chain:
    """A platform, its run over a drop, and its run over the range of the drop's tickers."""

    platform: Platform
    runs: tuple[dg.ExecuteInProcessResult, dg.ExecuteInProcessResult]

    def metadata(self, asset: dg.AssetsDefinition) -> dict[str, dict[str, Any]]:
        """What was told of each partition."""
        return told_by(self.runs[asset in OF_TICKER], asset)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(tmp_path_factory.mktemp("chain"), instance)
        ingested = platform.ingest(*PRICES)
        yield Chain(platform, (ingested, platform.refresh(*TICKERS)))


def test_drop_tells_where_its_file_is_kept(chain: Chain) -> None:
    ((key, told),) = chain.metadata(assets.raw_prices).items()
    path = chain.platform.root / "store" / "drops" / key
    assert told == {
        "file_name": "prices.csv",
        "bytes": path.stat().st_size,
        "dagster/uri": path.as_uri(),
    }


def test_validated_drop_tells_what_became_of_its_rows(platform: Platform) -> None:
    prices, new = make_prices(days=31), make_prices("NEW", 2)
    platform.ingest(prices.head(30))
    rows = pd.concat([prices, new, new.tail(1)])
    rows = rows.assign(note="x").reset_index(drop=True)
    rows.loc[0, "close"] = -1
    (told,) = told_by(platform.ingest(rows), assets.validated_prices).values()
    assert told == {
        "dagster/partition_row_count": 32,
        "rows_read": 34,
        "rows_collapsed": 1,
        "rows_rejected": 1,
        "rows_new": 3,
        "rows_changed": 0,
        "tickers": 2,
        "tickers_new": 1,
        "tickers_updated": 1,
        "reasons": {"close is not a number above 0": 1, "low is above open or close": 1},
        "columns_ignored": "note",
        "first_rejected": [
            {
                "line": 2,
                "raw": as_csv(rows).decode().splitlines()[1],
                "reasons": "close is not a number above 0; low is above open or close",
            }
        ],
    }


def test_features_tell_the_state_of_each_ticker(chain: Chain) -> None:
    told = chain.metadata(assets.price_features)
    closes = {prices["ticker"].iloc[0]: prices["close"].iloc[-1] for prices in PRICES}
    assert told == {
        ticker: {
            "dagster/partition_row_count": days,
            "first_day": first,
            "last_day": "2019-06-28",
            "last_close": closes[ticker],
            "daily_volatility": pytest.approx(0.016, rel=0.5),
            "drift": 0.0,
            "tickers_in_run": 3,
        }
        for ticker, days, first in (
            ("AAPL", 120, "2019-01-14"),
            ("MSFT", 120, "2019-01-14"),
            ("NEW", 25, "2019-05-27"),
        )
    }


def test_models_tell_the_backtest_of_each_ticker(chain: Chain) -> None:
    told = chain.metadata(assets.ticker_models)
    stored = chain.platform.database.current_models(TICKERS)
    assert told.keys() == set(TICKERS)
    for ticker, rows in stored.groupby("ticker"):
        of_ticker = told[str(ticker)]
        backtest = {row["model"]: row["mae_ratio"] for row in of_ticker.pop("backtest", [])}
        judged = rows[rows["origins"] > 0].set_index("model")["mae_ratio"]
        assert backtest == pytest.approx(judged.to_dict(), abs=1e-4)
        assert of_ticker.pop("baseline", "") == (
            "80 days of history are needed to train" if ticker == "NEW" else ""
        )
        assert of_ticker == {
            "version": rows["version"].iloc[0],
            "days": rows["days"].iloc[0],
            "tickers_in_run": 3,
        }


def test_market_tells_what_it_learned_from(chain: Chain) -> None:
    (told,) = chain.metadata(assets.market_model).values()
    assert told == {
        "trained_to": "2019-06-28",
        "tickers": 3,
        "days": 265,
        "models": "gradient_boosting",
        "version": told["version"],
    }
    (widths,) = chain.metadata(assets.interval_widths).values()
    assert widths["as_of"] == "2019-06-28"
    assert widths["dagster/row_count"] == 120 * 10
    assert 0 < widths["width_80_in_10_days"] < widths["width_95_in_10_days"]


def test_champion_tells_why_and_how_all_did(chain: Chain) -> None:
    (told,) = chain.metadata(assets.champion).values()
    board = chain.platform.database.leaderboard()
    assert [row["model"] for row in told.pop("leaderboard")] == board["model"].tolist()
    assert told["champion"] == "naive"
    assert told["reason"].startswith("no model beats it beyond noise: ")
    assert told["by_the_rule"] == f"naive: {told['reason']}"
    assert told["pinned"] is False


def test_forecasts_tell_the_tenth_day_of_each_ticker(chain: Chain) -> None:
    told = chain.metadata(assets.forecasts)
    stored = chain.platform.database.champion_forecasts(TICKERS)
    assert told.keys() == set(TICKERS)
    for row in stored[stored["h"] == 10].itertuples():
        of_ticker = {k: v for k, v in told[str(row.ticker)].items() if k != "picture"}
        assert of_ticker == {
            "as_of": "2019-06-28",
            "champion": row.model,
            "last_close": row.last_close,
            "close_in_10_days": row.close,
            "lo_80_in_10_days": row.lo_80,
            "hi_80_in_10_days": row.hi_80,
            "dagster/partition_row_count": 10 if row.ticker == "NEW" else 50,
            "tickers_in_run": 3,
        }


@pytest.mark.parametrize("ticker", TICKERS)
def test_forecast_shows_a_small_picture(chain: Chain, ticker: str) -> None:
    markdown = chain.metadata(assets.forecasts)[ticker]["picture"]
    description, _, data = markdown.partition("](data:image/svg+xml;base64,")
    svg = base64.b64decode(data.removesuffix(")"), validate=True).decode()
    assert description == f"![{ticker}: forecast of the next 10 closes"
    assert len(markdown) < 4096
    assert f"<title>{ticker}: forecast of the next 10 closes</title>" in svg


def test_every_fact_is_stated_once_a_run(chain: Chain) -> None:
    stated = [e for run in chain.runs for e in run.get_asset_check_evaluations()]
    assert sorted((e.asset_key.to_user_string(), e.check_name) for e in stated) == sorted(
        (fact.asset, fact.name) for fact in FACTS if fact.asset != "fetched_prices"
    )
    assert {e.check_name: e.metadata["broken_by"].value for e in stated if not e.passed} == {
        "last_day_is_recent": "AAPL, MSFT, NEW",
        "history_is_long_enough": "NEW",
    }


def test_short_history_gets_the_baseline_beside_the_others(chain: Chain) -> None:
    models = chain.platform.database.current_models(TICKERS)
    assert models.groupby("ticker")["model"].agg(list).to_dict() == {
        "AAPL": sorted(["naive", *current_settings().models]),
        "MSFT": sorted(["naive", *current_settings().models]),
        "NEW": ["naive"],
    }
    forecast = chain.platform.database.champion_forecasts(["NEW"])
    assert forecast["origins"].tolist() == [0] * 10
    assert forecast["close"].tolist() == forecast["last_close"].tolist()


def test_forecast_tickers_are_in_need_of_nothing(chain: Chain) -> None:
    states = chain.platform.database.ticker_states()
    assert {s.ticker for s in states if not s.needs_forecast and not s.needs_training} == {*TICKERS}


def test_running_everything_again_changes_no_row(chain: Chain) -> None:
    age(chain.platform.database)
    before = contents(chain.platform.database)
    chain.platform.ingest(*PRICES)
    chain.platform.refresh(*TICKERS)
    assert contents(chain.platform.database) == before


# Jobs on the instance of the home


def test_one_ticker_goes_through_the_jobs_of_the_platform(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        platform = Platform(home, instance)
        key = platform.keep(as_csv(make_prices(days=90)))
        ingest = defs().resolve_job_def("ingest_drop")
        refresh = defs().resolve_job_def("refresh_tickers")
        ingest.execute_in_process(instance=instance, partition_key=key)
        assert instance.get_dynamic_partitions("tickers") == ["AAPL"]
        refresh.execute_in_process(instance=instance, partition_key="AAPL")
        assert {
            asset.op.name: instance.get_materialized_partitions(asset.key) for asset in ALL[:5]
        } == {
            "raw_prices": {key},
            "validated_prices": {key},
            "price_features": {"AAPL"},
            "ticker_models": {"AAPL"},
            "forecasts": {"AAPL"},
        }
    assert len(platform.database.champion_forecasts(["AAPL"])) == 10


def test_update_without_training_forecasts_with_the_models_there_are(platform: Platform) -> None:
    platform.ingest(make_prices().head(110))
    platform.refresh("AAPL")
    trained = platform.database.champion_forecasts(["AAPL"])
    platform.ingest(make_prices())
    platform.refresh("AAPL", selection=WITHOUT_TRAINING)
    updated = platform.database.champion_forecasts(["AAPL"])
    assert updated["as_of"].iloc[0] > trained["as_of"].iloc[0]
    assert updated["model_version"].tolist() == trained["model_version"].tolist()
    assert updated["last_close"].iloc[0] == make_prices()["close"].iloc[-1]


# What became of forecasts, and whether tickers are still as they were


def test_forecasts_are_scored_when_the_closes_come(platform: Platform) -> None:
    prices = [make_prices("AAPL", 110), make_prices("MSFT", 110, seed=1)]
    platform.ingest(*(table.head(100) for table in prices))
    platform.refresh("AAPL", "MSFT")
    assert contents(platform.database)["forecast_scores"] == []
    platform.ingest(*(table.iloc[100:107] for table in prices))
    run = platform.run([assets.forecast_scores])
    (told,) = told_by(run, assets.forecast_scores).values()
    models = len(current_settings().models) + 1
    assert told["scored"] == 2 * 7 * models
    assert told["mae_ratio"] == 1  # the champion is naive
    assert {row["model"] for row in told["models"]} == {
        "champion",
        "naive",
        *current_settings().models,
    }
    assert told["picture"].startswith("![Rolling error and coverage")
    assert all(e.passed for e in run.get_asset_check_evaluations())
    platform.ingest(*(table.iloc[107:] for table in prices))
    (told,) = told_by(platform.run([assets.forecast_scores]), assets.forecast_scores).values()
    assert told["scored"] == 2 * 3 * models
    (told,) = told_by(platform.run([assets.forecast_scores]), assets.forecast_scores).values()
    assert told["scored"] == 0


def wild(prices: pd.DataFrame, days: int) -> pd.DataFrame:
    """The same prices, but ten times as far between low and high on the last days."""
    last = np.arange(len(prices)) >= len(prices) - days
    return prices.assign(
        high=prices["high"] * np.where(last, 1.3, 1), low=prices["low"] / np.where(last, 1.3, 1)
    )


def test_ticker_that_drifts_is_told_and_trained_anew(platform: Platform) -> None:
    changed, same = wild(make_prices("AAPL", 125), 25), make_prices("MSFT", 125)
    platform.ingest(changed.head(100), same.head(100))
    platform.refresh("AAPL", "MSFT")
    platform.ingest(changed.iloc[100:], same.iloc[100:])
    run = platform.refresh("AAPL", "MSFT", selection=WITHOUT_TRAINING)
    (fact,) = [
        e for e in run.get_asset_check_evaluations() if e.check_name == "features_are_as_trained"
    ]
    assert not fact.passed
    assert fact.severity is dg.AssetCheckSeverity.WARN
    assert fact.metadata["broken_by"].value == "AAPL"
    told = told_by(run, assets.price_features)
    assert told["AAPL"]["drift"] > 0.9
    assert told["MSFT"]["drift"] < 0.65
    due = {state.ticker: state for state in platform.database.ticker_states()}
    assert due["AAPL"].due.startswith("features of the last 20 days are ")
    assert (due["AAPL"].needs_forecast, due["AAPL"].needs_training) == (True, True)
    assert due["MSFT"].due == ""
    assert not due["MSFT"].needs_forecast
    platform.refresh("AAPL", selection=PER_TICKER)
    (again,) = [s for s in platform.database.ticker_states() if s.ticker == "AAPL"]
    assert (again.needs_forecast, again.needs_training, again.due) == (False, False, "")


def test_tickers_are_due_when_pooled_models_are_trained_alone(platform: Platform) -> None:
    platform.ingest(make_prices("AAPL", 100), make_prices("MSFT", 100))
    platform.refresh("AAPL", "MSFT")
    assert not any(state.needs_training for state in platform.database.ticker_states())
    platform.run([assets.market_model])
    states = platform.database.ticker_states()
    assert [state.due for state in states] == ["pooled models of 2019-06-28"] * 2
    assert all(state.needs_training and state.needs_forecast for state in states)


# What goes wrong is told, and nothing is written


def failure(run: Callable[[], object]) -> str:
    """What a run that fails for good says."""
    with pytest.raises(dg.Failure) as failed:
        run()
    assert not failed.value.allow_retries
    return str(failed.value.description)


def test_refused_file_fails_with_its_sentence_and_is_kept(platform: Platform) -> None:
    key = platform.keep(b"hello")
    told = failure(lambda: platform.run(OF_DROP, partition_key=key))
    drop = platform.database.drop(key)
    assert told == f"prices.csv: {drop.error}"
    assert drop.error
    assert drop.error.startswith("The file has no header: line 1 is 'hello'. Expected")
    assert drop.status == "refused"
    assert platform.store.read_drop(key, 100) == b"hello"


def test_file_that_changed_in_the_store_is_not_taken(platform: Platform) -> None:
    key = platform.keep(as_csv(make_prices()))
    platform.store.files.write_each([(f"drops/{key}", as_csv(make_prices(seed=1)))])
    before = contents(platform.database)
    told = failure(lambda: platform.run(OF_DROP, partition_key=key))
    assert told.startswith(
        "Nothing of raw_prices was written: file_is_unchanged: 1 where at most 0"
    )
    assert contents(platform.database) == before


BROKEN: dict[str, tuple[str, Callable[..., Any], str]] = {
    "validated_prices": (
        "stock_assets.defs.assets.validate_csv",
        lambda *content, **limits: replace(validate_csv(*content, **limits), rows_read=31),
        "rows_add_up: 1 where at most 0 may be",
    ),
    "price_features": (
        "stock_assets.defs.assets.compute_features",
        lambda prices: compute_features(prices).assign(volatility=np.inf),
        "features_are_finite: 24 where at most 0 may be AAPL",
    ),
    "forecasts": (
        "stock_assets.forecasting.forecast",
        lambda *model: forecast(*model).assign(lo_95=0.0),
        "intervals_are_ordered: 10 where at most 0 may be AAPL",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_fact_ends_the_run_before_anything_is_written(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    target, broken, told = BROKEN[name]

    def run() -> None:
        platform.ingest(make_prices(days=30))
        platform.refresh("AAPL")

    with monkeypatch.context() as patch:
        patch.setattr(target, broken)
        assert failure(run).startswith(f"Nothing of {name} was written: {told}")
    order = [asset.op.name for asset in ALL[:5]]
    made = {a.op.name for a in ALL[:5] if platform.instance.get_materialized_partitions(a.key)}
    assert made == set(order[: order.index(name)])
    rows = contents(platform.database)
    assert bool(rows["prices"]) == ("validated_prices" in made)
    assert (len(platform.store.read_features(["AAPL"])) > 0) == ("price_features" in made)
    assert rows["forecasts"] == []

    run()
    assert len(platform.database.champion_forecasts(["AAPL"])) == 10


LACKING: dict[str, tuple[Sequence[dg.AssetsDefinition], str]] = {
    "prices": ([assets.price_features], "no prices: drop a CSV that has them"),
    "features": ([assets.ticker_models], "no features: materialize price_features first"),
    "models": ([assets.forecasts], "no models: materialize ticker_models first"),
}
LACKING_MARKET = {
    assets.interval_widths: "No widths of intervals: materialize interval_widths first",
    assets.market_model: "No pooled models: materialize market_model first",
}


@pytest.mark.parametrize("lacking", OF_MARKET, ids=lambda asset: asset.op.name)
def test_failure_names_what_the_market_lacks(
    platform: Platform, lacking: dg.AssetsDefinition
) -> None:
    platform.ingest(make_prices(days=30))
    selection = [asset for asset in OF_TICKER if asset is not lacking]
    assert failure(lambda: platform.refresh("AAPL", selection=selection)) == LACKING_MARKET[lacking]


@pytest.mark.parametrize("what", LACKING)
def test_failure_names_the_ticker_that_lacks_something(platform: Platform, what: str) -> None:
    selection, told = LACKING[what]
    platform.ingest(make_prices("A", 30), make_prices("C", 30))
    platform.refresh("A", "C")
    if what == "models":
        platform.ingest(make_prices("B", 30))
        platform.refresh("B", selection=[assets.price_features])
    assert failure(lambda: platform.refresh("A", "C", "B", selection=selection)) == f"B: {told}"


def test_market_without_prices_is_told(platform: Platform) -> None:
    for asset in OF_MARKET:
        assert failure(partial(platform.run, [asset])) == "No prices yet: drop a CSV"


def test_range_that_ends_before_it_starts_is_told(platform: Platform) -> None:
    platform.instance.add_dynamic_partitions("tickers", ["A", "B"])
    with pytest.raises(dg.Failure) as failed:
        platform.refresh("B", "A", selection=[assets.price_features])
    assert (
        failed.value.description == "The range of tickers is empty: its end stands before its start"
    )


class Moody(LeastSquares):
    """Fails on a history of 85 days."""

    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> Linear:
        """Least squares otherwise."""
        if 85 - WARM_UP - H in spans[:, 1] - spans[:, 0]:
            raise ArithmeticError("85")
        return super().fit(x, y, spans)


def test_error_of_a_training_names_its_ticker(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "ridge", Moody())
    platform.ingest(make_prices("A", 90), make_prices("B", 85), make_prices("C", 90))
    with pytest.raises(ArithmeticError) as error:
        platform.refresh("A", "B", "C")
    assert error.value.__notes__ == ["while training B"]


DIES = """
import os, signal, sys
import dagster as dg
from stock_assets.database import Database
from stock_assets.definitions import defs
from stock_assets.storage import Store

owner, name = {"ticker_models": (Store, "write_artifact"), "forecasts": (Database, "_upsert_all")}[
    sys.argv[1]
]
original, calls = getattr(owner, name), []

def second_one_kills(*args):
    result = original(*args)
    calls.append(args)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, second_one_kills)
tags = {"dagster/asset_partition_range_start": "AAPL", "dagster/asset_partition_range_end": "NEW"}
defs().resolve_job_def("refresh_tickers").execute_in_process(
    instance=dg.DagsterInstance.get(), tags=tags
)
"""


def test_killed_runs_and_a_plain_one_after_them_give_the_rows_of_an_undisturbed_one(
    home: Path, chain: Chain
) -> None:
    with dg.DagsterInstance.get() as instance:
        platform = Platform(home, instance)
        platform.ingest(*PRICES)
        for asset in ("ticker_models", "forecasts"):
            killed = subprocess.run([sys.executable, "-c", DIES, asset], check=False)
            assert killed.returncode == -signal.SIGKILL
            assert contents(platform.database)["forecasts"] == []
        platform.refresh(*TICKERS)
    undisturbed = contents(chain.platform.database, without=("created_at",))
    assert contents(platform.database, without=("created_at",)) == undisturbed
