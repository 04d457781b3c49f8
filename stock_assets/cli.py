"""The command line: ``stock-assets``."""

import gc
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from stock_assets.console import (
    backtest_tables,
    champions_table,
    err,
    forecast_document,
    forecasts_table,
    leaderboard_table,
    out,
    path_table,
    period,
    print_fetched,
    print_ingested,
    short,
)
from stock_assets.errors import StockAssetsError
from stock_assets.files import files_at
from stock_assets.keys import Scope, new_key
from stock_assets.settings import current_settings

if TYPE_CHECKING:
    from stock_assets.installation import Installation

app = typer.Typer(
    help="From CSVs of daily prices to forecasts of the next 10 closes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The prediction database.", no_args_is_help=True)
app.add_typer(db, name="db")
EXIT_REJECTED, EXIT_REFUSED, EXIT_FAILED = 1, 2, 3
Tickers = Annotated[list[str] | None, typer.Argument(help="Tickers; all if none is named.")]


def main() -> None:
    """Run a command; an error that the user can mend is a sentence, not a traceback."""
    gc.set_threshold(100_000)  # of very many objects that a command makes, few lie in circles
    try:
        app()
    except Exception as error:
        if not (words := in_words(error)):
            raise
        err.print(f"[red]error:[/] {escape(words)}", soft_wrap=True)
        sys.exit(EXIT_FAILED)
    finally:
        gc.freeze()  # else the interpreter goes through all of Dagster to leave, for a second


def in_words(error: Exception) -> str:
    """What to tell of an error that the user can mend; nothing of another."""
    if isinstance(error, StockAssetsError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # such as of a disk that is full
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    sqlalchemy = sys.modules.get("sqlalchemy")  # slow to load
    for told in (error, error.__cause__):  # by us, or by Dagster
        if sqlalchemy and isinstance(told, sqlalchemy.exc.DBAPIError):
            return f"The database does not do what it is asked for: {str(told.orig).strip()}"
    return ""


@app.command()
def demo() -> None:
    """Forecast real prices of five tickers, from a CSV drop to the table at the end."""
    from stock_assets.demo import SECTORS, write_demo_csv  # noqa: PLC0415

    installation = _installation()
    folder = installation.settings.drop_folder
    name = write_demo_csv(files_at(folder))
    out.print(f"Dropped {name} into {short(folder)}")
    ingested = installation.ingest([(files_at(folder), name)])
    print_ingested(ingested)
    installation.refresh(installation.stale_tickers())
    out.print(forecasts_table(installation.database.champion_forecasts(SECTORS)))
    out.print(leaderboard_table(installation.database.leaderboard()))
    command = short(Path(sys.argv[0]))
    out.print(
        "The naive forecast is the last close. A model that beats it beyond noise is the champion."
        "\n\nWhat to type next:"
        f"\n  {command} up             the page with forecasts; drop CSVs on it"
        f"\n  {command} predict AAPL   the ten days of one ticker"
        f"\n  {command} ingest FILE    your own prices",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Of Dagster's web UI.")] = 3000,
    api_port: Annotated[int, typer.Option(help="Of the forecasts' page and the service.")] = 8000,
) -> None:
    """Run the page, the service, Dagster's web UI, daemon, sensors and schedules, until Ctrl-C."""
    from stock_assets.supervision import demand_free, in_a_process, run_together  # noqa: PLC0415

    settings = current_settings()
    for wanted in (port, api_port):
        demand_free(wanted)
    in_a_process(_recover)  # which loads Dagster; this process stays small
    out.print(
        f"Forecasts:    http://127.0.0.1:{api_port}\n"
        f"Dagster:      http://127.0.0.1:{port}\n"
        f"Drop CSVs in: {short(settings.drop_folder)}\n"
        "Stop:         Ctrl-C",
        highlight=False,
    )
    home = str(settings.home)
    environment = {
        "DAGSTER_HOME": home,
        "STOCK_ASSETS_HOME": home,
        "STOCK_ASSETS_DAGSTER_URL": f"http://127.0.0.1:{port}",
        "STOCK_ASSETS_LOG_LEVEL": "warning",
    }
    options = ["--module-name", "stock_assets.definitions", "--log-level", "warning"]
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]  # by a tool for developers
    sys.exit(
        run_together(
            [*quiet, "-m", "dagster", "dev", *options, "--port", str(port)],
            ["-m", "stock_assets", "serve", "--port", str(api_port)],
            environment=environment,
        )
    )


def _recover() -> None:
    installation = _installation()
    installation.recover()
    files_at(installation.settings.drop_folder).make()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8000,
    *,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Let other machines in though there are no keys.")
    ] = False,
) -> None:
    """Run the HTTP service and the page to see forecasts on, until Ctrl-C."""
    from stock_assets.api.server import serve as run_server  # noqa: PLC0415  web libraries

    run_server(current_settings(), host, port, without_keys=without_keys)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose it is, as logs will tell.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it is good for; may be given again.")
    ] = None,
) -> None:
    """Make a key of the service, and the entry of STOCK_ASSETS_API_KEYS that lets it in."""
    secret, made = new_key(name, scope or [Scope.READ])
    err.print("The key, which is shown this once, and its entry of STOCK_ASSETS_API_KEYS:")
    typer.echo(f"{secret}\n{made}")


@db.command()
def upgrade() -> None:
    """Bring the tables to the newest revision, as whatever needs them would do by itself."""
    from stock_assets.engine import Connected, shown  # noqa: PLC0415  it loads SQLAlchemy
    from stock_assets.tables import SCHEMA_REVISION  # noqa: PLC0415

    engine = Connected(current_settings().prediction_database_url).engine
    told = f"The tables of {shown(engine.url)} are of revision {SCHEMA_REVISION}."
    out.print(told, markup=False, highlight=False, soft_wrap=True)


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
    installation = _installation()
    ingested = installation.ingest([(files_at(file.parent), file.name) for file in files])
    print_ingested(ingested)
    installation.refresh(installation.stale_tickers())
    if any(item.refusal for item in ingested):
        raise typer.Exit(EXIT_REFUSED)
    if strict and any(item.drop.rejected for item in ingested):
        raise typer.Exit(EXIT_REJECTED)


@app.command()
def fetch(
    tickers: Annotated[
        list[str] | None, typer.Argument(help="Tickers; the universe, or all, if none is named.")
    ] = None,
    *,
    provider: Annotated[
        str, typer.Option(help="yahoo, alphavantage or the address of a CSV; as is set.")
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day; what is missing if not given."),
    ] = None,
) -> None:
    """Fetch daily prices from a provider and forecast their tickers, here and now.

    Exit code: 0; 2 if there was nothing of a ticker; 3 if nothing could be fetched or forecast.
    """
    installation = _installation()
    folder = files_at(installation.settings.drop_folder)
    fetched = installation.fetch(tickers or [], provider, since and since.date())
    print_fetched(fetched)
    ingested = installation.ingest([(folder, name) for name in fetched["drops"]])
    if ingested:
        print_ingested(ingested)
        installation.refresh(installation.stale_tickers())
    if fetched["failures"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def train(tickers: Tickers = None) -> None:
    """Train models anew and forecast with them, here and now."""
    installation = _installation()
    installation.refresh(installation.known_tickers(tickers), train=True)


@app.command()
def forecast(tickers: Tickers = None) -> None:
    """Forecast with the models there are, here and now."""
    installation = _installation()
    installation.refresh(installation.known_tickers(tickers))


@app.command()
def predict(
    ticker: str,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Print the stored forecast of a ticker."""
    path = _installation().forecast_of(ticker)
    if as_json:
        typer.echo(json.dumps(forecast_document(path), indent=2))
    else:
        out.print(path_table(path))


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

    found = _installation().backtest(
        sources or [], days, first and first.date(), last and last.date()
    )
    summary = past.summary(found)
    shown = summary[summary["h"].isin((1, 5, 10))]
    out.print(*backtest_tables(shown))
    files = write_report(found, folder, f"Backtest, {period(found.origins)}")
    out.print("Written: " + ", ".join(short(file) for file in files), soft_wrap=True)


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
    installation = _installation()
    if model:
        installation.pin_champion(model)
    elif rollback:
        installation.roll_back_champion()
    elif release:
        installation.release_champion()
    now = installation.database.champion()
    pinned = ", pinned" if now.pinned else ""
    out.print(f"{now.model}{pinned}: {now.reason}", markup=False, highlight=False, soft_wrap=True)
    out.print(leaderboard_table(installation.database.leaderboard()))
    out.print(champions_table(installation.database.champions()))


def _installation() -> "Installation":
    """Loaded by the commands that work on prices: pandas takes its time."""
    from stock_assets.installation import Installation  # noqa: PLC0415

    return Installation(out)
