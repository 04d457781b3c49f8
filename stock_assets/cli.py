"""The command line: ``stock-assets``."""

import gc
import json
import os
import signal
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stock_assets.demo import SECTORS, write_demo_csv
from stock_assets.errors import StockAssetsError
from stock_assets.installation import Ingested, Installation

app = typer.Typer(
    help="From CSVs of daily prices to forecasts of the next 10 closes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

EXIT_REJECTED, EXIT_REFUSED, EXIT_FAILED = 1, 2, 3
_TOP_REASONS = 5
Tickers = Annotated[list[str] | None, typer.Argument(help="Tickers; all if none is named.")]


def main() -> None:
    """Run a command; an error that the user can mend is a sentence, not a traceback."""
    gc.set_threshold(100_000)  # of very many objects that a command makes, few lie in circles
    try:
        app()
    except StockAssetsError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_FAILED)
    finally:
        gc.freeze()  # else the interpreter goes through all of Dagster to leave, for a second


@app.command()
def demo() -> None:
    """Forecast real prices of five tickers, from a CSV drop to the table at the end."""
    installation = Installation(out)
    file = write_demo_csv(installation.settings.drop_folder)
    out.print(f"Dropped {file.name} into {_short(file.parent)}")
    ingested = installation.ingest([file])
    _print_ingested(ingested)
    installation.refresh(installation.stale_tickers())
    out.print(_forecasts_table(installation.database.champion_forecasts(SECTORS)))
    out.print(_formatted(_OVER_ALL, _LEADERBOARD, installation.database.leaderboard()))
    command = _short(Path(sys.argv[0]))
    out.print(
        "The naive forecast is the last close. A model that beats it beyond noise is the champion."
        "\n\nWhat to type next:"
        f"\n  {command} up             the web UI; drop CSVs while it runs"
        f"\n  {command} predict AAPL   the ten days of one ticker"
        f"\n  {command} ingest FILE    your own prices",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def up(port: Annotated[int, typer.Option(help="Of the web UI.")] = 3000) -> None:
    """Run the web UI, the daemon, sensors and schedules, until Ctrl-C."""
    installation = Installation(out)
    installation.recover()
    folder = installation.settings.drop_folder
    folder.mkdir(parents=True, exist_ok=True)
    out.print(
        f"Web UI:       http://127.0.0.1:{port}\n"
        f"Drop CSVs in: {_short(folder)}\n"
        "Stop:         Ctrl-C",
        highlight=False,
    )
    options = ["--module-name", "stock_assets.definitions", "--log-level", "warning"]
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]  # by a tool for developers
    command = [sys.executable, *quiet, "-m", "dagster", "dev", *options, "--port", str(port)]
    # A shell starts what it puts into the background deaf to Ctrl-C, and Dagster copies that to
    # SIGTERM: nothing could end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.execv(sys.executable, command)  # noqa: S606  Ctrl-C goes straight to Dagster


@app.command()
def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, readable=True, help="CSVs, plain or gzip."),
    ],
    *,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if rows are rejected.")
    ] = False,
) -> None:
    """Take CSVs of daily prices and forecast their tickers, here and now.

    Exit code: 0; 1 if rows were rejected and --strict is given; 2 if a file was refused;
    3 if forecasting failed.
    """
    installation = Installation(out)
    ingested = installation.ingest(files)
    _print_ingested(ingested)
    installation.refresh(installation.stale_tickers())
    if any(item.refusal for item in ingested):
        raise typer.Exit(EXIT_REFUSED)
    if strict and any(item.drop.rejected for item in ingested):
        raise typer.Exit(EXIT_REJECTED)


@app.command()
def train(tickers: Tickers = None) -> None:
    """Train models anew and forecast with them, here and now."""
    installation = Installation(out)
    installation.refresh(installation.known_tickers(tickers), train=True)


@app.command()
def forecast(tickers: Tickers = None) -> None:
    """Forecast with the models there are, here and now."""
    installation = Installation(out)
    installation.refresh(installation.known_tickers(tickers))


@app.command()
def predict(
    ticker: str,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Print the stored forecast of a ticker."""
    path = Installation(out).forecast_of(ticker)
    if as_json:
        typer.echo(json.dumps(_forecast_document(path), indent=2))
    else:
        out.print(_path_table(path))


@app.command()
def backtest(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, help="CSVs or folders of them; the database if none is named."),
    ] = None,
    *,
    days: Annotated[
        int | None, typer.Option(min=80, help="Days of history that each forecast may use; all.")
    ] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day to forecast.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day to forecast.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("backtest"),
) -> None:
    """Measure what forecasts are worth: replay the past, as if the platform had run every day.

    It trains every fifth trading day on what was known by then, forecasts every day, and compares
    with what came. A report with pictures and CSVs is written to the folder.
    """
    from stock_assets import backtest as past  # noqa: PLC0415  scikit-learn takes seconds to load
    from stock_assets.report import write_report  # noqa: PLC0415

    found = Installation(out).backtest(
        sources or [], days, first and first.date(), last and last.date()
    )
    summary = past.summary(found)
    shown = summary[summary["h"].isin((1, 5, 10))]
    out.print(_formatted("Errors", _ERRORS, shown), _formatted("Intervals", _INTERVALS, shown))
    out.print(_BACKTEST_LEGEND)
    files = write_report(found, folder, f"Backtest, {_title(found.origins)}")
    out.print("Written: " + ", ".join(_short(file) for file in files), soft_wrap=True)


@app.command()
def champion(
    model: Annotated[
        str | None, typer.Argument(help="Pin this model; nothing to see who it is.")
    ] = None,
    *,
    release: Annotated[
        bool, typer.Option("--release", help="Let the rule choose again after a pin.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Pin the champion before this one.")
    ] = False,
) -> None:
    """Show which model's forecasts people see, and why; pin one, release it or go back."""
    installation = Installation(out)
    if model:
        installation.pin_champion(model)
    elif rollback:
        installation.roll_back_champion()
    elif release:
        installation.release_champion()
    now = installation.database.champion()
    pinned = ", pinned" if now.pinned else ""
    out.print(f"{now.model}{pinned}: {now.reason}", markup=False, highlight=False, soft_wrap=True)
    out.print(_formatted(_OVER_ALL, _LEADERBOARD, installation.database.leaderboard()))
    out.print(_champions_table(installation.database.champions()))


def _table(title: str, columns: Sequence[str], *, left: Collection[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _print_ingested(ingested: Sequence[Ingested]) -> None:
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


def _forecasts_table(paths: pd.DataFrame) -> Table:
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


def _formatted(title: str, columns: Sequence[tuple[str, str]], rows: pd.DataFrame) -> Table:
    """A table of rows, each column a heading and the format of its cells."""
    table = _table(title, [heading for heading, _ in columns], left=("model",))
    for row in _rows(rows):
        table.add_row(*(cell.format(row) for _, cell in columns))
    return table


def _rows(table: pd.DataFrame) -> Iterable[Any]:
    return table.itertuples()


def _title(origins: pd.DataFrame) -> str:
    days = origins["as_of"]
    return f"{days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}, {origins['ticker'].nunique()} tickers"


def _champions_table(champions: pd.DataFrame) -> Table:
    table = _table("Champions, the newest first", ("since", "model", "reason"), left=("reason",))
    for row in _rows(champions):
        pinned = "pinned: " if row.pinned else ""
        table.add_row(f"{row.created_at:%Y-%m-%d %H:%M}", row.model, escape(pinned + row.reason))
    table.columns[-1].no_wrap = False
    return table


def _path_table(path: pd.DataFrame) -> Table:
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


def _forecast_document(path: pd.DataFrame) -> dict[str, Any]:
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
    return "no backtest" if pd.isna(mae_ratio) else f"{mae_ratio:.3f}"


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)
