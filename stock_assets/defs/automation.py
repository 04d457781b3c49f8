"""What happens by itself: sensors on drops and on changed prices, schedules, freshness."""

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

import dagster as dg

from stock_assets.database import Database, TickerState
from stock_assets.defs.partitions import CSV_DROPS, TICKERS
from stock_assets.drops import complete, look, register
from stock_assets.settings import Settings
from stock_assets.storage import Store

EXCHANGE_TIME = "America/New_York"
LOOK_EVERY_SECONDS = 5
DROPS_AT_ONCE = 100  # registered in one tick, which has a minute
GAP = 20  # tickers that a range may hold besides, to save the start of another run

ingest_drop = dg.define_asset_job(
    "ingest_drop",
    selection=["raw_prices", "validated_prices"],
    description="Keep one dropped file and take its sound rows into the prices.",
)
refresh_tickers = dg.define_asset_job(
    "refresh_tickers",
    selection=["price_features", "ticker_models", "forecasts"],
    description="Forecast a range of tickers, with or without training their models anew.",
)
WITHOUT_TRAINING = [dg.AssetKey("price_features"), dg.AssetKey("forecasts")]


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
    settings.drop_folder.mkdir(parents=True, exist_ok=True)
    cursor = json.loads(context.cursor or '{"seen": {}, "registered": {}}')
    now, done = look(settings.drop_folder), cursor["registered"]
    new = [name for name in complete(now, cursor["seen"]) if done.get(name) != now[name]]
    drops = {}
    for name in new[:DROPS_AT_ONCE]:
        try:
            drops[name] = drop = register(settings.drop_folder / name, store, database)
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

    The cursor holds the price revisions that runs were asked for and that have no forecast yet,
    so a run that failed is not asked for again until prices change or the nightly schedule comes.
    """
    asked: dict[str, int] = json.loads(context.cursor or "{}")
    states = database.ticker_states()
    stale = {state.ticker: state.price_revision for state in states if state.needs_forecast}
    due = {ticker for ticker, revision in stale.items() if asked.get(ticker) != revision}
    context.update_cursor(json.dumps(stale))
    if not due:
        return dg.SkipReason(f"{len(states)} tickers, {len(stale)} of them wait for a run")
    known = context.instance.get_dynamic_partitions(str(TICKERS.name))
    missing = sorted(due.difference(known))
    return dg.SensorResult(
        dynamic_partitions_requests=[TICKERS.build_add_request(missing)] if missing else [],
        run_requests=list(
            run_requests(
                ranges(
                    [*known, *missing],
                    due,
                    most=settings.max_tickers_per_run,
                    gap=GAP,
                    apart=stale.keys() - due,
                ),
                states,
            )
        ),
    )


def ranges(
    order: Sequence[str],
    wanted: Collection[str],
    *,
    most: int,
    gap: int = 0,
    apart: Collection[str] = (),
) -> list[list[str]]:
    """Contiguous ranges of partition keys that hold all the wanted ones.

    Args:
        order: All keys in the order of the partition set.
        wanted: Keys to cover.
        most: Keys in a range, at most.
        gap: Other keys in a row that a range may hold to reach the next wanted one.
        apart: Keys that are in no range.
    """
    found: list[list[str]] = []
    skipped: list[str] = []
    joins = False  # whether the last range may grow
    for key in order:
        if key in wanted:
            if joins and len(skipped) <= gap and len(found[-1]) + len(skipped) < most:
                found[-1] += [*skipped, key]
            else:
                found.append([key])
            skipped, joins = [], True
        elif key in apart:
            joins = False
        else:
            skipped.append(key)
    return found


def run_requests(
    chunks: Iterable[Sequence[str]], states: Iterable[TickerState], *, train: bool = False
) -> Iterable[dg.RunRequest]:
    """One run per range of tickers; it trains where asked to, or where one of them needs it."""
    untrained = {state.ticker for state in states if state.needs_training}
    for chunk in chunks:
        trains = train or not untrained.isdisjoint(chunk)
        yield dg.RunRequest(
            asset_selection=None if trains else WITHOUT_TRAINING,
            tags={
                "dagster/asset_partition_range_start": chunk[0],
                "dagster/asset_partition_range_end": chunk[-1],
            },
        )


@dg.schedule(
    job=refresh_tickers,
    description="Forecasts every ticker after the close of the exchange.",
    cron_schedule="30 18 * * 1-5",
    execution_timezone=EXCHANGE_TIME,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly_forecast(
    context: dg.ScheduleEvaluationContext,
    database: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
) -> list[dg.RunRequest] | dg.SkipReason:
    """Forecasts every ticker after the close of the exchange, whatever was missed by day."""
    return _all_tickers(context, database, settings, train=False)


@dg.schedule(
    job=refresh_tickers,
    description="Trains every ticker anew, and forecasts with the new models.",
    cron_schedule="0 6 * * 6",
    execution_timezone=EXCHANGE_TIME,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def weekly_training(
    context: dg.ScheduleEvaluationContext,
    database: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
) -> list[dg.RunRequest] | dg.SkipReason:
    """Trains every ticker anew on Saturday, and forecasts with the new models."""
    return _all_tickers(context, database, settings, train=True)


def _all_tickers(
    context: dg.ScheduleEvaluationContext, database: Database, settings: Settings, *, train: bool
) -> list[dg.RunRequest] | dg.SkipReason:
    states = database.ticker_states()
    if not states:
        return dg.SkipReason("No prices yet: drop a CSV")
    chunks = ranges(
        context.instance.get_dynamic_partitions(str(TICKERS.name)),
        {state.ticker for state in states},
        most=settings.max_tickers_per_run,
    )
    return list(run_requests(chunks, states, train=train))


JOBS = [ingest_drop, refresh_tickers]
SENSORS = [drop_sensor, refresh_sensor]
SCHEDULES = [nightly_forecast, weekly_training]

_OVERDUE_AFTER = {
    "validated_prices": timedelta(days=4),  # a long weekend
    "forecasts": timedelta(days=4),
    "ticker_models": timedelta(days=9),
}


def with_freshness(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset, overdue when nothing of it was made for longer than its schedule takes."""
    window = _OVERDUE_AFTER.get(spec.key.to_user_string())
    if window is None:
        return spec
    policy = dg.FreshnessPolicy.time_window(fail_window=window)
    return spec.replace_attributes(freshness_policy=policy)
