"""What happens by itself: sensors on drops and on changed prices, schedules, freshness."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg

from stock_assets.database import Database, TickerState
from stock_assets.defs.partitions import CSV_DROPS, TICKERS
from stock_assets.drops import complete, look, register
from stock_assets.fetching import read_universe
from stock_assets.files import files_at
from stock_assets.price_records import GROWTH
from stock_assets.ranges import memory_tags, of_market, of_tickers, range_tags, ranges
from stock_assets.sessions import EXCHANGE_TIME, is_session, last_closed
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store

LOOK_EVERY_SECONDS = 4  # at each round of Dagster's, 5 s: at 5, every other one would come too soon
DROPS_AT_ONCE = 100  # registered in one tick, which has a minute

fetch_prices = dg.define_asset_job(
    "fetch_prices",
    selection=["fetched_prices"],
    description="Ask the provider for prices that are missing, and drop them as CSVs.",
)
ingest_drop = dg.define_asset_job(
    "ingest_drop",
    selection=["raw_prices", "validated_prices"],
    description="Keep one dropped file and take its sound rows into the prices.",
)
refresh_tickers = dg.define_asset_job(
    "refresh_tickers",
    selection=[
        "interval_widths",
        "market_model",
        "price_features",
        "ticker_models",
        "forecasts",
        "forecast_scores",
        "champion",
    ],
    description="Forecast a range of tickers, with or without training their models anew.",
)
MARKET_TAG = "stock_assets/market"  # of runs that tickers wait for
_OF_MARKET = {MARKET_TAG: "yes"}
_PATIENCE = timedelta(minutes=30)  # with a run that may be lost


@dg.sensor(
    job=ingest_drop,
    description="Registers each complete file in the drop folder, and asks for its ingestion.",
    minimum_interval_seconds=LOOK_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def drop_sensor(
    context: dg.SensorEvaluationContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> dg.SensorResult | dg.SkipReason:
    """Registers each file that is complete in the drop folder, and asks for its ingestion.

    The cursor holds the files as they were seen and as they were registered. Forgetting it does no
    harm: the database knows drops by their bytes.
    """
    files = files_at(settings.drop_folder)
    cursor = json.loads(context.cursor or '{"seen": {}, "registered": {}}')
    now, done = look(files), cursor["registered"]
    new = [name for name in complete(now, cursor["seen"]) if done.get(name) != now[name]]
    drops = {}
    for name in new[:DROPS_AT_ONCE]:
        try:
            drops[name] = drop = register(files, name, store, database)
        except OSError as error:  # tried again at the next look
            context.log.warning("%r cannot be read: %s", name, error.strerror)
            continue
        done[name] = now[name]
        context.log.info("%s is drop %s, %s", drop.file_name, drop.key, drop.status)
    context.update_cursor(
        json.dumps({"seen": now, "registered": {n: done[n] for n in now if n in done}})
    )
    if not drops:
        return dg.SkipReason(f"{len(now)} files in {settings.drop_folder}, no new one is complete")
    # A file that is dropped again, later, is a new wish for what did not come to be.
    wanted = {
        drop.key: f"{drop.key}-{now[name][1]}"
        for name, drop in drops.items()
        if drop.status != "accepted"
    }
    return dg.SensorResult(
        dynamic_partitions_requests=[CSV_DROPS.build_add_request(sorted(wanted))] if wanted else [],
        run_requests=[
            dg.RunRequest(run_key=run_key, partition_key=key) for key, run_key in wanted.items()
        ],
    )


@dg.sensor(
    job=refresh_tickers,
    description="Asks for new forecasts of tickers whose prices changed, with training if due.",
    minimum_interval_seconds=LOOK_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def refresh_sensor(
    context: dg.SensorEvaluationContext,
    database: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
) -> dg.SensorResult | dg.SkipReason:
    """Asks for new forecasts of tickers whose prices changed, and for training where it is due.

    The cursor holds what runs were asked for and is not done yet, so a run that failed is not asked
    for again until prices change or the nightly schedule comes. Where one range holds all tickers,
    one run does it all; else a run for what the market tells goes before the ranges.
    """
    cursor = {"asked": {}, "market": ""} | json.loads(context.cursor or "{}")
    states = database.ticker_states()
    stale = {
        state.ticker: f"{state.price_revision} {state.due}"
        for state in states
        if state.needs_forecast
    }
    due = {ticker for ticker, wish in stale.items() if cursor["asked"].get(ticker) != wish}
    if not due:
        context.update_cursor(json.dumps({"asked": stale, "market": ""}))
        return dg.SkipReason(f"{len(states)} tickers, {len(stale)} of them wait for a run")
    if _is_under_way(context.instance, tags=_OF_MARKET):
        return dg.SkipReason(f"{len(due)} tickers wait for a run of the market")
    known = context.instance.get_dynamic_partitions(str(TICKERS.name))
    missing = sorted(due.difference(known))
    chunks = ranges(
        [*known, *missing],
        due,
        most=settings.max_tickers_per_run,
        apart=stale.keys() - due,
    )
    first, *others = run_requests(
        chunks, states, train_market=market_is_due(database, states), market_key=cursor["market"]
    )
    if others and not _exists(context.instance, cursor["market"]):
        wanted, cursor["market"] = [first], first.run_key
    else:
        wanted = others or [first]
        cursor = {"asked": stale, "market": ""}
    context.update_cursor(json.dumps(cursor))
    return dg.SensorResult(
        dynamic_partitions_requests=[TICKERS.build_add_request(missing)] if missing else [],
        run_requests=wanted,
    )


def _is_under_way(instance: dg.DagsterInstance, **of: Any) -> bool:
    since = datetime.now(UTC) - _PATIENCE
    unfinished = dg.RunsFilter(**of, statuses=_UNFINISHED, created_after=since)
    return bool(instance.get_runs_count(unfinished))


def _exists(instance: dg.DagsterInstance, run_key: str) -> bool:
    return bool(run_key) and bool(
        instance.get_runs_count(dg.RunsFilter(tags={"dagster/run_key": run_key}))
    )


def market_is_due(database: Database, states: Iterable[TickerState]) -> bool:
    """Whether the pooled models are to be trained: never yet, or on a fifth less than there is."""
    trained = database.market_model()
    return trained is None or sum(s.days for s in states) >= GROWTH * trained["days"]


def run_requests(
    chunks: Sequence[Sequence[str]],
    states: Iterable[TickerState],
    *,
    train: bool = False,
    train_market: bool = False,
    market_key: str = "",
) -> list[dg.RunRequest]:
    """The runs that forecast ranges of tickers: one for a single range, else the market's first.

    Args:
        chunks: Ranges of tickers.
        states: What the tickers are in need of: a range is trained where one of them needs it.
        train: Train all of them.
        train_market: Train the pooled models, which goes along with widths and scores.
        market_key: Run key of the market's run, if it has one already.
    """
    untrained = {state.ticker for state in states if state.needs_training}
    market = of_market(train=train_market)
    requests = []
    for chunk in chunks:
        of_range = of_tickers(train=train or not untrained.isdisjoint(chunk))
        selection = [*(market if len(chunks) == 1 else []), *of_range]
        requests.append(_request(selection, range_tags(chunk)))
    if len(chunks) > 1:
        run_key = market_key or f"market-{uuid4().hex[:12]}"
        requests.insert(0, market_run(run_key, train=train_market))
    return requests


def market_run(run_key: str | None = None, *, train: bool = False) -> dg.RunRequest:
    """The run for what all tickers tell together."""
    return _request([*of_market(train=train), "champion"], _OF_MARKET, run_key)


def _request(
    assets: Sequence[str], tags: Mapping[str, str], run_key: str | None = None
) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=run_key,
        asset_selection=[dg.AssetKey(name) for name in assets],
        tags={**tags, **memory_tags(assets, current_settings().heavy_memory)},
    )


def _fetching(
    name: str, cron: str, description: str, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        job=fetch_prices,
        description=description,
        cron_schedule=cron,
        execution_timezone=EXCHANGE_TIME,
        default_status=status,
    )
    def fetch_what_is_missing(
        context: dg.ScheduleEvaluationContext,
        database: dg.ResourceParam[Database],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        universe = read_universe(settings.universe)
        if not universe:
            return dg.SkipReason("No tickers to fetch: name them in STOCK_ASSETS_UNIVERSE")
        newest = last_closed(context.scheduled_execution_time)
        days = {state.ticker: state.last_day for state in database.ticker_states()}
        missing = sum(days.get(ticker, date.min) < newest for ticker in universe)
        if not missing:
            return dg.SkipReason(f"All {len(universe)} tickers have prices of {newest}")
        if _is_under_way(context.instance, job_name=fetch_prices.name):
            return dg.SkipReason(f"{missing} tickers wait for a run that fetches")
        return dg.RunRequest()

    return fetch_what_is_missing


nightly_fetch = _fetching(
    "nightly_fetch",
    "5 18 * * 1-5",
    "Fetches the prices that the universe lacks, after the close of the exchange.",
    dg.DefaultScheduleStatus.RUNNING,
)
hourly_fetch = _fetching(
    "hourly_fetch",
    "35 * * * *",
    "The same by the hour, for a provider that is late or often down; start it by hand.",
    dg.DefaultScheduleStatus.STOPPED,
)


@dg.schedule(
    job=refresh_tickers,
    description="Scores forecasts and has every ticker forecast after the close of the exchange.",
    cron_schedule="30 18 * * 1-5",
    execution_timezone=EXCHANGE_TIME,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly_forecast(
    context: dg.ScheduleEvaluationContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> dg.RunRequest | dg.SkipReason:
    """Scores forecasts, and has the sensor forecast every ticker, whatever failed by day."""
    store.sweep()
    day = context.scheduled_execution_time.date()
    if not is_session(day):
        return dg.SkipReason(f"{day} is no trading day")
    if not database.mark_forecasts_due(f"nightly forecast of {day}"):
        return dg.SkipReason("No prices yet: drop a CSV")
    return market_run(f"nightly-{day}")


@dg.schedule(
    job=refresh_tickers,
    description="Trains the pooled models anew; every ticker is trained after them.",
    cron_schedule="0 6 * * 6",
    execution_timezone=EXCHANGE_TIME,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def weekly_training(
    context: dg.ScheduleEvaluationContext, database: dg.ResourceParam[Database]
) -> dg.RunRequest | dg.SkipReason:
    """Trains the pooled models, which note that every ticker is due: the sensor follows."""
    if not database.ticker_states():
        return dg.SkipReason("No prices yet: drop a CSV")
    day = context.scheduled_execution_time.date()
    return market_run(f"weekly-{day}", train=True)


JOBS = [fetch_prices, ingest_drop, refresh_tickers]
SENSORS = [drop_sensor, refresh_sensor]
SCHEDULES = [nightly_fetch, hourly_fetch, nightly_forecast, weekly_training]

_OVERDUE_AFTER = {
    "validated_prices": timedelta(days=4),  # a long weekend
    "forecasts": timedelta(days=4),
    "forecast_scores": timedelta(days=4),
    "interval_widths": timedelta(days=4),
    "ticker_models": timedelta(days=9),
    "market_model": timedelta(days=9),
}
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def with_freshness(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset, overdue when nothing of it was made for longer than its schedule takes."""
    window = _OVERDUE_AFTER.get(spec.key.to_user_string())
    if window is None:
        return spec
    policy = dg.FreshnessPolicy.time_window(fail_window=window)
    return spec.replace_attributes(freshness_policy=policy)
