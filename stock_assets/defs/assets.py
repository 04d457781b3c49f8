"""The assets, from fetched prices to scored forecasts: read, call a pure function, write, report.

Files are partitioned by drop, those of single tickers by ticker; what all tickers tell
together has no partitions. A run over a range of tickers works on all of them at once. Every write
may be repeated.
"""

import hashlib
import warnings
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import fields
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from stock_assets import forecasting, intervals
from stock_assets.champion import LIVE_DAYS
from stock_assets.database import Database
from stock_assets.defs import checks
from stock_assets.defs.display import (
    forecast_metadata,
    records_table,
    rolling_chart,
    training_metadata,
)
from stock_assets.defs.partitions import CSV_DROPS, TICKERS
from stock_assets.drift import MAX_DISTANCE, MAX_ERROR_RATIO, NEW_DAYS, feature_drift
from stock_assets.errors import DropError, StockAssetsError
from stock_assets.features import price_features as compute_features
from stock_assets.fetching import Request, fetch, wanted_tickers
from stock_assets.files import files_at
from stock_assets.forecasting import Backtest, Panel, PooledModel, TrainedModel
from stock_assets.intervals import Widths
from stock_assets.models import NAIVE, Artifact, candidates
from stock_assets.prices import validate_csv
from stock_assets.promotion import decide_champion
from stock_assets.providers import provider as provider_of
from stock_assets.sessions import last_closed
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store

# Ranges of tickers in one run are what the platform is built on; the parameter is beta in 1.13.
warnings.filterwarnings("ignore", message=".*backfill_policy.*", category=dg.BetaWarning)

OWNERS = ["team:market-data"]
TICKERS_AT_ONCE = dg.BackfillPolicy.multi_run(current_settings().max_tickers_per_run)

TRAINED_AT_ONCE = 100  # tickers; their models are kept in one file

_MEASURES = [field.name for field in fields(Backtest)]
_REJECTED = dg.TableSchema(
    [dg.TableColumn("line", "int"), dg.TableColumn("raw"), dg.TableColumn("reasons")]
)

Events = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


class FetchConfig(dg.Config):
    """What to fetch; what the settings say if nothing is named."""

    tickers: list[str] = Field(default=[], description="Of the universe, if none is named.")
    provider: str = Field(default="", description="yahoo, alphavantage or the address of a CSV.")
    since: str = Field(default="", description="First day; what is missing if not set.")


@dg.asset(
    group_name="drops",
    kinds={"csv", "python"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("fetched_prices"),
)
def fetched_prices(
    context: dg.AssetExecutionContext,
    config: FetchConfig,
    database: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    watch: dg.ResourceParam[Callable[[int, int], None]],
) -> Events:
    """Prices from a provider, as CSVs in the drop folder, from where on they are like any other.

    Tickers are asked for the trading days that are missing, and the last five again. Closes are
    adjusted for splits, not for dividends: they are what people saw quoted, in today's shares. What
    else the provider tells, such as closes adjusted for dividends, is in the CSV too.
    """
    try:
        provider = provider_of(config.provider or settings.provider, settings)
        universe = wanted_tickers(config.tickers, provider, settings, database)
    except StockAssetsError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    since = date.fromisoformat(config.since) if config.since else None
    request = Request(provider, universe, last_closed(datetime.now(UTC)), since)
    total, drops = len(universe), files_at(settings.drop_folder)
    fetched = fetch(request, database, drops, told=lambda done: watch(done, total))
    yield from _stated("fetched_prices", fetched)
    for ticker, why in fetched.failures.items():
        context.log.warning("%s: %s", ticker, why)
    if fetched.failures and not fetched.news and not fetched.unchanged:
        raise dg.Failure(f"{provider.name}: {next(iter(fetched.failures.values()))}")
    yield dg.MaterializeResult(
        metadata={
            "provider": provider.name,
            "last_day": str(request.last),
            "drops": fetched.drops,
            "rows": fetched.rows,
            "tickers_asked_for": total,
            "tickers_with_news": len(fetched.news),
            "tickers_unchanged": len(fetched.unchanged),
            "tickers_rewritten": fetched.rewritten,
            "failures": fetched.failures,
        },
        # The same ever after: a fetch adds drops, and makes nothing of the others out of date.
        data_version=dg.DataVersion("drops"),
    )


@dg.asset(
    partitions_def=CSV_DROPS,
    deps=[fetched_prices],
    group_name="drops",
    kinds={"csv"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("raw_prices"),
)
def raw_prices(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> Events:
    """The CSV file exactly as somebody dropped it, kept forever.

    One partition is one file. Nothing is changed or judged here, so a file can always be looked
    at again, and everything after it can be computed anew.
    """
    drop = database.drop(context.partition_key)
    yield from _stated("raw_prices", store.drop_digest(drop.key), drop.sha256)
    yield dg.MaterializeResult(
        metadata={
            "file_name": drop.file_name,
            "bytes": drop.size,
            "dagster/uri": store.drop_url(drop.key),
        },
        data_version=dg.DataVersion(drop.sha256),
    )


@dg.asset(
    partitions_def=CSV_DROPS,
    deps=[raw_prices],
    group_name="drops",
    kinds={"pandas", "pandera"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("validated_prices"),
)
def validated_prices(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> Events:
    """The rows of a file that are sound daily prices: one row is one ticker on one day.

    Prices are in the currency of the file. Rows that break a rule are set aside with their line,
    their text and every reason. Sound rows join the prices of all files before; where two files
    disagree, the newer one is believed.
    """
    drop = database.drop(context.partition_key)
    try:
        validation = validate_csv(
            store.read_drop(drop.key, at_most=settings.max_drop_bytes + 1),
            today=_today(),
            max_bytes=settings.max_drop_bytes,
        )
    except DropError as error:
        database.refuse_drop(drop.key, str(error))
        raise dg.Failure(f"{drop.file_name}: {error}", allow_retries=False) from error
    yield from _stated("validated_prices", validation)
    changes = database.store_drop(drop, validation)
    tickers = sorted(validation.accepted["ticker"].unique())
    context.instance.add_dynamic_partitions(str(TICKERS.name), tickers)
    if validation.extra_columns:
        context.log.warning("Columns ignored: %s", ", ".join(validation.extra_columns))
    yield dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": len(validation.accepted),
            "rows_read": validation.rows_read,
            "rows_collapsed": validation.collapsed,
            "rows_rejected": len(validation.rejected),
            "rows_new": changes.rows_new,
            "rows_changed": changes.rows_changed,
            "tickers": len(tickers),
            "tickers_new": len(changes.tickers_new),
            "tickers_updated": len(changes.tickers_updated),
            "reasons": dict(validation.reasons.most_common()),
            "columns_ignored": ", ".join(validation.extra_columns) or "none",
            "first_rejected": dg.MetadataValue.table(
                [
                    dg.TableRecord({"line": line, "raw": raw, "reasons": "; ".join(reasons)})
                    for line, raw, reasons in validation.rejected.head(10).itertuples(index=False)
                ],
                schema=_REJECTED,
            ),
        }
    )


@dg.asset(
    partitions_def=TICKERS,
    deps=[dg.AssetDep(validated_prices, partition_mapping=dg.AllPartitionMapping())],
    backfill_policy=TICKERS_AT_ONCE,
    group_name="forecasting",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
    code_version="2",
    check_specs=checks.specs("price_features"),
)
def price_features(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> Events:
    """What a model may know at the end of each day of a ticker: how price and volume moved.

    One row is one trading day. Numbers are relative changes without a unit and use that day and
    days before it only, never a later one. Where the newest days are unlike those that the models
    learned from, the ticker is trained anew.
    """
    panel = Panel.of(_features(database.read_prices(context.partition_keys)))
    _demand(context.partition_keys, set(panel.tickers), "prices: drop a CSV that has them")
    trained = database.last_trained(context.partition_keys)
    drift = {
        ticker: feature_drift(panel.table.iloc[first:end], trained[ticker])
        for ticker, (first, end) in zip(panel.tickers, panel.spans, strict=True)
        if ticker in trained
    }
    yield from _stated("price_features", panel.table, _today(), drift)
    store.write_features(panel.table)
    for ticker, (first, end) in zip(panel.tickers, panel.spans, strict=True):
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": int(end - first),
                "first_day": str(panel.days[first]),
                "last_day": str(panel.days[end - 1]),
                "last_close": float(panel.close[end - 1]),
                "daily_volatility": float(panel.volatility[end - 1]),
                "drift": drift.get(ticker, 0.0),
            },
            partition_key=ticker,
        )
    if not _trains(context):
        database.mark_training_due(
            {
                ticker: f"features of the last {NEW_DAYS} days are {distance:.2f} off"
                for ticker, distance in drift.items()
                if distance > MAX_DISTANCE
            }
        )
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(context.partition_keys)})


@dg.asset(
    deps=[validated_prices],
    group_name="forecasting",
    kinds={"numpy", "sqlalchemy"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("interval_widths"),
)
def interval_widths(
    context: dg.AssetExecutionContext, database: dg.ResourceParam[Database]
) -> Events:
    """How wide intervals must be, by day, to hold what they promise: learned from all tickers.

    One row is one day and one number of days ahead, in units of a ticker's volatility times the
    square root of the days. The whole history is replayed: after closes outside the intervals they
    are wider, after closes inside narrower, and a storm over all tickers widens them at once.
    """
    features = _features(_all_prices(database))
    widths = intervals.interval_widths(features)
    rows = widths.to_frame()
    yield from _stated("interval_widths", rows)
    database.save_interval_widths(rows)
    context.log.info("Widths of %d days from %d rows", len(widths.days), len(features))
    newest = rows.iloc[-1]
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "as_of": str(widths.days[-1]),
            "width_80_in_10_days": float(newest["width_80"]),
            "width_95_in_10_days": float(newest["width_95"]),
        }
    )


@dg.asset(
    deps=[validated_prices],
    group_name="forecasting",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version=forecasting.CODE_VERSION,
)
def market_model(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """Models that learn from all tickers at once how each will do against the others.

    Gradient boosting on features, volatility and sector. Fitted on earlier days too, for a backtest
    that has seen nothing of the days it is tested on. Every ticker is to be trained after it.
    """
    panel = Panel.of(_features(_all_prices(database)))
    models = candidates(settings.models)
    version = forecasting.market_version(panel, models)
    pooled = forecasting.train_pooled(panel, models)
    kept = forecasting.dump_pooled(pooled)
    artifact = store.write_artifact("market", f"{version}.npz", kept)
    trained = {
        "trained_to": panel.days.max().item(),
        "tickers": len(panel.tickers),
        "days": len(panel.days),
    }
    database.save_market_model(trained | {"version": version, "artifact": artifact})
    if pooled and not _trains(context):
        why = f"pooled models of {trained['trained_to']}"
        database.mark_training_due(dict.fromkeys(panel.tickers, why))
    context.log.info("Trained %s on %d rows", ", ".join(pooled) or "nothing", len(panel.days))
    return dg.MaterializeResult(
        metadata=trained
        | {"trained_to": f"{trained['trained_to']}", "version": version}
        | {"models": ", ".join(pooled) or "none: the history is too short"}
    )


@dg.asset(
    partitions_def=TICKERS,
    deps=[price_features, interval_widths, market_model],
    backfill_policy=TICKERS_AT_ONCE,
    group_name="forecasting",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version=forecasting.CODE_VERSION,
    check_specs=checks.specs("ticker_models"),
)
def ticker_models(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
    settings: dg.ResourceParam[Settings],
) -> Events:
    """The models that learned from a ticker's history, and how each did on days it had not seen.

    What a model predicts counts as much as its forecasts of such days have earned: mostly little,
    and then it says nearly the same as the naive forecast, the last close.
    """
    panel = _panel(context, store)
    models = candidates(settings.models)
    pooled_version, pooled = _market(database, store)
    widths = _widths(database)
    champion = database.champion().model
    rows: list[dict[str, Any]] = []
    for part in panel.parts(TRAINED_AT_ONCE):
        training = forecasting.train(part, models, pooled, widths)
        versions = forecasting.training_versions(part, models, pooled_version)
        name = hashlib.sha256("".join(versions.values()).encode()).hexdigest()[:12]
        artifact = store.write_artifact("tickers", f"{name}.npz", training.artifact.dump())
        for ticker, (first, end) in zip(part.tickers, part.spans, strict=True):
            trained = training.trained[ticker]
            days = {
                "trained_from": part.days[first].item(),
                "trained_to": part.days[end - 1].item(),
                "days": int(end - first),
            }
            of_ticker = days | {"version": versions[ticker], "artifact": artifact, "ticker": ticker}
            crowned = champion if champion in {model.name for model in trained} else NAIVE
            rows += [
                of_ticker | _model_row(model) | {"is_champion": model.name == crowned}
                for model in trained
            ]
            context.add_asset_metadata(
                training_metadata(trained) | {"version": versions[ticker], "days": days["days"]},
                partition_key=ticker,
            )
        context.log.info("Trained %s to %s", part.tickers[0], part.tickers[-1])
    yield from _stated(
        "ticker_models",
        {row["ticker"]: row["mae_ratio"] for row in rows if row["is_champion"] and row["origins"]},
    )
    database.save_training(rows, _revisions(panel))
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(panel.tickers)})


@dg.asset(
    partitions_def=TICKERS,
    deps=[price_features, ticker_models, interval_widths, market_model],
    backfill_policy=TICKERS_AT_ONCE,
    group_name="forecasting",
    kinds={"scikitlearn", "sqlalchemy"},
    owners=OWNERS,
    code_version="2",
    check_specs=checks.specs("forecasts"),
)
def forecasts(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> Events:
    """The close of a ticker on each of the next 10 trading days, with the range to expect.

    One row is one day ahead by one model, in the currency of the prices. Of ten closes about eight
    lie inside the 80 % range. The champion's forecast is the one that people are shown; those of
    the others are kept to be compared with what happens.
    """
    panel = _panel(context, store)
    models = database.current_models(context.partition_keys)
    _demand(panel.tickers, models["ticker"].unique(), "models: materialize ticker_models first")
    artifacts = [
        Artifact.load(store.read_artifact(str(path))).take(of_path["ticker"].unique())
        for path, of_path in models.groupby("artifact")
    ]
    weights = models.pivot_table("weight", "ticker", "model").reindex(panel.tickers)
    _, pooled = _market(database, store)
    rows = forecasting.forecast(
        panel,
        {str(model): weight.to_numpy() for model, weight in weights.items()},
        artifacts,
        pooled,
        _widths(database),
    )
    champion = database.champion().model
    has_it = rows["ticker"].isin(rows.loc[rows["model"] == champion, "ticker"])
    rows["is_champion"] = rows["model"] == np.where(has_it, champion, NAIVE)
    versions = models.drop_duplicates("ticker").set_index("ticker")["version"]
    rows["model_version"] = rows["ticker"].map(versions)
    yield from _stated("forecasts", rows, context.partition_keys)
    for ticker, told in forecast_metadata(panel, rows):
        context.add_asset_metadata(told, partition_key=ticker)
    database.save_forecasts(rows, _revisions(panel))
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(panel.tickers)})


@dg.asset(
    deps=[validated_prices, forecasts],
    group_name="forecasting",
    kinds={"sqlalchemy"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("forecast_scores"),
)
def forecast_scores(
    context: dg.AssetExecutionContext, database: dg.ResourceParam[Database]
) -> Events:
    """What became of every forecast, as the closes come: the champion's and the others'.

    One row is one forecast of one model: how far it was off, how far the naive forecast was, and
    whether the close lay inside the intervals.
    """
    scored = database.score_forecasts()
    context.log.info("%d forecasts scored", scored)
    live = database.live_records(LIVE_DAYS).set_index("model")
    errors = database.live_errors(NEW_DAYS)
    yield from _stated("forecast_scores", live, errors)
    drifted = errors[(errors["days"] >= NEW_DAYS) & (errors["ratio"] > MAX_ERROR_RATIO)]
    database.mark_training_due(
        {
            str(ticker): f"errors of the last {NEW_DAYS} days are {ratio:.1f} times the backtest's"
            for ticker, ratio in zip(drifted["ticker"], drifted["ratio"], strict=True)
        }
    )
    metadata: dict[str, Any] = {"scored": scored, "drifted": len(drifted)}
    if "champion" in live.index:
        shown = live.loc["champion"]
        metadata |= {
            name: float(shown[name]) for name in ("mae_ratio", "coverage_80", "coverage_95")
        }
        metadata["models"] = records_table(live.reset_index())
        metadata["picture"] = rolling_chart(database.rolling_scores(LIVE_DAYS))
    yield dg.MaterializeResult(metadata=metadata)


@dg.asset(
    deps=[ticker_models, forecasts, forecast_scores],
    group_name="forecasting",
    kinds={"sqlalchemy"},
    owners=OWNERS,
    code_version="1",
)
def champion(
    context: dg.AssetExecutionContext, database: dg.ResourceParam[Database]
) -> dg.MaterializeResult[None]:
    """The model whose forecasts people are shown, for all tickers, and why.

    Whichever beats the naive forecast by more than noise in the backtests of all tickers together,
    and is not behind it in production; else the naive forecast. A pinned one stays.
    """
    decision, now = decide_champion(database)
    context.log.info("%s: %s", now.model, now.reason)
    metadata: dict[str, Any] = {
        "champion": now.model,
        "reason": now.reason,
        "pinned": now.pinned,
        "by_the_rule": f"{decision.champion}: {decision.reason}",
    }
    leaderboard = database.leaderboard()
    if len(leaderboard):
        metadata["leaderboard"] = records_table(
            leaderboard.assign(p_value=leaderboard["model"].map(decision.p_values))
        )
    return dg.MaterializeResult(metadata=metadata)


def _trains(context: dg.AssetExecutionContext) -> bool:
    """Whether this run trains the tickers of its range anyway."""
    selected = context.run.asset_selection
    return selected is None or ticker_models.key in selected


def _today() -> date:
    return datetime.now(UTC).date()


def _stated(asset: str, *evidence: Any) -> Iterator[dg.AssetCheckResult]:
    """The asset's facts; ends the run, before anything is written, if a blocking one is broken."""
    results = checks.results(asset, *evidence)
    yield from results
    broken = [
        f"{result.check_name}: {result.metadata['value'].value} where at most "
        f"{result.metadata['threshold'].value} may be "
        f"{result.metadata.get('broken_by', dg.MetadataValue.text('')).value}"
        for result in results
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
    ]
    if broken:
        raise dg.Failure(
            f"Nothing of {asset} was written: {'; '.join(broken)}", allow_retries=False
        )


def _demand(asked: Collection[str], found: Container[str], what: str) -> None:
    if not asked:
        raise dg.Failure("The range of tickers is empty: its end stands before its start")
    lacking = [key for key in asked if key not in found]
    if lacking:
        raise dg.Failure(f"{', '.join(lacking[:20])}: no {what}", allow_retries=False)


def _panel(context: dg.AssetExecutionContext, store: Store) -> Panel:
    return _panel_of_run(context.run.run_id, store, tuple(context.partition_keys))


@lru_cache(maxsize=1)
def _panel_of_run(_run_id: str, store: Store, tickers: tuple[str, ...]) -> Panel:
    """Read once in a run, for training and for forecasting."""
    features = store.read_features(tickers)
    found = set(features["ticker"]) if len(features) else set()
    _demand(tickers, found, "features: materialize price_features first")
    return Panel.of(features)


def _all_prices(database: Database) -> pd.DataFrame:
    prices = database.read_prices()
    if prices.empty:
        raise dg.Failure("No prices yet: drop a CSV", allow_retries=False)
    return prices


def _features(prices: pd.DataFrame) -> pd.DataFrame:
    """The feature table of these prices, with their sectors and revisions."""
    return compute_features(prices).assign(
        sector=prices["sector"], price_revision=prices["price_revision"]
    )


def _market(database: Database, store: Store) -> tuple[str, dict[str, PooledModel]]:
    """The newest training of the pooled models, and its version."""
    row = database.market_model()
    if row is None:
        raise dg.Failure("No pooled models: materialize market_model first", allow_retries=False)
    return str(row["version"]), forecasting.load_pooled(store.read_artifact(row["artifact"]))


def _widths(database: Database) -> Widths:
    rows = database.interval_widths()
    if rows.empty:
        raise dg.Failure(
            "No widths of intervals: materialize interval_widths first", allow_retries=False
        )
    return Widths.from_frame(rows)


def _revisions(panel: Panel) -> dict[str, int]:
    """The price revision that each ticker's features were made of."""
    revisions = panel.table["price_revision"].to_numpy()[panel.spans[:, 0]]
    return dict(zip(panel.tickers, revisions.tolist(), strict=True))


def _model_row(model: TrainedModel) -> dict[str, Any]:
    backtest = vars(model.backtest) if model.backtest else dict.fromkeys(_MEASURES) | {"origins": 0}
    return {"model": model.name, "weight": model.weight, **backtest}
