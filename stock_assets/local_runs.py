"""Dagster runs in this process, one after the other, recorded as any other run."""

from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

import dagster as dg

from stock_assets.database import Database
from stock_assets.definitions import defs
from stock_assets.defs.automation import market_is_due, market_run, run_requests
from stock_assets.defs.partitions import CSV_DROPS, TICKERS
from stock_assets.errors import RunFailedError
from stock_assets.ranges import ranges
from stock_assets.settings import Settings

_TAGS = {
    # Lists a run under its job in the UI, as if it had been launched from there.
    ".dagster/repository": "__repository__@stock_assets.definitions",
    # The daemon cannot retry what it did not launch.
    "dagster/max_retries": "0",
}
Watch = Callable[[int, int], None]  # how many are done, of how many
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class LocalRuns:
    """Runs of the platform's jobs on the instance that ``DAGSTER_HOME`` names."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Load the definitions and the instance, which takes some seconds."""
        self._settings = settings
        self._database = database
        self._definitions = defs()
        self._instance = dg.DagsterInstance.get()

    def ingest(self, drop_key: str) -> dict[str, Any]:
        """Validate a registered drop; returns the metadata of validated_prices.

        Raises:
            RunFailedError: The file is refused, or the run failed otherwise.
        """
        self._instance.add_dynamic_partitions(str(CSV_DROPS.name), [drop_key])
        result = self._run("ingest_drop", partition_key=drop_key)
        return _metadata(result, "validated_prices")

    def fetch(
        self, tickers: Collection[str], provider: str, since: date | None, watch: Watch
    ) -> dict[str, Any]:
        """Have prices fetched into the drop folder; returns the metadata of fetched_prices.

        Raises:
            RunFailedError: Nothing could be had.
        """
        config = {"tickers": list(tickers), "provider": provider, "since": f"{since or ''}"}
        result = self._run(
            "fetch_prices",
            config={"ops": {"fetched_prices": {"config": config}}},
            resources={"watch": watch},
        )
        return _metadata(result, "fetched_prices")

    def plan(self, tickers: Collection[str], *, train: bool) -> list[tuple[dg.RunRequest, int]]:
        """The runs that forecast these tickers, in order, each with how many of them it holds.

        Where there are none, one does what follows forecasts.
        """
        if not tickers:
            return [(market_run(), 0)]
        self._instance.add_dynamic_partitions(str(TICKERS.name), sorted(tickers))
        order = self._instance.get_dynamic_partitions(str(TICKERS.name))
        chunks = ranges(order, tickers, most=self._settings.max_tickers_per_run)
        states = self._database.ticker_states()
        due = market_is_due(self._database, states) or (train and len(tickers) == len(states))
        requests = run_requests(chunks, states, train=train, train_market=due)
        sizes = [len(chunk) for chunk in chunks]
        return list(zip(requests, sizes if len(chunks) == 1 else [0, *sizes], strict=True))

    def refresh(self, request: dg.RunRequest) -> None:
        """Do what was planned.

        Raises:
            RunFailedError: The run failed.
        """
        self._run(
            "refresh_tickers",
            tags=request.tags,
            asset_selection=list(request.asset_selection or ()),
        )

    def _run(
        self,
        job: str,
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        result = self._definitions.resolve_job_def(job).execute_in_process(
            instance=self._instance,
            tags=_TAGS | dict(tags or {}),
            run_config=_QUIET | dict(config or {}),
            raise_on_error=False,
            **options,
        )
        if not result.success:
            raise RunFailedError(_why(result))
        return result


def _metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (materialization,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in materialization.metadata.items()}


def _why(result: dg.ExecuteInProcessResult) -> str:
    """What the step that failed has to say."""
    failure = next(e for e in result.all_node_events if e.is_step_failure).step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error and (failure.error.cause or failure.error)
    return f"{error.message.strip() if error else 'unknown'} (run {result.run_id})"
