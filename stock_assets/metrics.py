"""Every metric of the platform, by its name.

Those of the service count what it does. All others are facts that it reads where they are kept, in
the database and by Dagster, when it is scraped: they are the same whichever service tells them,
and know nothing of restarts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

disable_created_metrics()  # type: ignore[no-untyped-call]  # when a process began, Prometheus knows by its start time


class Group(StrEnum):
    """Metrics that are scraped together."""

    API = "api"
    DATA = "data"
    ML = "ml"
    DAGSTER = "dagster"


@dataclass(frozen=True)
class Fact:
    """A metric that is read where it is kept; a counter, if its name ends so, else a gauge."""

    group: Group
    name: str
    help: str
    labels: tuple[str, ...] = ()

    def family(self, values: "Values") -> Metric:
        """As it is told to Prometheus, by the values of its labels."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family: Any = kind(self.name, self.help, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return cast("Metric", family)


Values = Mapping[Any, float]  # by tuples of labels, as many as the fact has
Facts = Mapping[Fact, Values]


def exposition(groups: Collection[Group], facts: Facts) -> bytes:
    """What is scraped of these groups: these facts, and what this process counts."""
    wanted = {fact: values for fact, values in facts.items() if fact.group in groups}
    counted = generate_latest(REGISTRY) if Group.API in groups else b""
    return counted + generate_latest(cast("CollectorRegistry", _Told(wanted)))


@dataclass(frozen=True)
class _Told:
    """Facts, as prometheus-client collects them."""

    facts: Facts

    def collect(self) -> Iterator[Metric]:
        return (fact.family(values) for fact, values in self.facts.items())


# The service

REQUESTS = Counter(
    "stock_assets_api_requests",
    "Requests that the service has answered.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "stock_assets_api_request_duration_seconds",
    "From the start of a request to the end of its answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
UPLOADED_BYTES = Counter(
    "stock_assets_api_uploaded_bytes",
    "Bytes of CSVs that were uploaded and taken.",
)
TRAININGS = Counter(
    "stock_assets_api_trainings",
    "Tickers whose training was asked for.",
)

# Of both kinds of source

SOURCE_UP = Fact(
    Group.API,
    "stock_assets_source_up",
    "Whether the database and Dagster have told their facts within the last minute; 1 if so.",
    ("source",),
)
SOURCE_SECONDS = Fact(
    Group.API,
    "stock_assets_source_read_duration_seconds",
    "What it took to read their facts the last time.",
    ("source",),
)

# Data

DROPS = Fact(
    Group.DATA,
    "stock_assets_drops",
    "Files that were dropped: registered (waiting), accepted, or refused as no CSV of prices.",
    ("status",),
)
LAST_DROP = Fact(
    Group.DATA,
    "stock_assets_last_drop_timestamp_seconds",
    "When the newest accepted drop came.",
)
ROWS_READ = Fact(
    Group.DATA,
    "stock_assets_rows_read_total",
    "Rows of all accepted drops; each is accepted, collapsed or rejected.",
)
ROWS_ACCEPTED = Fact(
    Group.DATA,
    "stock_assets_rows_accepted_total",
    "Rows that were taken into the prices.",
)
ROWS_COLLAPSED = Fact(
    Group.DATA,
    "stock_assets_rows_collapsed_total",
    "Rows that repeat another one of their drop exactly.",
)
ROWS_REJECTED = Fact(
    Group.DATA,
    "stock_assets_rows_rejected_total",
    "Rows that break a rule.",
)
REJECTIONS = Fact(
    Group.DATA,
    "stock_assets_row_rejections_total",
    "Rows that break this rule; one that breaks several counts for each.",
    ("reason",),
)
TICKERS = Fact(
    Group.DATA,
    "stock_assets_tickers",
    "Tickers whose forecast knows all their prices (current), does not (stale), or is missing.",
    ("forecast",),
)
TICKERS_BEHIND = Fact(
    Group.DATA,
    "stock_assets_tickers_behind",
    "Tickers without a price of the newest day that any ticker has.",
)
SESSIONS_WITHOUT_PRICES = Fact(
    Group.DATA,
    "stock_assets_sessions_without_prices",
    "Trading days that have passed since the newest price, 10 at most.",
)
VOLUME_SIZE = Fact(
    Group.DATA,
    "stock_assets_volume_size_bytes",
    "Size of the volumes that drops and the store lie on.",
    ("volume",),
)
VOLUME_FREE = Fact(
    Group.DATA,
    "stock_assets_volume_free_bytes",
    "What is free on them.",
    ("volume",),
)

# Models and forecasts

FORECASTS = Fact(
    Group.ML,
    "stock_assets_forecasts",
    "Forecasts that are stored: a row for each ticker, day, horizon and model; estimated on "
    "PostgreSQL.",
)
CHAMPION_TICKERS = Fact(
    Group.ML,
    "stock_assets_champion_tickers",
    "Tickers that people are shown this model's forecast of, made of the newest prices.",
    ("model",),
)
BACKTEST_RATIO = Fact(
    Group.ML,
    "stock_assets_backtest_error_ratio",
    "Mean absolute error in backtests of the present models, divided by that of naive forecasts; "
    "the mean over tickers.",
    ("model",),
)
LIVE_RATIO = Fact(
    Group.ML,
    "stock_assets_live_error_ratio",
    "Mean absolute error of forecasts of the last 60 days that are scored, divided by that of "
    "naive forecasts; the model champion is what people were shown.",
    ("model",),
)
COVERAGE = Fact(
    Group.ML,
    "stock_assets_interval_coverage_ratio",
    "Share of closes on those days that were inside the 80 % or 95 % interval.",
    ("model", "interval"),
)
SCORED_SESSIONS = Fact(
    Group.ML,
    "stock_assets_scored_sessions",
    "Trading days that the live figures are of, 60 at most.",
)
MARKET_MODEL_TRAINED = Fact(
    Group.ML,
    "stock_assets_market_model_timestamp_seconds",
    "When the models of all tickers together were last trained.",
)

# Dagster

RUNS = Fact(
    Group.DAGSTER,
    "stock_assets_runs",
    "Runs that are queued or running.",
    ("dagster_job", "status"),  # `job` is Prometheus' own
)
RUNS_ENDED = Fact(
    Group.DAGSTER,
    "stock_assets_runs_ended_total",
    "Runs that have ended: success, failure, retried (failed, and tried anew), canceled.",
    ("dagster_job", "status"),
)
OLDEST_QUEUED = Fact(
    Group.DAGSTER,
    "stock_assets_oldest_queued_run_timestamp_seconds",
    "Since when the run waits that waits longest; missing if none does.",
)
MATERIALIZED = Fact(
    Group.DAGSTER,
    "stock_assets_asset_materialization_timestamp_seconds",
    "When any partition of an asset was last materialized.",
    ("asset",),
)
CHECK_FAILED = Fact(
    Group.DAGSTER,
    "stock_assets_check_failed",
    "Whether an asset check failed when it was last made: 1 if so.",
    ("asset", "check", "severity"),
)
DAEMON_HEALTHY = Fact(
    Group.DAGSTER,
    "stock_assets_daemon_healthy",
    "Whether a Dagster daemon that is needed gave a sign of life in time: 1 if so.",
    ("daemon",),
)
DAEMON_HEARTBEAT = Fact(
    Group.DAGSTER,
    "stock_assets_daemon_heartbeat_timestamp_seconds",
    "When it last did.",
    ("daemon",),
)
LAST_TICK = Fact(
    Group.DAGSTER,
    "stock_assets_last_tick_timestamp_seconds",
    "When a sensor or schedule last ended in success, was skipped, or in failure.",
    ("automation", "status"),
)
STEP_SECONDS = Fact(
    Group.DAGSTER,
    "stock_assets_step_duration_seconds",
    "What making an asset took in the last run that made it.",
    ("asset",),
)
