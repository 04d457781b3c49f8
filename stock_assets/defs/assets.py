"""The five assets, from a dropped CSV to forecasts: read, call a pure function, write, report.

The first two are partitioned by drop, the others by ticker. A run over a range of tickers works
on all of them at once. Every write may be repeated.
"""

import warnings
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from stock_assets import forecasting
from stock_assets.database import Database
from stock_assets.defs import checks
from stock_assets.defs.display import forecast_chart
from stock_assets.defs.partitions import CSV_DROPS, TICKERS
from stock_assets.errors import DropError
from stock_assets.features import price_features as compute_features
from stock_assets.forecasting import Backtest, TrainedModel
from stock_assets.prices import validate_csv
from stock_assets.sessions import next_sessions
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store

# Ranges of tickers in one run are what the platform is built on; the parameter is beta in 1.13.
warnings.filterwarnings("ignore", message=".*backfill_policy.*", category=dg.BetaWarning)

OWNERS = ["team:market-data"]
TICKERS_AT_ONCE = dg.BackfillPolicy.multi_run(current_settings().max_tickers_per_run)

BOUNDS = ["lo_80", "hi_80", "lo_95", "hi_95"]
_MEASURES = [field.name for field in fields(Backtest)]
_REJECTED = dg.TableSchema(
    [dg.TableColumn("line", "int"), dg.TableColumn("raw"), dg.TableColumn("reasons")]
)

Events = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


@dg.asset(
    partitions_def=CSV_DROPS,
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
            "dagster/uri": store.drop_path(drop.key).as_uri(),
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
    code_version="1",
    check_specs=checks.specs("price_features"),
)
def price_features(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> Events:
    """What a model may know at the end of each day of a ticker: how price and volume moved.

    One row is one trading day. Numbers are relative changes without a unit and use that day and
    days before it only, never a later one.
    """
    prices = database.read_prices(context.partition_keys)
    _demand(context.partition_keys, prices["ticker"].unique(), "prices: drop a CSV that has them")
    features = compute_features(prices).assign(price_revision=prices["price_revision"])
    yield from _stated("price_features", features, _today())
    for ticker, table in features.groupby("ticker"):
        store.write_features(str(ticker), table)
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": len(table),
                "first_day": f"{table['date'].iloc[0]:%Y-%m-%d}",
                "last_day": f"{table['date'].iloc[-1]:%Y-%m-%d}",
                "last_close": float(table["close"].iloc[-1]),
                "daily_volatility": float(table["volatility"].iloc[-1]),
            },
            partition_key=str(ticker),
        )
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(context.partition_keys)})


@dg.asset(
    partitions_def=TICKERS,
    deps=[price_features],
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
) -> Events:
    """The models that learned from a ticker's history, and which of them to believe.

    Each is tried on days of the past that it had not seen. The champion is the one that was nearer
    to the truth than the naive forecast, the last close; if none was, the naive one is.
    """
    tables = _feature_tables(context, store)
    rows: list[dict[str, Any]] = []
    for done, (ticker, trained) in enumerate(forecasting.train_all(tables), start=1):
        table = tables[ticker]
        version = forecasting.training_version(table)
        artifact = store.write_models(ticker, version, forecasting.dump_estimators(trained))
        rows += [_model_row(table, model, version, artifact) for model in trained]
        context.add_asset_metadata(
            _training_metadata(trained) | {"version": version, "days": len(table)},
            partition_key=ticker,
        )
        if done % 25 == 0 or done == len(tables):
            context.log.info("Trained %d of %d tickers", done, len(tables))
    yield from _stated(
        "ticker_models",
        {row["ticker"]: row["mae_ratio"] for row in rows if row["is_champion"] and row["origins"]},
    )
    database.save_training(rows, _revisions(tables))
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(tables)})


@dg.asset(
    partitions_def=TICKERS,
    deps=[price_features, ticker_models],
    backfill_policy=TICKERS_AT_ONCE,
    group_name="forecasting",
    kinds={"scikitlearn", "sqlalchemy"},
    owners=OWNERS,
    code_version="1",
    check_specs=checks.specs("forecasts"),
)
def forecasts(
    context: dg.AssetExecutionContext,
    database: dg.ResourceParam[Database],
    store: dg.ResourceParam[Store],
) -> Events:
    """The close of a ticker on each of the next 10 trading days, with the range to expect.

    One row is one day ahead by one model, in the currency of the prices. Of ten closes about eight
    lie inside the 80 % range. The champion's forecast is the one that people are shown.
    """
    tables = _feature_tables(context, store)
    models = database.current_models(context.partition_keys)
    _demand(tables, models["ticker"].unique(), "models: materialize ticker_models first")
    paths = []
    for ticker, of_ticker in models.groupby("ticker"):
        path = _forecast(tables[str(ticker)], of_ticker, store)
        context.add_asset_metadata(
            _forecast_metadata(str(ticker), tables[str(ticker)], path), partition_key=str(ticker)
        )
        paths.append(path)
    rows = pd.concat(paths, ignore_index=True)
    yield from _stated("forecasts", rows, context.partition_keys)
    database.save_forecasts(rows, _revisions(tables))
    yield dg.MaterializeResult(metadata={"tickers_in_run": len(tables)})


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


def _feature_tables(context: dg.AssetExecutionContext, store: Store) -> dict[str, pd.DataFrame]:
    tables = store.read_features(context.partition_keys)
    _demand(context.partition_keys, tables, "features: materialize price_features first")
    return tables


def _revisions(tables: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """The price revision that each ticker's features were made of."""
    return {ticker: int(table["price_revision"].iloc[0]) for ticker, table in tables.items()}


def _model_row(
    table: pd.DataFrame, model: TrainedModel, version: str, artifact: str
) -> dict[str, Any]:
    backtest = (
        asdict(model.backtest) if model.backtest else dict.fromkeys(_MEASURES) | {"origins": 0}
    )
    return {
        "ticker": table["ticker"].iloc[0],
        "version": version,
        "model": model.name,
        "is_champion": model.is_champion,
        "reason": model.reason,
        "trained_from": table["date"].iloc[0].date(),
        "trained_to": table["date"].iloc[-1].date(),
        "days": len(table),
        **backtest,
        "widths": model.widths.tolist(),
        "artifact": artifact,
    }


def _training_metadata(trained: list[TrainedModel]) -> dict[str, Any]:
    champion = next(model for model in trained if model.is_champion)
    metadata: dict[str, Any] = {"champion": champion.name, "reason": champion.reason}
    if champion.backtest:
        metadata["mae_ratio_to_naive"] = champion.backtest.mae_ratio
    records = [
        dg.TableRecord(
            {"model": model.name}
            | {name: round(value, 4) for name, value in asdict(model.backtest).items()}
        )
        for model in trained
        if model.backtest
    ]
    if records:
        metadata["backtest"] = dg.MetadataValue.table(records)
    return metadata


def _forecast(table: pd.DataFrame, models: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The forecasts rows of one ticker by each of its current models."""
    as_of = table["date"].iloc[-1].date()
    estimators = forecasting.load_estimators(store.read_models(models["artifact"].iloc[0]))
    paths = [
        forecasting.forecast(table, estimators[str(row.model)], np.array(row.widths)).assign(
            model=row.model, is_champion=bool(row.is_champion)
        )
        for row in models.itertuples()
    ]
    targets = next_sessions(as_of, forecasting.H)
    return pd.concat(
        [path.assign(target_date=targets) for path in paths], ignore_index=True
    ).assign(ticker=table["ticker"].iloc[0], as_of=as_of, model_version=models["version"].iloc[0])


def _forecast_metadata(ticker: str, table: pd.DataFrame, path: pd.DataFrame) -> dict[str, Any]:
    champion = path[path["is_champion"]]
    last = champion.iloc[-1]
    return {
        "as_of": f"{last['as_of']:%Y-%m-%d}",
        "champion": last["model"],
        "last_close": float(table["close"].iloc[-1]),
        "close_in_10_days": float(last["close"]),
        "lo_80_in_10_days": float(last["lo_80"]),
        "hi_80_in_10_days": float(last["hi_80"]),
        "dagster/partition_row_count": len(path),
        "picture": forecast_chart(
            ticker, table.set_index("date")["close"], champion[["target_date", "close", *BOUNDS]]
        ),
    }
