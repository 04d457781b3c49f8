"""What the commands print."""

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stock_assets.files import Place

if TYPE_CHECKING:
    import pandas as pd

    from stock_assets.installation import Ingested

out, err = Console(emoji=False), Console(stderr=True, emoji=False)  # :x: in a name is no picture

_TOP_REASONS = 5


def _table(title: str, columns: Sequence[str], *, left: Collection[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def print_fetched(fetched: Mapping[str, Any]) -> None:
    """What came from a provider: the metadata of fetched_prices."""
    told = (
        f"{fetched['provider']}, to {fetched['last_day']}: {fetched['rows']:,} rows of "
        f"{fetched['tickers_with_news']:,} tickers, nothing new of {fetched['tickers_unchanged']:,}"
    )
    out.print(told, markup=False, highlight=False, soft_wrap=True)
    for ticker, change in fetched["tickers_rewritten"].items():
        told = f"{ticker}: its history was rewritten, old closes are {change:.4g} of what they were"
        out.print(told, markup=False, highlight=False, soft_wrap=True)
    for ticker, why in fetched["failures"].items():
        out.print(f"{ticker}: {why}", style="red", markup=False, soft_wrap=True)


def print_ingested(ingested: Sequence["Ingested"]) -> None:
    """What became of files."""
    table = _table(
        "",
        ("file", "read", "accepted", "collapsed", "rejected", "tickers new", "updated"),
        left=("file",),
    )
    for item in ingested:
        drop, name = item.drop, escape(item.drop.file_name)
        if item.refusal:
            table.add_row(name, "refused")
            continue
        counts = (drop.rows_read, drop.accepted, drop.collapsed, drop.rejected)
        changes = (item.tickers_new, item.tickers_updated) if item.is_new else ("known", "drop")
        table.add_row(name, *(f"{count:,}" for count in counts), *map(str, changes))
    out.print(table)
    for item in ingested:
        name = item.drop.file_name
        for reason, count in item.reasons.most_common(_TOP_REASONS):
            out.print(f"{name}: {count:,} rows rejected: {reason}", markup=False, soft_wrap=True)
        if item.refusal:
            out.print(f"refused: {item.refusal}", style="red", markup=False, soft_wrap=True)


def forecasts_table(paths: "pd.DataFrame") -> Table:
    """The last day of each path."""
    table = _table(
        "The close in 10 trading days",
        ("ticker", "as of", "last close", "forecast", "80 % interval", "champion", "error"),
        left=("ticker", "as of", "champion"),
    )
    for row in paths[paths["h"] == paths["h"].max()].itertuples():
        table.add_row(
            row.ticker,
            str(row.as_of),
            f"{row.last_close:,.2f}",
            f"{row.close:,.2f}",
            f"{row.lo_80:,.2f} to {row.hi_80:,.2f}",
            row.model,
            _ratio(row.mae_ratio),
        )
    return table


_ERRORS = [
    ("model", "{0.model}"),
    ("h", "{0.h}"),
    ("days", "{0.origins}"),
    ("MAE/naive", "{0.mae_ratio:.4f}"),
    ("RMSE", "{0.rmse:.4f}"),
    ("MASE", "{0.mase:.3f}"),
    ("DM", "{0.dm:.2f}"),
    ("p", "{0.p_value:.2f}"),
    ("better", "{0.tickers_better:.0%}"),
]
_INTERVALS = [
    ("model", "{0.model}"),
    ("h", "{0.h}"),
    ("in 80 %", "{0.coverage_80:.1%}"),
    ("width", "{0.width_80:.1%}"),
    ("Winkler", "{0.winkler_80:.3f}"),
    ("in 95 %", "{0.coverage_95:.1%}"),
    ("width", "{0.width_95:.1%}"),
    ("Winkler", "{0.winkler_95:.3f}"),
]
_BACKTEST_LEGEND = (
    "h: days ahead. days: forecast from. DM, p: Diebold-Mariano test against naive, the tickers of "
    "a day taken together. better: share of tickers with less error than naive. width: mean, of "
    "the close. Winkler: interval score / that of Gaussian intervals of EWMA(0.97) volatility."
)
_OVER_ALL = "Backtests of all tickers"
_LEADERBOARD = [
    ("model", "{0.model}"),
    ("tickers", "{0.tickers}"),
    ("MAE / naive", "{0.mae_ratio:.4f}"),
    ("in 80 %", "{0.coverage_80:.1%}"),
    ("in 95 %", "{0.coverage_95:.1%}"),
]


def _formatted(title: str, columns: Sequence[tuple[str, str]], rows: "pd.DataFrame") -> Table:
    """A table of rows, each column a heading and the format of its cells."""
    table = _table(title, [heading for heading, _ in columns], left=("model",))
    for row in _rows(rows):
        table.add_row(*(cell.format(row) for _, cell in columns))
    return table


def _rows(table: "pd.DataFrame") -> Iterable[Any]:
    return table.itertuples()


def period(origins: "pd.DataFrame") -> str:
    """What a backtest is of."""
    days = origins["as_of"]
    return f"{days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}, {origins['ticker'].nunique()} tickers"


def backtest_tables(summary: "pd.DataFrame") -> tuple[Table, Table, str]:
    """Errors and intervals of models, and what the columns say."""
    errors = _formatted("Errors", _ERRORS, summary)
    return errors, _formatted("Intervals", _INTERVALS, summary), _BACKTEST_LEGEND


def leaderboard_table(leaderboard: "pd.DataFrame") -> Table:
    """How models did in their backtests."""
    return _formatted(_OVER_ALL, _LEADERBOARD, leaderboard)


def champions_table(champions: "pd.DataFrame") -> Table:
    """The champions so far."""
    table = _table("Champions, the newest first", ("since", "model", "reason"), left=("reason",))
    for row in _rows(champions):
        pinned = "pinned: " if row.pinned else ""
        table.add_row(f"{row.created_at:%Y-%m-%d %H:%M}", row.model, escape(pinned + row.reason))
    table.columns[-1].no_wrap = False
    return table


def path_table(path: "pd.DataFrame") -> Table:
    """All days of a ticker's path."""
    first = path.iloc[0]
    table = _table(
        f"{first.ticker}: {first.last_close:,.2f} on {first.as_of}",
        ("h", "date", "close", "80 % interval", "95 % interval"),
    )
    table.caption = (
        f"{first.model} ({first.reason}); backtest error {_ratio(first.mae_ratio)} of naive"
    )
    for row in path.itertuples():
        table.add_row(
            str(row.h),
            str(row.target_date),
            f"{row.close:,.2f}",
            f"{row.lo_80:,.2f} to {row.hi_80:,.2f}",
            f"{row.lo_95:,.2f} to {row.hi_95:,.2f}",
        )
    return table


def forecast_document(path: "pd.DataFrame") -> dict[str, Any]:
    """A path as JSON."""
    first = path.iloc[0]
    days = path[["h", "target_date", "close", "lo_80", "hi_80", "lo_95", "hi_95"]]
    return {
        "ticker": first["ticker"],
        "as_of": first["as_of"].isoformat(),
        "last_close": first["last_close"],
        "model": first["model"],
        "model_version": first["model_version"],
        "reason": first["reason"],
        "mae_ratio": first["mae_ratio"],
        "forecast": [
            day | {"target_date": day["target_date"].isoformat()} for day in days.to_dict("records")
        ],
    }


def _ratio(mae_ratio: float | None) -> str:
    return "no backtest" if mae_ratio is None or math.isnan(mae_ratio) else f"{mae_ratio:.3f}"


def short(place: Place) -> str:
    """A path as one would type it from here; the address of a bucket as it is."""
    is_below = isinstance(place, Path) and place.absolute().is_relative_to(Path.cwd())
    return os.path.relpath(place) if is_below else str(place)
