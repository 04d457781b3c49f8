"""The prediction database, on SQLite and PostgreSQL: every write holds once, whatever happens."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stock_assets.database import Changes, Database, Drop
from stock_assets.prices import COLUMNS, KEY, Validation, validate_csv
from stock_assets.tables import METADATA, SCHEMA_REVISION, VERSION_TABLE
from tests.conftest import as_csv, make_prices

Rows = dict[str, list[tuple[Any, ...]]]
Change = Callable[[pd.DataFrame], pd.DataFrame]

BEFORE_IT_WRITES = "_upsert_staged"
AFTER_THE_PRICES = "_upsert"


def contents(database: Database, *, without: tuple[str, ...] = ()) -> Rows:
    """Every row of every table, in the order of its key."""
    with database.engine.connect() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(
                    sa.select(*(c for c in table.c if c.name not in without)).order_by(
                        *table.primary_key
                    )
                )
            ]
            for table in METADATA.sorted_tables
        }


def age(database: Database) -> None:
    """Date every row back, so that one that is written anew is seen."""
    with database.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            if "created_at" in table.c:
                connection.execute(sa.text(f"UPDATE {table.name} SET created_at = '2000-01-01'"))  # noqa: S608


def clear(database: Database) -> None:
    with database.engine.begin() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(table.delete())


def validate(content: bytes) -> Validation:
    return validate_csv(content, today=date(2020, 1, 1), max_bytes=1 << 24)


def register(database: Database, content: bytes, name: str = "prices.csv") -> Drop:
    sha256 = hashlib.sha256(content).hexdigest()
    return database.register_drop(f"{Path(name).stem}-{sha256[:12]}", sha256, name, len(content))


def take(database: Database, *prices: pd.DataFrame) -> Changes:
    """Register prices as a drop, and store it."""
    content = as_csv(pd.concat(prices))
    return database.store_drop(register(database, content), validate(content))


def training(
    ticker: str = "AAPL", version: str = "v1", days: int = 100, champion: str = "naive"
) -> list[dict[str, Any]]:
    """The model_versions rows of one training."""
    return [
        {
            "ticker": ticker,
            "version": version,
            "model": model,
            "is_champion": model == champion,
            "reason": "champion" if model == champion else "baseline",
            "trained_from": date(2019, 1, 1),
            "trained_to": date(2019, 6, 28),
            "days": days,
            "origins": 40,
            **dict.fromkeys(("mae", "rmse", "mae_ratio", "mae_ratio_h10"), 0.5),
            **dict.fromkeys(("coverage_80", "coverage_95"), None),
            "widths": [[1.5] * 10, [2.5] * 10],
            "artifact": f"models/{ticker}/{version}.skops",
        }
        for model in ("linear_regression", "naive")
    ]


def forecast(  # noqa: PLR0913
    ticker: str = "AAPL",
    version: str = "v1",
    *,
    models: tuple[str, ...] = ("linear_regression", "naive"),
    champion: str = "naive",
    as_of: date = date(2019, 6, 28),
    close: float = 100.0,
) -> pd.DataFrame:
    """The forecasts rows of one ticker."""
    return pd.DataFrame(
        [
            {
                "ticker": ticker,
                "as_of": as_of,
                "h": h,
                "model": model,
                "target_date": as_of + timedelta(days=h),
                "close": close,
                "lo_80": 90.0,
                "hi_80": 110.0,
                "lo_95": 80.0,
                "hi_95": 120.0,
                "model_version": version,
                "is_champion": model == champion,
            }
            for model in models
            for h in range(1, 11)
        ]
    )


def needs(database: Database, ticker: str = "AAPL") -> tuple[bool, bool]:
    """Whether a ticker needs a forecast, and whether it needs training."""
    (state,) = [state for state in database.ticker_states() if state.ticker == ticker]
    return state.needs_forecast, state.needs_training


def revisions(database: Database, ticker: str = "AAPL") -> tuple[int, int]:
    """The price and the history revision of a ticker."""
    rows = {row[0]: row for row in contents(database)["tickers"]}
    names = list(METADATA.tables["tickers"].c.keys())
    row = dict(zip(names, rows[ticker], strict=True))
    return row["price_revision"], row["history_revision"]


def with_close(prices: pd.DataFrame, close: str) -> pd.DataFrame:
    """The same prices, but on one day that of another column for a close."""
    one_day = prices["date"] == prices["date"].iloc[50]
    return prices.assign(close=prices["close"].mask(one_day, prices[close]))


def corrected(prices: pd.DataFrame) -> pd.DataFrame:
    return with_close(prices, "low")


def with_bad_row(prices: pd.DataFrame) -> pd.DataFrame:
    return with_close(prices, "volume")


# Tables


@pytest.fixture
def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", "stock_assets:migrations")
    return config


def differences(database: Database) -> list[Any]:
    """What the tables of the database lack of the declared ones, or have beside them."""
    with database.engine.connect() as connection:
        return list(
            compare_metadata(
                MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}),
                METADATA,
            )
        )


def test_migrations_give_the_declared_tables(database: Database) -> None:
    assert differences(database) == []


def test_declared_revision_is_the_newest_migration(migrations: Config) -> None:
    assert ScriptDirectory.from_config(migrations).get_current_head() == SCHEMA_REVISION


def test_migrations_go_down_to_nothing_and_up_again(database: Database, migrations: Config) -> None:
    with database.engine.begin() as connection:
        migrations.attributes["connection"] = connection
        command.downgrade(migrations, "base")
        assert sa.inspect(connection).get_table_names() == [VERSION_TABLE]
        command.upgrade(migrations, "head")
    assert differences(database) == []


def test_opening_again_keeps_the_rows(database: Database) -> None:
    take(database, make_prices())
    assert contents(Database(database.url.render_as_string(hide_password=False))) == contents(
        database
    )


def test_threads_can_open_an_empty_database_at_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(len(databases)) as threads:
        assert list(threads.map(differences, databases)) == [[]] * len(databases)


# Drops and prices


def test_same_bytes_are_the_same_drop(database: Database) -> None:
    first = database.register_drop("a-1", "1" * 64, "a.csv", 7)
    second = database.register_drop("b-1", "1" * 64, "b.csv", 7)
    assert second == first == database.drop("a-1")
    assert len(contents(database)["drops"]) == 1


def test_drops_are_numbered_as_they_arrive(database: Database) -> None:
    arrived = [register(database, name.encode()) for name in "abc"]
    assert [drop.id for drop in arrived] == sorted({drop.id for drop in arrived})


def test_refused_drop_keeps_its_reason_until_it_is_taken(database: Database) -> None:
    content = as_csv(make_prices())
    drop = register(database, content)
    database.refuse_drop(drop.key, "not text")
    refused = database.drop(drop.key)
    assert (refused.status, refused.error) == ("refused", "not text")

    database.store_drop(drop, validate(content))
    accepted = database.drop(drop.key)
    assert (accepted.status, accepted.error, accepted.accepted) == ("accepted", None, 120)


def test_prices_come_back_as_they_were_written(database: Database) -> None:
    written = pd.concat([make_prices("BRK.B", 30), make_prices("AAPL", 30)])
    written["sector"] = 'Sector, "of" Ümläut'
    take(database, written)
    read = database.read_prices(["AAPL", "BRK.B", "NONE"])[list(COLUMNS)]
    expected = written.sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(read, expected, check_exact=True)


def test_drop_without_sound_rows_is_stored(database: Database) -> None:
    changes = take(database, make_prices(days=3).assign(close=-1.0))
    assert changes == Changes(0, 0, (), ())
    assert len(contents(database)["rejected_rows"]) == 3


@pytest.mark.parametrize(
    ("second", "changes"),
    [
        (lambda prices: prices.tail(1).assign(ticker="IBM"), Changes(1, 0, ("IBM",), ())),
        (lambda prices: prices.tail(3), Changes(0, 0, (), ())),
        (lambda prices: corrected(prices).tail(100), Changes(0, 1, (), ("AAPL",))),
        (
            lambda prices: prices.assign(date=prices["date"] + pd.Timedelta(days=1)),
            Changes(24, 96, (), ("AAPL",)),
        ),
    ],
    ids=["another ticker", "known rows", "a corrected row", "a shifted history"],
)
def test_changes_of_a_drop_are_told(database: Database, second: Change, changes: Changes) -> None:
    prices = make_prices()
    take(database, prices)
    assert take(database, second(prices)) == changes


OVERLAPPING = [
    make_prices(days=12, seed=0).head(8),
    pd.concat([make_prices(days=12, seed=1).tail(8), make_prices("IBM", 3)]),
    make_prices(days=12, seed=2).iloc[3:9].assign(sector="Energy"),
]


@given(order=st.permutations([0, 1, 2] * 2))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_newest_drop_wins_whatever_the_order_of_storing(
    database: Database, order: list[int]
) -> None:
    clear(database)
    files = [as_csv(prices) for prices in OVERLAPPING]
    drops = [register(database, content) for content in files]
    for which in order:
        database.store_drop(drops[which], validate(files[which]))

    newest = (
        pd.concat(
            [
                prices.assign(drop_id=drop.id)
                for prices, drop in zip(OVERLAPPING, drops, strict=True)
            ]
        )
        .drop_duplicates(KEY, keep="last")
        .sort_values(KEY, ignore_index=True)
    )
    stored = database.read_prices(["AAPL", "IBM"])[list(COLUMNS)]
    pd.testing.assert_frame_equal(stored, newest[list(COLUMNS)], check_exact=True)
    assert [row[-1] for row in contents(database)["prices"]] == newest["drop_id"].tolist()
    facts = {row[0]: row[1:5] for row in contents(database)["tickers"]}
    assert facts["AAPL"] == ("Technology", date(2019, 6, 13), date(2019, 6, 28), 12)


def test_rejected_rows_are_replaced_when_a_drop_is_stored_again(database: Database) -> None:
    content = as_csv(with_bad_row(make_prices()))
    drop, validation = register(database, content), validate(content)
    database.store_drop(drop, replace(validation, rejected=validation.rejected.assign(line=99)))
    database.store_drop(drop, validation)
    assert len(validation.rejected) == 1
    pd.testing.assert_frame_equal(database.rejected(drop.key), validation.rejected)


def test_sector_is_that_of_the_newest_day(database: Database) -> None:
    prices = make_prices()
    take(database, prices.tail(50).assign(sector="New"))
    take(database, prices.head(70).assign(sector="Old"))
    assert contents(database)["tickers"][0][1] == "New"


# What a ticker needs


PRICES = make_prices(days=160)
NEEDS = {
    "nothing changed": (lambda prices: prices.tail(30), (False, False)),
    "a day is appended": (lambda _: PRICES.iloc[20:121], (True, False)),
    "nearly a fifth is appended": (lambda _: PRICES.iloc[20:139], (True, False)),
    "a fifth is appended": (lambda _: PRICES.iloc[20:140], (True, True)),
    "a close is corrected": (corrected, (True, True)),
    "the last close is corrected": (
        lambda prices: prices.tail(1).assign(close=prices["low"].iloc[-1]),
        (True, True),
    ),
    "a day before is added": (lambda _: PRICES.iloc[19:20], (True, True)),
    "a day is appended and one corrected": (
        lambda _: corrected(PRICES.iloc[20:121]),
        (True, True),
    ),
}


@pytest.mark.parametrize(("change", "needed"), NEEDS.values(), ids=NEEDS)
def test_ticker_needs_what_its_changed_prices_demand(
    database: Database, change: Change, needed: tuple[bool, bool]
) -> None:
    prices = PRICES.iloc[20:120]
    take(database, prices)
    assert needs(database) == (True, True)
    database.save_training(training(days=100), {"AAPL": 1})
    assert needs(database) == (True, False)
    database.save_forecasts(forecast(), {"AAPL": 1})
    assert needs(database) == (False, False)

    take(database, change(prices))
    assert needs(database) == needed


def test_revisions_tell_corrections_from_appended_days(database: Database) -> None:
    prices = make_prices()
    seen = []
    for drop in (prices.head(100), prices.head(99), prices.head(110), corrected(prices.head(60))):
        take(database, drop)
        seen.append(revisions(database))
    take(database, prices.tail(10))
    assert [*seen, revisions(database)] == [(1, 1), (1, 1), (2, 1), (3, 3), (4, 3)]


def test_older_drop_that_tells_nothing_new_moves_no_revision(database: Database) -> None:
    old, new = (as_csv(make_prices(seed=seed)) for seed in (0, 1))
    first, second = register(database, old), register(database, new)
    database.store_drop(second, validate(new))
    before = contents(database)
    assert database.store_drop(first, validate(old)) == Changes(0, 0, (), ())
    assert {**contents(database), "drops": ()} == {**before, "drops": ()}


def test_forecast_of_older_prices_does_not_settle_a_newer_change(database: Database) -> None:
    take(database, make_prices().head(100))
    take(database, make_prices())
    database.save_forecasts(forecast(), {"AAPL": 1})
    assert needs(database)[0]


def test_training_on_older_prices_is_kept_but_does_not_take_over(database: Database) -> None:
    take(database, make_prices().head(100))
    take(database, corrected(make_prices()))
    database.save_training(training(version="new"), {"AAPL": 2})
    database.save_training(training(version="old"), {"AAPL": 1})
    assert set(database.current_models(["AAPL"])["version"]) == {"new"}
    assert {row[1] for row in contents(database)["model_versions"]} == {"new", "old"}


# Models and forecasts


def test_current_models_are_those_of_the_last_training(database: Database) -> None:
    take(database, make_prices(), make_prices("IBM"))
    database.save_training(training() + training("IBM", "of-ibm"), {"AAPL": 1, "IBM": 1})
    database.save_training(training(version="v2", champion="linear_regression"), {"AAPL": 1})
    models = database.current_models(["AAPL", "IBM", "NONE"])
    assert models[["ticker", "version", "model", "is_champion"]].to_numpy().tolist() == [
        ["AAPL", "v2", "linear_regression", True],
        ["AAPL", "v2", "naive", False],
        ["IBM", "of-ibm", "linear_regression", False],
        ["IBM", "of-ibm", "naive", True],
    ]
    assert models["widths"].iloc[0] == [[1.5] * 10, [2.5] * 10]


def test_only_the_champions_newest_forecast_is_shown(database: Database) -> None:
    prices = make_prices()
    take(database, prices)
    database.save_training(training(champion="linear_regression"), {"AAPL": 1})
    last, before = (day.date() for day in prices["date"][:-3:-1])
    for as_of, close in ((last, 101.0), (before, 99.0)):
        rows = forecast(champion="linear_regression", as_of=as_of, close=close)
        database.save_forecasts(rows, {"AAPL": 1})

    shown = database.champion_forecasts(["AAPL", "NONE"])
    assert shown["h"].tolist() == list(range(1, 11))
    assert set(shown["model"]) == {"linear_regression"}
    assert set(shown["close"]) == {101.0}
    assert set(shown["as_of"]) == {last}
    assert set(shown["last_close"]) == {prices["close"].iloc[-1]}
    assert set(shown["mae_ratio"]) == {0.5}


def test_model_that_is_gone_loses_its_title(database: Database) -> None:
    take(database, make_prices(), make_prices("IBM"))
    for ticker in ("AAPL", "IBM"):
        database.save_training(training(ticker, champion="linear_regression"), {ticker: 1})
        database.save_forecasts(forecast(ticker, champion="linear_regression"), {ticker: 1})
    database.save_training(training(version="v2"), {"AAPL": 1})
    database.save_forecasts(forecast(version="v2", models=("naive",)), {"AAPL": 1})

    shown = database.champion_forecasts(["AAPL", "IBM"])
    champions = shown[["ticker", "model", "model_version"]].drop_duplicates()
    assert champions.to_numpy().tolist() == [
        ["AAPL", "naive", "v2"],
        ["IBM", "linear_regression", "v1"],
    ]
    assert len(shown) == 20
    assert len(contents(database)["forecasts"]) == 40


def test_forecast_of_older_prices_does_not_replace_a_newer_one(database: Database) -> None:
    take(database, make_prices())
    take(database, corrected(make_prices()))
    database.save_training(training(), {"AAPL": 2})
    database.save_forecasts(forecast(close=101.0), {"AAPL": 2})
    database.save_forecasts(forecast(close=99.0), {"AAPL": 1})
    assert set(database.champion_forecasts(["AAPL"])["close"]) == {101.0}


# Every write may be repeated, be cut off, and meet others


def refuse(database: Database) -> None:
    database.refuse_drop(register(database, b"no CSV").key, "no CSV")


WRITES: dict[str, Callable[[Database], object]] = {
    "register_drop": lambda database: register(database, b"other"),
    "refuse_drop": refuse,
    "store_drop": lambda database: take(
        database, with_bad_row(make_prices(seed=1)), make_prices("IBM")
    ),
    "save_training": lambda database: database.save_training(training(), {"AAPL": 1}),
    "save_forecasts": lambda database: database.save_forecasts(forecast(), {"AAPL": 1}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_twice_equals_once(database: Database, write: Callable[[Database], object]) -> None:
    take(database, make_prices())
    before = contents(database)
    write(database)
    age(database)
    once = contents(database)
    write(database)
    assert contents(database) == once != before


@pytest.mark.parametrize("stage", [BEFORE_IT_WRITES, AFTER_THE_PRICES])
def test_failed_write_leaves_the_rows_as_before(
    database: Database, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    take(database, make_prices().head(100))
    content = as_csv(corrected(make_prices()))
    drop = register(database, content)
    before = contents(database)

    def fail(*_: object) -> None:
        raise ConnectionError(stage)

    with monkeypatch.context() as patch:
        patch.setattr(Database, stage, fail)
        with pytest.raises(ConnectionError):
            database.store_drop(drop, validate(content))
    assert contents(database) == before
    assert database.store_drop(drop, validate(content)) == Changes(20, 1, (), ("AAPL",))


DIES = """
import os, signal, sys
from datetime import date
from pathlib import Path
from stock_assets.database import Database
from stock_assets.prices import validate_csv

url, key, file = sys.argv[1:]
Database._upsert = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # after the prices
database = Database(url)
content = Path(file).read_bytes()
database.store_drop(
    database.drop(key), validate_csv(content, today=date(2020, 1, 1), max_bytes=1 << 24)
)
"""


def test_killed_write_leaves_the_rows_as_before(
    database: Database, database_url: str, drop_file: Callable[..., Path]
) -> None:
    take(database, make_prices().head(100))
    file = drop_file(corrected(make_prices()))
    drop = register(database, file.read_bytes())
    before = contents(database)

    killed = subprocess.run([sys.executable, "-c", DIES, database_url, drop.key, file], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert contents(database) == before
    assert database.store_drop(drop, validate(file.read_bytes())) == Changes(20, 1, (), ("AAPL",))


def test_readers_and_a_writer_do_not_wait_for_each_other(
    database: Database, database_url: str
) -> None:
    take(database, make_prices())
    reader = Database(database_url)
    with reader.engine.connect() as reading:
        prices = reading.execute(sa.text("SELECT * FROM prices"))
        assert prices.fetchone()
        take(database, make_prices("IBM"))  # while the reader is in its transaction
        with database._write() as writing:
            writing.execute(sa.text("DELETE FROM prices"))
            assert len(reader.read_prices(["AAPL", "IBM"])) == 240


def test_threads_can_write_at_once(database: Database, database_url: str) -> None:
    def write(worker: int) -> int:
        own = Database(database_url)
        changed = 0
        for days in range(20, 25):
            changes = take(own, make_prices(seed=worker, days=days), make_prices(f"T{worker}", 9))
            changed += "AAPL" in changes.tickers_new + changes.tickers_updated
            own.save_training(training(version=f"{worker}-{days}"), {"AAPL": days})
        own.engine.dispose()
        return changed

    with ThreadPoolExecutor(4) as threads:
        changed = list(threads.map(write, range(4)))
    rows = contents(database)
    assert len(rows["drops"]) == 20
    assert len(rows["model_versions"]) == 40
    assert revisions(database)[0] == sum(changed)


WRITES_TOO = """
import sys
from stock_assets.database import Database

url, worker = sys.argv[1:]
print("ready", flush=True)
input()
database = Database(url)
for n in range(20):
    name = f"{worker}-{n}"
    database.register_drop(name, name, name, n)
"""


def test_processes_can_open_and_write_an_empty_database_at_once(database_url: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_TOO, database_url, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for worker in range(2)
    ]
    for worker in workers:
        assert worker.stdout
        worker.stdout.readline()
    for worker in workers:
        worker.communicate(b"\n")
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(contents(Database(database_url))["drops"]) == 40
