"""The installation that the settings name, as the command line works on it."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
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

from stock_assets.database import Champion, Database, Drop
from stock_assets.drops import register
from stock_assets.errors import (
    DropError,
    ForecastNotFoundError,
    RunFailedError,
    SetupError,
    UnknownTickerError,
)
from stock_assets.files import Files, files_at
from stock_assets.names import no_prices, printable
from stock_assets.settings import current_settings
from stock_assets.storage import Store

if TYPE_CHECKING:
    from stock_assets.backtest import Forecasts
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
        self.store = Store(files_at(self.settings.store))
        self._console = console
        home = self.settings.home
        os.environ["DAGSTER_HOME"] = os.environ["STOCK_ASSETS_HOME"] = str(home)
        if not (home / "dagster.yaml").exists():
            original = Path(__file__).parents[1] / "dagster_home" / "dagster.yaml"
            if not original.exists():
                raise SetupError(
                    f"{home} has no dagster.yaml: copy it there from the project's dagster_home/"
                )
            files_at(home).write_each([("dagster.yaml", original.read_bytes())])

    def recover(self) -> None:
        """Make ready for many processes: migrate the tables, end what is left of a lost session."""
        from dagster import DagsterInstance  # noqa: PLC0415

        from stock_assets.defs.instance import have_sensors_look  # noqa: PLC0415
        from stock_assets.defs.launcher import fail_lost_runs  # noqa: PLC0415

        self.database.engine  # noqa: B018  connecting migrates
        self.store.sweep()
        with DagsterInstance.get() as instance:
            have_sensors_look(instance)
            fail_lost_runs(instance, is_shared=bool(self.settings.database_url))

    def ingest(self, files: Sequence[tuple[Files, str]]) -> list[Ingested]:
        """Take files, by place and name; one that is refused does not stop the next."""
        self.store.sweep()
        with self._progress() as progress:
            shown = progress.track(files, description="Validating files")
            return [self._ingest(place, name) for place, name in shown]

    def fetch(self, tickers: Collection[str], provider: str, since: date | None) -> dict[str, Any]:
        """Fetch prices into the drop folder; returns the metadata of fetched_prices.

        Args:
            tickers: As `fetching.wanted_tickers` takes them.
            provider: That of the settings if empty.
            since: The first day; if not set, whatever is missing.

        Raises:
            RunFailedError: Nothing could be had.
        """
        with self._progress() as progress:
            task = progress.add_task("Fetching prices", total=None)
            return self._runs.fetch(
                tickers,
                provider,
                since,
                lambda done, total: progress.update(task, completed=done, total=total),
            )

    def refresh(self, tickers: Collection[str], *, train: bool = False) -> None:
        """Forecast tickers, in ranges, with training where it is asked for or needed.

        Where there are none, what follows forecasts is done if it was not: whoever made them may
        have been killed.

        Raises:
            RunFailedError: A range failed; the others were still worked on.
        """
        if not tickers and self._is_settled():
            return
        failures = []
        with self._progress() as progress:
            task = progress.add_task("Starting Dagster", total=None)
            runs = self._runs.plan(tickers, train=train)
            total = sum(size for _, size in runs)
            progress.update(task, description="Forecasting tickers", total=total)
            for request, size in runs:
                try:
                    self._runs.refresh(request)
                except RunFailedError as error:
                    failures.append(str(error))
                progress.advance(task, size)
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
                raise UnknownTickerError(
                    f"{no_prices(ticker, known)} Drop a CSV that has them: stock-assets ingest FILE"
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
        champion = self.database.champion()
        few_days = f"{path['days'].iloc[0]} days of history are too few to train on"
        return path.assign(reason=np.where(path["origins"] == 0, few_days, champion.reason))

    def backtest(
        self, sources: Sequence[Path], days: int | None, first: date | None, last: date | None
    ) -> "Forecasts":
        """Replay the past on prices of files and folders, or of the database.

        Raises:
            DropError: A file is no CSV of prices.
            BacktestError: There are too few days.
            SetupError: There are no prices at all.
        """
        from stock_assets import backtest  # noqa: PLC0415  scikit-learn takes seconds to load
        from stock_assets.models import candidates  # noqa: PLC0415

        models = candidates(self.settings.models)
        with self._progress() as progress:
            task = progress.add_task("Reading prices", total=None)
            prices = self._prices_of(sources) if sources else self.database.read_prices()
            if prices.empty:
                raise SetupError("No prices to test on: name a CSV, or ingest one first")
            total = len(backtest.training_days(prices, history=days, first=first, last=last))
            progress.update(task, description="Replaying weeks", total=total)
            weeks = backtest.walk(prices, models, history=days, first=first, last=last)
            return backtest.join(list(progress.track(weeks, task_id=task)))

    def pin_champion(self, model: str) -> None:
        """Show the forecasts of this model from now on, until it is released.

        Raises:
            SetupError: No ticker has such a model.
        """
        known = list(self.database.leaderboard()["model"])
        if model not in known:
            raise SetupError(
                f"No ticker has a backtested model {model!r}. "
                f"Expected one of: {', '.join(known) or 'none yet, ingest prices first'}"
            )
        self.database.crown(Champion(model, "chosen by hand", pinned=True))

    def roll_back_champion(self) -> None:
        """Pin the champion that was there before the present one.

        Raises:
            SetupError: There was none.
        """
        history = self.database.champions()
        now = self.database.champion().model
        before = [model for model in history["model"] if model != now]
        if not before:
            raise SetupError(f"No champion before {now} to go back to")
        self.database.crown(Champion(before[0], f"rolled back from {now} by hand", pinned=True))

    def release_champion(self) -> None:
        """Let the rule choose the champion again, now and from now on."""
        from stock_assets.promotion import decide_champion  # noqa: PLC0415

        decide_champion(self.database, release=True)

    def _is_settled(self) -> bool:
        from stock_assets.promotion import is_settled  # noqa: PLC0415

        return is_settled(self.database)

    def _prices_of(self, sources: Sequence[Path]) -> pd.DataFrame:
        """The sound rows of CSVs; of a day told twice the later file is believed."""
        from stock_assets.prices import validate_csv  # noqa: PLC0415

        files = [
            file
            for source in sources
            for file in (sorted(source.glob("*.csv*")) if source.is_dir() else [source])
        ]
        most = self.settings.max_drop_bytes
        today = datetime.now(UTC).date()
        accepted = []
        for file in files:
            with file.open("rb") as opened:
                read = opened.read(most + 1)
            try:
                accepted.append(validate_csv(read, today=today, max_bytes=most).accepted)
            except DropError as error:
                raise DropError(f"{printable(file.name)}: {error}") from error
        if not accepted:
            return pd.DataFrame()
        prices = pd.concat(accepted, ignore_index=True)
        prices = prices.drop_duplicates(["ticker", "date"], keep="last")
        return prices.sort_values(["ticker", "date"], ignore_index=True)

    @cached_property
    def _runs(self) -> "LocalRuns":
        """Loaded when there is something to run: Dagster takes seconds to import."""
        from stock_assets.local_runs import LocalRuns  # noqa: PLC0415

        return LocalRuns(self.settings, self.database)

    def _ingest(self, place: Files, name: str) -> Ingested:
        drop = register(place, name, self.store, self.database)
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
