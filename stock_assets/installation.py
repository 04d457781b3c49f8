"""The installation that the settings name, as the command line works on it."""

import difflib
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from stock_assets.database import Database, Drop
from stock_assets.drops import register
from stock_assets.errors import (
    ForecastNotFoundError,
    RunFailedError,
    SetupError,
    UnknownTickerError,
)
from stock_assets.settings import current_settings
from stock_assets.storage import Store

if TYPE_CHECKING:
    from stock_assets.local_runs import LocalRuns


@dataclass(frozen=True)
class Ingested:
    """What became of one file.

    Attributes:
        drop: The drop it is, with its counts.
        is_new: False where the same bytes were taken before.
        tickers_new: Tickers that had no prices before.
        tickers_updated: Other tickers with new or changed prices.
        reasons: How many rejected rows give each reason.
        refusal: Why the file was refused as a whole; empty if it was not.
    """

    drop: Drop
    is_new: bool
    tickers_new: int
    tickers_updated: int
    reasons: Counter[str]
    refusal: str


class Installation:
    """One home: its drop folder, store, database and Dagster instance."""

    def __init__(self, console: Console) -> None:
        """Make the home ready for Dagster; progress is shown on the console."""
        self.settings = current_settings()
        self.database = Database(self.settings.prediction_database_url)
        self.store = Store(self.settings.store)
        self._console = console
        home = self.settings.home
        os.environ["DAGSTER_HOME"] = os.environ["STOCK_ASSETS_HOME"] = str(home)
        if not (home / "dagster.yaml").exists():
            original = Path(__file__).parents[1] / "dagster_home" / "dagster.yaml"
            if not original.exists():
                raise SetupError(
                    f"{home} has no dagster.yaml: copy it there from the project's dagster_home/"
                )
            home.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, home / "dagster.yaml")

    def recover(self) -> None:
        """Make ready for many processes: migrate the tables, end the runs of a lost session.

        A database that is shared may know runs of other machines, which are not ours to judge.
        """
        from dagster import DagsterInstance  # noqa: PLC0415

        from stock_assets.defs.instance import fail_lost_runs  # noqa: PLC0415

        self.database.engine  # noqa: B018  connecting migrates
        if not self.settings.database_url:
            with DagsterInstance.get() as instance:
                fail_lost_runs(instance)

    def ingest(self, files: Sequence[Path]) -> list[Ingested]:
        """Take files one after the other; one that is refused does not stop the next."""
        with self._progress() as progress:
            shown = progress.track(files, description="Validating files")
            return [self._ingest(file) for file in shown]

    def refresh(self, tickers: Collection[str], *, train: bool = False) -> None:
        """Forecast tickers, in ranges, with training where it is asked for or needed.

        Raises:
            RunFailedError: A range failed; the others were still worked on.
        """
        if not tickers:
            return
        failures = []
        with self._progress() as progress:
            task = progress.add_task("Starting Dagster", total=None)
            chunks = self._runs.plan(tickers)
            total = sum(map(len, chunks))
            progress.update(task, description="Forecasting tickers", total=total)
            for chunk in chunks:
                try:
                    self._runs.refresh(chunk, train=train)
                except RunFailedError as error:
                    failures.append(str(error))
                progress.advance(task, len(chunk))
        if failures:
            raise RunFailedError("\n".join(failures))

    def stale_tickers(self) -> list[str]:
        """Tickers whose prices changed after their last forecast."""
        return [state.ticker for state in self.database.ticker_states() if state.needs_forecast]

    def known_tickers(self, named: Sequence[str] | None) -> list[str]:
        """The named tickers, or all there are.

        Raises:
            UnknownTickerError: One has no prices.
        """
        known = [state.ticker for state in self.database.ticker_states()]
        tickers = [name.strip().upper() for name in named or known]
        for ticker in tickers:
            if ticker not in known:
                near = ", ".join(difflib.get_close_matches(ticker, known, n=3, cutoff=0.4))
                raise UnknownTickerError(
                    f"No prices of {ticker}."
                    + (f" Did you mean {near}?" if near else "")
                    + " Drop a CSV that has them: stock-assets ingest FILE"
                )
        return tickers

    def forecast_of(self, ticker: str) -> pd.DataFrame:
        """The stored forecast of a ticker's champion, one row per day ahead.

        Raises:
            UnknownTickerError: It has no prices.
            ForecastNotFoundError: It has no forecast yet.
        """
        (ticker,) = self.known_tickers([ticker])
        path = self.database.champion_forecasts([ticker])
        if path.empty:
            raise ForecastNotFoundError(
                f"{ticker} has prices but no forecast yet: stock-assets forecast {ticker}"
            )
        return path

    @cached_property
    def _runs(self) -> "LocalRuns":
        """Loaded when there is something to run: Dagster takes seconds to import."""
        from stock_assets.local_runs import LocalRuns  # noqa: PLC0415

        return LocalRuns(self.settings, self.database)

    def _ingest(self, file: Path) -> Ingested:
        drop = register(file, self.store, self.database)
        metadata, refusal = {}, ""
        is_new = drop.status != "accepted"
        if is_new:
            try:
                metadata = self._runs.ingest(drop.key)
            except RunFailedError as error:
                refusal = str(error)
        rejected = self.database.rejected(drop.key)
        return Ingested(
            drop=self.database.drop(drop.key),
            is_new=is_new,
            tickers_new=metadata.get("tickers_new", 0),
            tickers_updated=metadata.get("tickers_updated", 0),
            reasons=Counter(reason for reasons in rejected["reasons"] for reason in reasons),
            refusal=refusal,
        )

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
