"""The prediction database, on SQLite and PostgreSQL: every write holds once, whatever happens."""

import hashlib
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
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

from stock_assets.csv_text import COLUMNS
from stock_assets.database import Champion, Changes, Database, Drop
from stock_assets.evaluation import ratio
from stock_assets.forecast_records import SPLIT
from stock_assets.intervals import PRIOR_WIDTHS, Widths
from stock_assets.prices import KEY, Validation, validate_csv
from stock_assets.tables import METADATA, SCHEMA_REVISION, VERSION_TABLE
from tests.conftest import as_csv, make_prices

Rows = dict[str, list[tuple[Any, ...]]]
Change = Callable[[pd.DataFrame], pd.DataFrame]

BEFORE_IT_WRITES = "_stage"
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
            if table.name != "writes"
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
            "trained_from": date(2019, 1, 1),
            "trained_to": date(2019, 6, 28),
            "days": days,
            "origins": 40,
            **dict.fromkeys(("mae", "rmse", "mae_ratio", "mae_ratio_h10"), 0.5),
            "coverage_80": 0.75,
            "coverage_95": 0.9,
            "weight": 0.25,
            "gains": {"1283": [0.02, 10.0], "1284": [0.03, 10.0]},
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


def table(database: Database, name: str) -> pd.DataFrame:
    """Every row of one table."""
    columns = METADATA.tables[name].c.keys()
    return pd.DataFrame(contents(database)[name], columns=columns)


def needs(database: Database, ticker: str = "AAPL") -> tuple[bool, bool]:
    """Whether a ticker needs a forecast, and whether it needs training."""
    (state,) = [state for state in database.ticker_states() if state.ticker == ticker]
    return state.needs_forecast, state.needs_training


def revisions(database: Database, ticker: str = "AAPL") -> tuple[int, int]:
    """The price and the history revision of a ticker."""
    rows = table(database, "tickers").to_dict("records")
    (row,) = [row for row in rows if row["ticker"] == ticker]
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


def reflected(connection: sa.Connection) -> dict[str, sa.Table]:
    """The tables that are there, whatever we declare; without that of the revision."""
    found = sa.MetaData()
    found.reflect(connection)
    return {name: table for name, table in found.tables.items() if name != VERSION_TABLE}


def found_rows(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that is there, ascending by its key."""
    return {
        name: [
            dict(row)
            for row in connection.execute(table.select().order_by(*table.primary_key)).mappings()
        ]
        for name, table in reflected(connection).items()
    }


def some_value(column: sa.Column[Any], n: int) -> object:
    """The n-th value of a column of this type."""
    values: dict[type, object] = {
        bool: n % 2 == 0,
        int: n,
        float: n + 0.25,
        str: f"{n}",
        date: date(2019, 6, n),
        datetime: datetime(2019, 6, n, 12, tzinfo=UTC),
        dict: {"n": [n, None]},
    }
    return values[column.type.python_type]


def test_migration_to_one_champion_keeps_every_row(database_url: str, migrations: Config) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        migrations.attributes["connection"] = connection
        command.upgrade(migrations, "0001")
        for of_release in reflected(connection).values():
            rows = [{c.name: some_value(c, n) for c in of_release.c} for n in (1, 2, 3)]
            connection.execute(of_release.insert(), rows)
        before = found_rows(connection)
    assert len(before) == 7

    database = Database(database_url)
    assert differences(database) == []
    with database.engine.begin() as connection:
        after = found_rows(connection)
        migrations.attributes["connection"] = connection
        command.downgrade(migrations, "0001")
        again = found_rows(connection)
    engine.dispose()
    database.engine.dispose()

    untrained = [
        row | {"model_version": None, "forecast_revision": None} for row in before["tickers"]
    ]
    assert again == before | {
        "tickers": untrained,
        "model_versions": [row | {"reason": "", "widths": []} for row in before["model_versions"]],
    }
    assert after == again | {
        **{name: [] for name in ("market_models", "interval_widths", "champions", "daily_scores")},
        "writes": [{"id": 1, "count": 0}],
        "drops": [
            row | {"scored": False, "tickers": None, "rejections": {"n": 1}}
            for row in before["drops"]
        ],
        "tickers": [row | {"forecast_due": None, "training_due": None} for row in untrained],
        "model_versions": [
            {k: v for k, v in row.items() if k not in {"reason", "widths"}}
            | {"weight": 0.0, "gains": None}
            for row in before["model_versions"]
        ],
    }


def test_rejected_rows_of_an_earlier_release_are_counted(
    database: Database, migrations: Config
) -> None:
    content = as_csv(make_prices().assign(sector="")) + b"AAPL,1\nAAPL,1,2\n"
    database.store_drop(register(database, content), validate(content))
    take(database, make_prices("IBM"))
    before = contents(database)["drops"]
    with database.engine.begin() as connection:
        migrations.attributes["connection"] = connection
        command.downgrade(migrations, "0004")
        command.upgrade(migrations, "head")
    after = table(database, "drops")["rejections"].tolist()
    assert after == [
        {"sector is empty": 120, "has more or fewer fields than the header": 2},
        None,
    ]
    assert [row[:5] for row in contents(database)["drops"]] == [row[:5] for row in before]


def test_tickers_of_the_first_release_are_trained_anew(
    database: Database, migrations: Config
) -> None:
    take(database, make_prices(days=100))
    database.save_training(training(), {"AAPL": 1})
    database.save_forecasts(forecast(), {"AAPL": 1})
    assert needs(database) == (False, False)
    with database.engine.begin() as connection:
        migrations.attributes["connection"] = connection
        command.downgrade(migrations, "0001")
        command.upgrade(migrations, "head")
    assert needs(database)[1]
    assert database.current_models(["AAPL"]).empty
    assert len(database.champion_forecasts(["AAPL"])) == 10


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


def test_numbers_come_back_to_the_last_digit(database: Database) -> None:
    written = make_prices(days=300)
    numbers = np.random.default_rng(0).uniform(1, 2, 300) * 10.0 ** np.arange(-150, 150)
    numbers[:2] = 1e-300, 1e300
    written[["close", "open", "low", "high"]] = np.repeat(numbers[:, None], 4, axis=1)
    written["volume"] = 2**53 - 1 - np.arange(300)
    validation = replace(validate(as_csv(make_prices())), accepted=written)
    database.store_drop(register(database, b"as they are"), validation)
    read = database.read_prices()[list(COLUMNS)]
    pd.testing.assert_frame_equal(read, written, check_exact=True)


@pytest.mark.parametrize("chunk", [1, 7, 60, 61])
def test_prices_are_the_same_in_chunks_of_any_size(
    database: Database, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    take(database, make_prices("BRK.B", 30), make_prices("AAPL", 30))
    take(database, make_prices("AAPL", 1).assign(close=101.0, high=102.0))
    expected = database.read_prices()
    monkeypatch.setattr("stock_assets.price_records._CHUNK", chunk)
    pd.testing.assert_frame_equal(database.read_prices(), expected)
    assert expected.groupby("ticker")["price_revision"].unique().to_dict() == {
        "AAPL": 2,
        "BRK.B": 1,
    }


def test_prices_of_no_ticker_have_the_same_columns(database: Database) -> None:
    nothing = database.read_prices()
    take(database, make_prices())
    some = database.read_prices()
    pd.testing.assert_series_equal(nothing.dtypes, some.dtypes)
    pd.testing.assert_frame_equal(nothing, database.read_prices([]))
    assert list(some) == [*COLUMNS[:1], "date", "sector", *COLUMNS[3:], "price_revision"]


def test_thousands_of_tickers_are_taken_and_read(database: Database) -> None:
    names = [f"T{n:04}" for n in range(8_000)]
    day = make_prices(days=1).drop(columns="ticker")
    for changes in (Changes(8_000, 0, tuple(names), ()), Changes(8_000, 0, (), tuple(names))):
        prices = day.merge(pd.Series(names, name="ticker"), how="cross")[list(COLUMNS)]
        assert take(database, prices) == changes
        day["date"] -= pd.Timedelta(days=1)
    read = database.read_prices(names)
    assert read["ticker"].tolist() == np.repeat(names, 2).tolist()


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


def test_ticker_that_is_due_needs_training_until_it_is_trained(database: Database) -> None:
    take(database, make_prices(days=100), make_prices("IBM", days=100))
    for ticker in ("AAPL", "IBM"):
        database.save_training(training(ticker), {ticker: 1})
        database.save_forecasts(forecast(ticker), {ticker: 1})
    database.mark_training_due({})
    database.mark_training_due({"AAPL": "drift", "NONE": "drift"})
    assert [(s.ticker, s.due) for s in database.ticker_states()] == [
        ("AAPL", "drift"),
        ("IBM", ""),
    ]
    assert (needs(database), needs(database, "IBM")) == ((True, True), (False, False))

    database.save_forecasts(forecast(), {"AAPL": 1})
    assert needs(database) == (True, True)
    database.save_training(training(version="v2"), {"AAPL": 1})
    assert needs(database) == (False, False)


def test_training_on_older_prices_leaves_a_ticker_due(database: Database) -> None:
    take(database, make_prices().head(100))
    take(database, make_prices())
    database.save_training(training(), {"AAPL": 2})
    database.mark_training_due({"AAPL": "drift"})
    database.save_training(training(version="old"), {"AAPL": 1})
    assert needs(database) == (True, True)


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
    assert models["weight"].tolist() == [0.25] * 4
    assert models["gains"].iloc[0] == {"1283": [0.02, 10.0], "1284": [0.03, 10.0]}


def test_last_day_of_the_current_training_is_told(database: Database) -> None:
    take(database, *(make_prices(ticker) for ticker in ("AAPL", "GOOG", "IBM")))
    later = [row | {"trained_to": date(2019, 7, 1)} for row in training(version="v2")]
    database.save_training(later + training("IBM"), {"AAPL": 1, "IBM": 1})
    assert database.last_trained(["AAPL", "GOOG", "NONE"]) == {"AAPL": date(2019, 7, 1)}
    database.save_training(training(), {"AAPL": 1})
    assert database.last_trained(["AAPL"]) == {"AAPL": date(2019, 6, 28)}


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


# What all tickers tell together


def market(version: str, tickers: int = 500) -> dict[str, Any]:
    """The market_models row of one training."""
    return {
        "version": version,
        "trained_to": date(2019, 6, 28),
        "tickers": tickers,
        "days": 1_000 * tickers,
        "artifact": f"models/_market/{version}.skops",
    }


def widths(days: Iterable[str], factor: float = 1.0) -> Widths:
    """The widths at the start, in a factor that grows day by day."""
    dates = np.array(list(days), dtype="datetime64[D]")
    grown = factor * np.arange(1, len(dates) + 1)[:, None, None] * PRIOR_WIDTHS
    return Widths(dates, grown)


@pytest.mark.parametrize(
    ("saved", "newest"), [("a", "a"), ("ab", "b"), ("aba", "a"), ("abb", "b"), ("abcab", "b")]
)
def test_market_model_saved_last_is_the_newest(database: Database, saved: str, newest: str) -> None:
    for version in saved:
        database.save_market_model(market(version))
    found = database.market_model()
    assert found is not None
    assert {name: found[name] for name in market("")} == market(newest)
    assert sorted(table(database, "market_models")["version"]) == sorted(set(saved))


def test_interval_widths_come_back_as_they_were_written(database: Database) -> None:
    written = widths(["2019-06-26", "2019-06-27", "2019-06-28"])
    database.save_interval_widths(written.to_frame().sample(frac=1, random_state=0))
    read = Widths.from_frame(database.interval_widths())
    np.testing.assert_array_equal(read.days, written.days)
    np.testing.assert_array_equal(read.values, written.values)


def test_interval_widths_are_replaced_and_end_with_the_newest_day(database: Database) -> None:
    database.save_interval_widths(widths(["2019-06-26", "2019-06-27", "2019-06-28"]).to_frame())
    shorter = widths(["2019-06-25", "2019-06-26", "2019-06-27"], factor=2.0)
    database.save_interval_widths(shorter.to_frame())
    read = Widths.from_frame(database.interval_widths())
    np.testing.assert_array_equal(read.days, shorter.days)
    np.testing.assert_array_equal(read.values, shorter.values)


# The champion


OWN = "linear_regression"
BY_HAND = Champion(OWN, "chosen by hand", pinned=True)
TOLD = [date(2019, 6, 27), date(2019, 6, 28)]


@pytest.fixture
def told(database: Database) -> Database:
    """Forecasts of two days as naive was the champion: of IBM by the naive model alone."""
    take(database, make_prices(), make_prices("IBM"))
    for version in ("v1", "v2"):
        rows = training(version=version) + training("IBM", version)[1:]
        database.save_training(rows, {"AAPL": 1, "IBM": 1})
    for day in TOLD:
        both = [forecast(version="v2", as_of=day)]
        both.append(forecast("IBM", "v2", as_of=day, models=("naive",)))
        database.save_forecasts(pd.concat(both), {"AAPL": 1, "IBM": 1})
    return database


def shown(database: Database) -> list[tuple[str, date, str]]:
    """Whose forecasts were the champion's, on which day; each of ten days ahead."""
    rows = table(database, "forecasts")
    rows = rows[rows["is_champion"].astype(bool)]
    assert not rows.duplicated(["ticker", "as_of", "h"]).any()
    assert len(rows) == 10 * len(rows[["ticker", "as_of"]].drop_duplicates())
    days = rows[["ticker", "as_of", "model"]].drop_duplicates()
    return list(days.itertuples(index=False, name=None))


def test_naive_is_the_champion_before_one_is_crowned(database: Database) -> None:
    assert database.champion() == Champion("naive", "nothing was backtested yet", pinned=False)
    assert database.champions().empty


@pytest.mark.parametrize(
    ("crowned", "of_aapl"), [(OWN, OWN), ("naive", "naive"), ("unknown", "naive")]
)
def test_crown_is_of_the_newest_forecasts_and_changes_no_earlier_day(
    told: Database, crowned: str, of_aapl: str
) -> None:
    told.crown(Champion(crowned, "", pinned=False))
    before, last = TOLD
    assert shown(told) == [
        ("AAPL", before, "naive"),
        ("AAPL", last, of_aapl),
        ("IBM", before, "naive"),
        ("IBM", last, "naive"),
    ]
    models = told.current_models(["AAPL", "IBM"])
    assert models.loc[models["is_champion"], ["ticker", "model"]].to_numpy().tolist() == [
        ["AAPL", of_aapl],
        ["IBM", "naive"],
    ]
    newest = told.champion_forecasts(["AAPL", "IBM"])
    assert newest.groupby("ticker")["model"].unique().str[0].to_dict() == {
        "AAPL": of_aapl,
        "IBM": "naive",
    }


def test_forecast_that_newer_prices_overtook_stays_as_it_was_told(told: Database) -> None:
    both = forecast("IBM", "v2", as_of=TOLD[1])
    told.save_forecasts(both, {"IBM": 1})
    take(told, make_prices("AAPL", 1).assign(date=pd.Timestamp("2019-07-01")))
    told.crown(BY_HAND)
    assert [row for row in shown(told) if row[2] == OWN] == [("IBM", TOLD[1], OWN)]


def test_crown_goes_back_to_naive(told: Database) -> None:
    before = contents(told)
    told.crown(BY_HAND)
    assert contents(told)["forecasts"] != before["forecasts"]
    told.crown(Champion("naive", "", pinned=False))
    assert {**contents(told), "champions": []} == before


def test_model_that_is_gone_is_not_crowned_on_its_last_forecast(told: Database) -> None:
    told.crown(BY_HAND)
    told.save_training(training(version="v3")[1:], {"AAPL": 1})
    told.save_forecasts(forecast(version="v3", models=("naive",)), {"AAPL": 1})
    told.crown(BY_HAND)
    assert set(told.champion_forecasts(["AAPL"])["model_version"]) == {"v3"}


def test_champions_are_kept_with_a_row_for_each_change_of_model_or_pin(told: Database) -> None:
    naive = Champion("naive", "no model beats it", pinned=False)
    for champion in (
        replace(naive, reason="nothing else"),
        naive,
        BY_HAND,
        replace(BY_HAND, reason="rolled back"),
        replace(BY_HAND, pinned=False),
        naive,
    ):
        told.crown(champion)
        assert told.champion() == champion
    names = ["model", "reason", "pinned"]
    assert told.champions()[names].to_numpy().tolist() == [
        ["naive", "no model beats it", False],
        [OWN, "chosen by hand", False],
        [OWN, "rolled back", True],
        ["naive", "no model beats it", False],
    ]
    assert told.champions(at_most=1)[names].to_numpy().tolist() == [list(vars(naive).values())]


def with_figures(
    rows: list[dict[str, Any]], own: float, naive: float, origins: int
) -> list[dict[str, Any]]:
    """The rows of a training whose two models had these errors."""
    maes = {OWN: own, "naive": naive}
    return [
        row
        | {
            "mae": maes[row["model"]],
            "mae_ratio": ratio(maes[row["model"]], naive),
            "origins": origins,
            "coverage_80": 0.5 + own,
            "coverage_95": 0.9 + own,
            "gains": {"1283": [naive - maes[row["model"]], origins]},
        }
        for row in rows
    ]


FIGURES = {
    "AAPL": (0.010, 0.020, 40),
    "FLAT": (0.005, 0.0, 30),  # whose price never moved
    "GOOG": (0.030, 0.025, 200),
    "IBM": (0.011, 0.012, 7),
}


@pytest.fixture
def backtested(database: Database) -> Database:
    """Tickers with a backtest, of which an earlier one was better, and one without."""
    take(database, *(make_prices(ticker) for ticker in (*FIGURES, "NEW")))
    for ticker, (own, naive, origins) in FIGURES.items():
        earlier = with_figures(training(ticker, "v1"), 1e-6, naive, 1_000)
        database.save_training(earlier, {ticker: 1})
        current = with_figures(training(ticker, "v2"), own, naive, origins)
        database.save_training(current, {ticker: 1})
    none = ("mae", "rmse", "mae_ratio", "mae_ratio_h10", "coverage_80", "coverage_95", "gains")
    untested = [row | dict.fromkeys(none) | {"origins": 0} for row in training("NEW")]
    database.save_training(untested, {"NEW": 1})
    return database


def test_leaderboard_is_of_all_origins_of_the_current_backtests(backtested: Database) -> None:
    own, naive, origins = np.array(list(FIGURES.values())).T
    naive_mae, own_mae = np.average([naive, own], axis=1, weights=origins)
    coverage = [0.5 + own_mae, 0.9 + own_mae]
    expected = pd.DataFrame(
        [
            ["naive", len(FIGURES), naive_mae, 1.0, *coverage],
            [OWN, len(FIGURES), own_mae, own_mae / naive_mae, *coverage],
        ],
        columns=["model", "tickers", "mae", "mae_ratio", "coverage_80", "coverage_95"],
    )
    pd.testing.assert_frame_equal(backtested.leaderboard(), expected, rtol=1e-12)


def test_leaderboard_is_empty_before_the_first_backtest(database: Database) -> None:
    assert database.leaderboard().empty
    assert "mae_ratio" in database.leaderboard()


def test_leaderboard_can_be_read_where_no_price_ever_moved(database: Database) -> None:
    take(database, make_prices())
    rows = [row | {"mae": 0.0, "mae_ratio": 1.0} for row in training()]
    database.save_training(rows, {"AAPL": 1})
    assert not database.leaderboard()["mae_ratio"].isna().any()


def test_gains_are_those_of_the_current_backtests(backtested: Database) -> None:
    found = backtested.backtest_gains()
    assert sorted(found) == [OWN, "naive"]
    gains = sorted(tuple(of_ticker["1283"]) for of_ticker in found[OWN])
    assert gains == sorted((naive - own, n) for own, naive, n in FIGURES.values())
    assert len(found["naive"]) == len(FIGURES)


# What became of the forecasts


MODELS = ("linear_regression", "naive", "random_forest")
SCORED = ["ticker", "as_of", "h", "model"]
LAST = date(2019, 6, 28)


def told_at_random(ticker: str, as_of: date, champion: str) -> pd.DataFrame:
    """Forecasts of one day that are off by some per cent, and intervals that hold some closes."""
    rows = forecast(ticker, models=MODELS, as_of=as_of, champion=champion)
    random = np.random.default_rng([*ticker.encode(), as_of.toordinal()])
    rows["close"] = 100 * np.exp(random.normal(0, 0.1, len(rows)))
    for level, width in ((80, 0.1), (95, 0.2)):
        rows[f"lo_{level}"] = rows["close"] * np.exp(-width * random.random(len(rows)))
        rows[f"hi_{level}"] = rows["close"] * np.exp(width * random.random(len(rows)))
    return rows


@pytest.fixture
def lived(database: Database) -> Database:
    """Forecasts of two tickers on nine days; the champion changed, on AAPL alone at first."""
    take(database, make_prices(), make_prices("IBM"))
    days = [day.date() for day in pd.bdate_range(end=LAST, periods=9)]
    for n, day in enumerate(days):
        champions = {"AAPL": MODELS[n // 4], "IBM": MODELS[n // 6]}
        rows = [told_at_random(ticker, day, of) for ticker, of in champions.items()]
        database.save_forecasts(pd.concat(rows), {"AAPL": 1, "IBM": 1})
    return database


def scores_by_hand(database: Database) -> pd.DataFrame:
    """What forecast_scores has to hold, one forecast after the other."""
    prices = table(database, "prices").to_dict("records")
    closes = {(row["ticker"], row["date"]): row["close"] for row in prices}
    forecasts = table(database, "forecasts").to_dict("records")
    told = {tuple(row[name] for name in SCORED): row for row in forecasts}
    rows = []
    for key, row in sorted(told.items()):
        actual, naive = closes.get((key[0], row["target_date"])), told.get((*key[:3], "naive"))
        if actual is None or naive is None:
            continue
        change = closes[key[0], row["as_of"]] / naive["close"]
        close = actual if 1 / SPLIT <= change <= SPLIT else actual / change
        errors = [math.log(close) - math.log(it["close"]) for it in (row, naive)]
        inside = [row[f"lo_{level}"] <= close <= row[f"hi_{level}"] for level in (80, 95)]
        rows.append((*key, actual, *errors, *inside))
    return pd.DataFrame(rows, columns=METADATA.tables["forecast_scores"].c.keys()[:-1])


def assert_scores_are_right(database: Database) -> None:
    stored = table(database, "forecast_scores").drop(columns="created_at")
    expected = scores_by_hand(database)
    pd.testing.assert_frame_equal(stored, expected, rtol=1e-12, atol=1e-14)


def test_scores_equal_those_by_hand(lived: Database) -> None:
    assert lived.score_forecasts() == len(scores_by_hand(lived)) > 100
    assert_scores_are_right(lived)
    scores = table(lived, "forecast_scores")
    assert scores["inside_80"].nunique() == scores["inside_95"].nunique() == 2


def test_forecast_is_scored_once(lived: Database) -> None:
    lived.score_forecasts()
    age(lived)
    before = contents(lived)
    assert lived.score_forecasts() == 0
    assert contents(lived) == before


def test_a_drop_that_is_taken_again_leaves_nothing_to_score(lived: Database) -> None:
    day = make_prices().tail(1).assign(date=pd.Timestamp("2019-07-01"))
    for is_new in (True, False):
        take(lived, day)
        assert lived.is_scored() is not is_new
        assert (lived.score_forecasts() > 0) is is_new
        assert lived.is_scored()


def test_nothing_is_scored_before_there_are_prices(database: Database) -> None:
    assert database.score_forecasts() == 0


def told_of(database: Database, ticker: str, target: date) -> int:
    """How many forecasts there are of a ticker's close on a day."""
    rows = table(database, "forecasts")
    return int(((rows["ticker"] == ticker) & (rows["target_date"] == target)).sum())


def test_forecast_is_scored_as_soon_as_its_day_has_come(lived: Database) -> None:
    lived.score_forecasts()
    day = date(2019, 7, 1)
    take(lived, make_prices().tail(1).assign(date=pd.Timestamp(day)))
    assert lived.score_forecasts() == told_of(lived, "AAPL", day) > 0
    assert_scores_are_right(lived)


def test_corrected_close_is_scored_anew(lived: Database) -> None:
    lived.score_forecasts()
    day = date(2019, 6, 26)
    prices = make_prices()
    take(lived, prices[prices["date"] == pd.Timestamp(day)].assign(close=lambda p: p["low"]))
    assert lived.score_forecasts() == told_of(lived, "AAPL", day) > 0
    assert_scores_are_right(lived)


def split(prices: pd.DataFrame, by: float) -> pd.DataFrame:
    """The same in smaller shares."""
    names = ["close", "open", "low", "high"]
    return prices.assign(**(prices[names] / by))


@pytest.mark.parametrize("by", [2.0, 4.0, 0.1])
def test_a_split_changes_no_score(database: Database, by: float) -> None:
    prices = make_prices()
    take(database, prices)
    then = prices.iloc[-6]
    rows = forecast(as_of=then["date"].date(), close=then["close"])
    far = np.where(rows["h"] % 2, 0.5, 0.01)  # of the close: all are inside, or hardly one
    bounds = {"lo_80": 1 - far, "hi_80": 1 + far, "lo_95": 1 - far, "hi_95": 1 + far}
    rows = rows.assign(**{name: then["close"] * share for name, share in bounds.items()})
    rows.loc[rows["model"] != "naive", "close"] *= 1.01
    database.save_forecasts(rows, {"AAPL": 1})
    database.score_forecasts()
    names = ["error", "naive_error", "inside_80", "inside_95"]
    before = table(database, "forecast_scores")
    assert before["inside_80"].nunique() == 2
    take(database, split(prices, by))
    database.score_forecasts()
    after = table(database, "forecast_scores")
    pd.testing.assert_frame_equal(after[names], before[names], rtol=1e-9)
    pd.testing.assert_series_equal(after["actual_close"] * by, before["actual_close"])
    assert_scores_are_right(database)


def test_forecast_told_anew_is_scored_anew(lived: Database) -> None:
    lived.score_forecasts()
    rows = told_at_random("AAPL", date(2019, 6, 27), "naive")
    rows.loc[rows["model"] == "naive", "close"] *= 1.01
    lived.save_forecasts(rows, {"AAPL": 1})
    assert lived.score_forecasts() == len(MODELS)
    assert_scores_are_right(lived)


def test_forecast_without_a_naive_one_is_not_scored(database: Database) -> None:
    take(database, make_prices())
    day = date(2019, 6, 26)
    database.save_forecasts(forecast(models=(OWN,), as_of=day), {"AAPL": 1})
    assert database.score_forecasts() == 0
    database.save_forecasts(forecast(models=("naive",), as_of=day), {"AAPL": 1})
    assert database.score_forecasts() == 4
    assert_scores_are_right(database)


def test_outcomes_of_any_age_are_scored(database: Database) -> None:
    take(database, make_prices(days=160), make_prices("IBM", days=160))
    for ticker, day in (("AAPL", date(2018, 12, 26)), ("IBM", date(2019, 6, 26))):
        database.save_forecasts(forecast(ticker, models=("naive",), as_of=day), {ticker: 1})
    assert database.score_forecasts() > 5
    assert set(table(database, "forecast_scores")["ticker"]) == {"AAPL", "IBM"}
    assert_scores_are_right(database)


def live_by_hand(database: Database, days: int) -> pd.DataFrame:
    """Scores of the last days, with what the day's champion told once more as `champion`."""
    scores, forecasts = table(database, "forecast_scores"), table(database, "forecasts")
    of_champion = forecasts.loc[forecasts["is_champion"].astype(bool), SCORED]
    shown = scores.merge(of_champion, on=SCORED).assign(model="champion")
    last = sorted(set(scores["as_of"]))[-days:]
    both = pd.concat([scores, shown], ignore_index=True)
    return both[both["as_of"].isin(last)]


def figures_by_hand(scores: pd.DataFrame) -> dict[str, float]:
    size = np.abs(scores[["error", "naive_error"]].to_numpy())
    return {
        "mae_ratio": size[:, 0].sum() / size[:, 1].sum(),
        "coverage_80": float(np.mean(scores["inside_80"].tolist())),
        "coverage_95": float(np.mean(scores["inside_95"].tolist())),
    }


@pytest.mark.parametrize("days", [1, 3, 60])
def test_live_records_follow_the_champion_of_each_day(lived: Database, days: int) -> None:
    lived.score_forecasts()
    expected = pd.DataFrame(
        [
            {"model": model, "days": len(set(told["as_of"])), "forecasts": len(told)}
            | figures_by_hand(told)
            for model, told in live_by_hand(lived, days).groupby("model")
        ]
    )
    found = lived.live_records(days)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-12, check_dtype=False)
    assert found["model"].tolist() == ["champion", *MODELS]
    assert found.set_index("model")["mae_ratio"].nunique() == (3 if days == 1 else 4)


def test_crown_leaves_the_record_of_earlier_days(lived: Database) -> None:
    lived.score_forecasts()
    before = lived.live_records(60)
    lived.crown(Champion(OWN, "", pinned=False))
    pd.testing.assert_frame_equal(lived.live_records(60), before)


@pytest.mark.parametrize("days", [3, 60])
def test_rolling_scores_are_of_what_people_were_shown(lived: Database, days: int) -> None:
    lived.score_forecasts()
    shown = live_by_hand(lived, days).query("model == 'champion'")
    expected = [
        {"as_of": as_of, "h": h, **figures_by_hand(told)}
        for (as_of, h), told in shown.groupby(["as_of", "h"])
    ]
    pd.testing.assert_frame_equal(
        lived.rolling_scores(days), pd.DataFrame(expected), rtol=1e-12, check_dtype=False
    )


def test_live_errors_are_held_against_the_backtest_of_the_champion(lived: Database) -> None:
    lived.score_forecasts()
    assert lived.live_errors(60).empty  # there is no backtest yet
    lived.save_training(with_figures(training(version="old"), 9.0, 9.0, 40), {"AAPL": 1})
    shown = live_by_hand(lived, 3).query("model == 'champion' and ticker == 'AAPL'")
    newest = max(shown["as_of"])
    rows = with_figures(training(), 0.03, 0.02, 40)
    later = [row | {"trained_to": newest + timedelta(days=1)} for row in rows]
    lived.save_training(later, {"AAPL": 1})
    assert lived.live_errors(3).empty  # nothing that the training did not know
    lived.save_training([row | {"trained_to": newest} for row in rows], {"AAPL": 1})
    none = [row | {"mae": None} for row in training("IBM")]
    lived.save_training(none, {"IBM": 1})
    error = np.abs(shown["error"]).mean()
    expected = pd.DataFrame({"ticker": ["AAPL"], "days": [3], "ratio": [error / 0.02]})
    pd.testing.assert_frame_equal(lived.live_errors(3), expected, rtol=1e-12, check_dtype=False)


def test_nothing_is_known_before_a_forecast_is_scored(database: Database) -> None:
    for found in (database.live_records(60), database.rolling_scores(60), database.live_errors(20)):
        assert found.empty
        assert len(found.columns) >= 3


# Every write may be repeated, be cut off, and meet others


def refuse(database: Database) -> None:
    database.refuse_drop(register(database, b"no CSV").key, "no CSV")


def score(database: Database) -> None:
    database.save_forecasts(forecast(as_of=date(2019, 6, 24)), {"AAPL": 1})
    database.score_forecasts()


WRITES: dict[str, Callable[[Database], object]] = {
    "register_drop": lambda database: register(database, b"other"),
    "refuse_drop": refuse,
    "store_drop": lambda database: take(
        database, with_bad_row(make_prices(seed=1)), make_prices("IBM")
    ),
    "save_training": lambda database: database.save_training(training(), {"AAPL": 1}),
    "save_forecasts": lambda database: database.save_forecasts(forecast(), {"AAPL": 1}),
    "save_market_model": lambda database: database.save_market_model(market("a")),
    "save_interval_widths": lambda database: database.save_interval_widths(
        widths(["2019-06-27", "2019-06-28"]).to_frame()
    ),
    "mark_training_due": lambda database: database.mark_training_due({"AAPL": "drift"}),
    "crown": lambda database: database.crown(BY_HAND),
    "score_forecasts": score,
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
