"""Dashboards: Grafana knows every field of them, and every query finds what it asks for."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from stock_assets.database import Champion, Database
from tests import grafana
from tests.conftest import as_csv, empty_database, make_prices
from tests.promql import metrics, used
from tests.test_database import forecast, register, take, training, validate

MARKET = {"AAPL": "Technology", "IBM": "Technology", "JPM": "Financials", "MAT": "Children's"}
SOURCES = {"prometheus": "${prometheus}", "grafana-postgresql-datasource": "${database}"}
COLUMNS = 24
DOCUMENTS = {name: grafana.dashboard(name) for name in grafana.NAMES}
TARGETS = [
    (name, target) for name, document in DOCUMENTS.items() for target in grafana.targets(document)
]
IDS = [f"{name}: {target.title}" for name, target in TARGETS]
of_each_dashboard = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
PANELS = [(name, panel) for name, told in DOCUMENTS.items() for panel in grafana.panels(told)]
of_each_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{name}: {p['title']}" for name, p in PANELS]
)


def targets_of(kind: str) -> pytest.MarkDecorator:
    """Each query that asks one of the two."""
    some = [(told, at) for (_, told), at in zip(TARGETS, IDS, strict=True) if told.kind == kind]
    return pytest.mark.parametrize("target", [told for told, _ in some], ids=[at for _, at in some])


# As Grafana reads them


def read_again(document: dict[str, Any]) -> Any:
    """What is left of a dashboard when Grafana's own classes have read and written it.

    They know annotations of Grafana's own store only: the queries of others are put back.
    """
    pytest.importorskip("grafana_foundation_sdk", reason="the dashboards' source is not installed")
    from grafana_foundation_sdk.cog import plugins  # noqa: PLC0415
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415
    from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: PLC0415

    plugins.register_default_plugins()
    model = Dashboard.from_json(deepcopy(document))
    told = json.loads(json.dumps(model, cls=JSONEncoder))
    marks = zip(told["annotations"]["list"], document["annotations"]["list"], strict=True)
    for annotation, before in marks:
        if "target" in annotation:
            annotation["target"] = before["target"]
    return told


def overridden(document: dict[str, Any]) -> dict[str, Any]:
    """The dashboard with what is told of single columns told of all; but for their links."""
    told = deepcopy(document)
    for panel in grafana.panels(told):
        defaults = panel["fieldConfig"]["defaults"]
        for override in panel["fieldConfig"].pop("overrides"):
            for each in override["properties"]:
                if each["id"] == "links":  # a class of their own, which the SDK lacks
                    continue
                group, _, name = each["id"].rpartition(".")
                place = defaults.setdefault(group, {}) if group else defaults
                place[name] = each["value"]
        panel["fieldConfig"]["overrides"] = []
    return told


@pytest.mark.parametrize("name", grafana.NAMES)
def test_dashboards_are_what_their_source_writes(name: str) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the dashboards' source is not installed")
    from dashboards.__main__ import FOLDER, written  # noqa: PLC0415

    assert (FOLDER / f"{name}.json").read_text("utf-8") == written(name), "make dashboards"


@of_each_dashboard
def test_grafana_knows_every_field(document: dict[str, Any]) -> None:
    assert read_again(document) == document
    assert read_again(overridden(document)) == overridden(document)


@pytest.mark.parametrize(
    "where",
    ["options", "options.legend", "fieldConfig.defaults", "fieldConfig.defaults.custom", "gridPos"],
)
def test_a_field_that_grafana_does_not_know_is_seen(where: str) -> None:
    document = deepcopy(DOCUMENTS["platform"])
    panel = next(panel for panel in document["panels"] if panel["type"] == "timeseries")
    for name in where.split("."):
        panel = panel[name]
    panel["unheardOf"] = 1
    assert read_again(document) != document


# As people see them


@of_each_dashboard
def test_dashboards_are_of_no_installation(document: dict[str, Any]) -> None:
    assert "id" not in document
    sources = list(found(document, "datasource"))
    assert sources
    for source in sources:
        assert SOURCES[source["type"]] == source["uid"]
    chosen = {one["name"]: one["query"] for one in document["templating"]["list"]}
    assert {chosen["prometheus"], chosen["database"]} == {*SOURCES}


def found(value: Any, name: str) -> Iterator[Any]:
    """Everything that has this name in a document."""
    if isinstance(value, dict):
        yield from (told for key, told in value.items() if key == name)
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for child in children:
            yield from found(child, name)


@of_each_panel
def test_panels_say_what_they_show(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert re.search(r"\w\.( |$)", panel["description"])
    shown = panel["fieldConfig"]["defaults"]
    assert shown["unit"]
    assert shown["noValue"]
    assert shown["thresholds"]["steps"][0]["value"] is None
    values = [step["value"] for step in shown["thresholds"]["steps"][1:]]
    assert values == sorted(values)
    assert panel["targets"]
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len({*names})


@of_each_dashboard
def test_grid_has_neither_overlaps_nor_holes(document: dict[str, Any]) -> None:
    cells = [
        cell
        for panel in document["panels"]
        for at in [panel["gridPos"]]
        for cell in product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
    ]
    height = max(y for _, y in cells) + 1
    assert sorted(cells) == sorted(product(range(COLUMNS), range(height)))
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(numbers) == len({*numbers})


def test_dashboards_lead_to_each_other() -> None:
    addresses = {f"/d/{document['uid']}" for document in DOCUMENTS.values()}
    assert {link["url"] for told in DOCUMENTS.values() for link in told["links"]} == addresses


# What they ask Prometheus


@targets_of("prometheus")
def test_series_and_labels_are_there(target: grafana.Target) -> None:
    known = metrics()
    for name, labels in used(target.expression):
        assert labels <= known[name], name


@targets_of("prometheus")
def test_windows_fit_the_time_range(target: grafana.Target) -> None:
    windows = {*re.findall(r"\[([^\]]*)\]", target.expression)}
    assert windows <= {"$__rate_interval", "$__range"}
    rates = re.findall(r"\b(?:rate|irate)\([^\[]*\[([^\]]*)\]", target.expression)
    assert {*rates} <= {"$__rate_interval"}


@targets_of("prometheus")
def test_nothing_is_left_to_put_into_promql(target: grafana.Target) -> None:
    assert "$" not in grafana.promql(target.expression)


def test_every_metric_of_ours_is_shown() -> None:
    shown = {
        name
        for _, target in TARGETS
        if target.kind == "prometheus"
        for name, _ in used(target.expression)
    }
    left = {name for name in metrics() if not name.endswith(("_sum", "_count"))} - shown
    assert not left


# What they ask the database

DAYS = 60  # that are forecast from; the last ten of them have no outcome yet
TIMES = datetime(2019, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1)
CHOSEN: grafana.Variables = {"h": "10", "ticker": "AAPL", "sector": sorted({*MARKET.values()})}
REFUSED = b"ticker,sector,date,close\nAAPL,Technology,2019-07-01,1\n"


def forecasts_of(prices: pd.DataFrame, version: str, number: int) -> pd.DataFrame:
    """A forecast from each of the last days, by trading days; no two tickers change alike."""
    sessions = [*prices["date"].dt.date, *pd.bdate_range("2019-07-01", periods=10).date]
    closes = prices["close"].to_list()
    told = []
    for at in range(len(closes) - DAYS, len(closes)):
        ticker, champion = prices["ticker"].iloc[0], ("naive", "linear_regression")[at % 2]
        rows = forecast(ticker, version, champion=champion, as_of=sessions[at], close=closes[at])
        moved = rows["model"].map(
            {"naive": 1.0, "linear_regression": 1 + number * (at % 7 + 1) / 1000}
        )
        rows["close"] *= moved
        rows["target_date"] = [sessions[at + h] for h in rows["h"]]
        for level, width in ((80, 0.04), (95, 0.08)):
            rows[f"lo_{level}"] = rows["close"] * (1 - width)
            rows[f"hi_{level}"] = rows["close"] * (1 + width)
        told.append(rows)
    return pd.concat(told)


def fill(database: Database) -> None:
    """Prices, two trainings, forecasts and what came of them, champions, drops of each kind."""
    prices = {name: make_prices(name, 120).assign(sector=sector) for name, sector in MARKET.items()}
    take(database, *prices.values())
    broken = as_csv(prices["IBM"].tail(2).assign(high=0.5)) + b"IBM,Technology,never,1,1,1,1,1\n"
    database.store_drop(register(database, broken, "broken.csv"), validate(broken))
    database.refuse_drop(
        register(database, REFUSED, "refused.csv").key, "The column open is missing."
    )
    for version, day in (("v1", date(2019, 3, 29)), ("v2", date(2019, 5, 31))):
        artifact = f"models/market/{version}.skops"
        told = {"version": version, "trained_to": day, "tickers": 4, "days": 480}
        database.save_market_model({**told, "artifact": artifact})
        for name in MARKET:
            database.save_training(training(name, version), {name: 1})
    for number, name in enumerate(MARKET, 1):
        database.save_forecasts(forecasts_of(prices[name], "v2", number), {name: 1})
    for model, reason in (("naive", "none beats it"), ("linear_regression", "it beats naive")):
        database.crown(Champion(model, reason, pinned=False))
    database.score_forecasts()


@dataclass
class Market:
    """A database that has something of everything."""

    database: Database
    connection: sa.Connection

    def ask(self, expression: str, **chosen: str) -> sa.CursorResult[Any]:
        """What Grafana would be answered."""
        return self.connection.exec_driver_sql(
            grafana.sql(expression, {**CHOSEN, **chosen}, *TIMES),
            execution_options={"no_parameters": True},  # a % is a %
        )


@pytest.fixture(scope="module")
def market(postgres_url: str) -> Iterator[Market]:
    address = empty_database(postgres_url, "dashboards")
    database = Database(address)
    fill(database)
    with database.engine.connect() as connection:
        yield Market(database, connection.execution_options(isolation_level="AUTOCOMMIT"))
    database.engine.dispose()


@targets_of("sql")
@pytest.mark.parametrize("model", ["champion", "naive", "linear_regression"])
def test_queries_find_something(market: Market, target: grafana.Target, model: str) -> None:
    answer = market.ask(target.expression, model=model)
    names, rows = [*answer.keys()], answer.all()
    assert rows
    assert any(value is not None for value in rows[-1])
    assert len(names) == len({*names})
    if target.shape != "table":
        assert names[0] == "time"
        assert all(isinstance(row[0], datetime) for row in rows)
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def told(market: Market, title: str, **chosen: str) -> pd.DataFrame:
    """What a panel of the forecasts is answered."""
    (expression,) = (
        target.expression
        for name, target in TARGETS
        if (name, target.title) == ("forecasts", title)
    )
    answer = market.ask(expression, **chosen)
    return pd.DataFrame(answer.all(), columns=[*answer.keys()])


def test_models_are_held_against_naive_as_the_platform_does(market: Market) -> None:
    shown = told(market, "Models").set_index("model")
    live = market.database.live_records(60).set_index("model")
    backtest = market.database.leaderboard().set_index("model")
    assert {*shown.index} == {*live.index} == {"champion", "linear_regression", "naive"}
    for name, figures in (("live", live), ("backtest", backtest)):
        for column, figure in {
            name: "mae_ratio",
            f"{name} in 80 %": "coverage_80",
            f"{name} in 95 %": "coverage_95",
        }.items():
            told_of = shown.loc[figures.index, column].astype(float)
            assert told_of.to_list() == pytest.approx(figures[figure].to_list())
    (error,) = told(market, "Error against naive").iloc[0]
    assert error == pytest.approx(live.loc["champion", "mae_ratio"])
    assert error != 1.0


def test_lines_are_of_the_twenty_scored_sessions_up_to_each(market: Market) -> None:
    shown = told(market, "Inside 80 %, by model")
    of_model = shown[shown["metric"] == "linear_regression"].set_index("time")["value"]
    assert len(of_model) == DAYS - 1
    with market.database.engine.connect() as connection:
        days = pd.read_sql(
            "SELECT as_of, sum(inside_80) AS inside, sum(forecasts) AS forecasts FROM daily_scores "
            "WHERE model = 'linear_regression' GROUP BY as_of ORDER BY as_of",
            connection,
        )
    sums = days[["inside", "forecasts"]].rolling(20, min_periods=1).sum()
    assert of_model.to_list() == pytest.approx((sums["inside"] / sums["forecasts"]).to_list())
    assert of_model.index[-1].date() == days["as_of"].iloc[-1]
    by_day = told(market, "Inside 80 %, by days ahead", model="naive")
    assert {*by_day["metric"]} == {"1 day", "5 days", "10 days"}


def test_closes_go_over_into_the_forecast(market: Market) -> None:
    shown = told(market, "Closes and the newest forecast", model="champion").set_index("date")
    newest = market.database.champion_forecasts(["AAPL"])
    days = pd.to_datetime(newest["target_date"]).astype("datetime64[ms]").astype("int64")
    ahead = shown.loc[days.to_list()]
    assert ahead["close"].isna().all()
    assert ahead["forecast"].to_list() == newest["close"].to_list()
    assert ahead["95 % to"].to_list() == newest["hi_95"].to_list()
    last = shown.iloc[-len(days) - 1]
    assert {*last} == {newest["last_close"].iloc[0]}
    assert shown["forecast"].notna().sum() == len(days) + 1
    assert shown.index.is_monotonic_increasing


def test_what_was_told_stands_on_the_day_it_was_told_of(market: Market) -> None:
    shown = told(market, "What was told $h days ahead against what came", h="3", model="naive")
    closes = market.database.read_prices(["AAPL"])["close"].to_list()
    assert shown["forecast"].to_list() == closes[-DAYS:]
    came = shown["close"].dropna().to_list()
    assert came == closes[-DAYS + 3 :]


def test_largest_changes_come_first(market: Market) -> None:
    shown = told(market, "Largest changes of forecasts", model="linear_regression")
    assert {*shown["ticker"]} == {*MARKET}
    assert shown["difference"].to_list() == pytest.approx(
        (shown["change"] - shown["before"]).to_list()
    )
    sizes = shown["difference"].abs()
    assert sizes.is_monotonic_decreasing
    assert sizes.iloc[0] > 0


def test_a_sector_is_of_its_tickers(market: Market) -> None:
    shown = told(market, "Sectors", model="naive").set_index("sector")
    assert shown["tickers"].to_dict() == {"Children's": 1, "Financials": 1, "Technology": 2}
    assert (shown["change"] == 0).all()
    assert shown["width"].to_list() == pytest.approx([0.08] * 3)
    assert shown["inside 80 %"].to_list() == pytest.approx([0.75] * 3)
