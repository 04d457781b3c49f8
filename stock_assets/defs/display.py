"""Pictures and tables for asset metadata."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
import pandas as pd

from stock_assets.charts import HISTORY, Days, forecast_svg, rolling_svg
from stock_assets.features import FloatArray
from stock_assets.forecasting import MIN_DAYS, Panel, TrainedModel
from stock_assets.models import H

DIGITS = 4
BOUNDS = ["lo_80", "hi_80", "lo_95", "hi_95"]


def forecast_chart(
    ticker: str,
    days: Days,
    closes: FloatArray,
    target_days: Days,
    path: Mapping[str, FloatArray],
) -> dg.MarkdownMetadataValue:
    """A ticker's last closes, the forecast path and its intervals, as `forecast_svg` takes them."""
    picture = forecast_svg(ticker, days, closes, target_days, path)
    return _markdown(picture, f"{ticker}: forecast of the next {len(target_days)} closes")


def rolling_chart(scores: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """How the forecasts that were shown have done, by the day they were made on.

    Args:
        scores: Columns as_of, h, mae_ratio, coverage_80 and coverage_95.
    """
    by_day = scores.groupby("as_of")[["mae_ratio", "coverage_80", "coverage_95"]].mean()
    picture = rolling_svg(by_day)
    return _markdown(picture, "Rolling error and coverage of the forecasts that were shown")


def training_metadata(trained: Iterable[TrainedModel]) -> dict[str, Any]:
    """How the models of a ticker did in their backtests."""
    told = [
        {"model": model.name, "weight": model.weight} | vars(model.backtest)
        for model in trained
        if model.backtest
    ]
    if not told:
        return {"baseline": f"{MIN_DAYS} days of history are needed to train"}
    return {"backtest": _table({k: v for k, v in row.items() if k != "gains"} for row in told)}


def records_table(rows: pd.DataFrame) -> dg.TableMetadataValue:
    """A frame as a table, to four digits."""
    return _table(rows.astype(object).to_dict("records"))


def forecast_metadata(panel: Panel, rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """By ticker the champion's tenth day, and its picture.

    Args:
        panel: The feature tables of the tickers.
        rows: Their forecasts, in the same order of tickers, ten of each champion.
    """
    champion = rows[rows["is_champion"]]
    told = rows["ticker"].value_counts()
    paths = {name: champion[name].to_numpy().reshape(-1, H) for name in ("close", *BOUNDS)}
    target_days = champion["target_date"].to_numpy("datetime64[D]").reshape(-1, H)
    models = champion["model"].to_numpy()[::H]
    for number, (ticker, (first, end)) in enumerate(zip(panel.tickers, panel.spans, strict=True)):
        path = {name: values[number] for name, values in paths.items()}
        known = slice(max(first, end - HISTORY), end)
        yield (
            ticker,
            {
                "as_of": str(panel.days[end - 1]),
                "champion": models[number],
                "last_close": float(panel.close[end - 1]),
                "close_in_10_days": float(path["close"][-1]),
                "lo_80_in_10_days": float(path["lo_80"][-1]),
                "hi_80_in_10_days": float(path["hi_80"][-1]),
                "dagster/partition_row_count": int(told[ticker]),
                "picture": forecast_chart(
                    ticker, panel.days[known], panel.close[known], target_days[number], path
                ),
            },
        )


def _table(rows: Iterable[Mapping[Any, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    str(name): round(value, DIGITS) if isinstance(value, float) else value
                    for name, value in row.items()
                }
            )
            for row in rows
        ]
    )


def _markdown(svg: str, description: str) -> dg.MarkdownMetadataValue:
    data = base64.b64encode(svg.encode()).decode()
    return dg.MetadataValue.md(f"![{description}](data:image/svg+xml;base64,{data})")
