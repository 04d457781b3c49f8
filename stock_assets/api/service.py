"""What the service does: take uploads, tell forecasts, have Dagster train."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
import structlog
from anyio.to_thread import run_sync
from fastapi import Request

from stock_assets.api import answers, uploads
from stock_assets.api.answers import Fate, RunStatus
from stock_assets.api.dagster import INGEST, REFRESH, Dagster
from stock_assets.api.memory import Memory
from stock_assets.api.monitor import Monitor
from stock_assets.api.problems import ProblemError, no_database
from stock_assets.api.reader import Reader, Wanted, utc
from stock_assets.errors import SetupError
from stock_assets.files import files_at, sweep
from stock_assets.metrics import TRAININGS, UPLOADED_BYTES, Group
from stock_assets.names import drop_key
from stock_assets.ranges import memory_tags, of_tickers, range_tags, ranges
from stock_assets.settings import Settings

GATHER_SECONDS = 0.1  # trainings that are asked for within it of each other share their runs
MOST_GATHERINGS = 20
MOST_QUEUED = 500  # runs; who asks for more trainings has to wait until some have begun
NO_DAGSTER = (  # said to everybody
    "Dagster does not answer as it should; the service's log tells more. Is its webserver up, with "
    "our jobs loaded, and is STOCK_ASSETS_DAGSTER_URL its address?"
)

_log = structlog.get_logger("stock_assets.api")


class Service:
    """One installation's database, drop folder and Dagster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._drops = files_at(settings.drop_folder)
        self._reader = Reader(settings.prediction_database_url)
        self._dagster = Dagster(settings.dagster_url)
        self._memory = Memory(self._reader.writes, self._reader.forecasts)
        self._monitor = Monitor(settings, self._reader, self._dagster)
        self._wanted: set[str] = set()
        self._launching: asyncio.Task[dict[str, list[str]]] | None = None

    async def start(self) -> None:
        """Tidy up after earlier processes; connect, so that the first who asks need not wait."""
        await run_sync(sweep, self._drops.spool())
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        with suppress(SetupError, sa.exc.DBAPIError):  # whoever asks is told
            await self._memory.get([Wanted("")])

    async def stop(self) -> None:
        """Let go of what is open."""
        await self._dagster.close()

    # Health

    async def readiness(self) -> answers.Readiness:
        """Whether the database and Dagster answer."""
        database, dagster = await asyncio.gather(self._database_state(), self._dagster_state())
        return answers.Readiness(database=database, dagster=dagster)

    async def exposition(self, groups: Collection[Group]) -> bytes:
        """The metrics of these groups, as text for Prometheus."""
        return await self._monitor.exposition(groups)

    async def _database_state(self) -> str:
        try:
            await run_sync(self._reader.writes)
        except (SetupError, sa.exc.DBAPIError) as error:
            return no_database(error)
        except sa.exc.TimeoutError:
            return "All connections to the database are in use."
        return "ok"

    async def _dagster_state(self) -> str:
        try:
            await self._dagster.check()
        except ProblemError as error:
            _log.warning("dagster does not answer", error=str(error))
            return NO_DAGSTER
        return "ok"

    # Drops

    async def upload(self, request: Request) -> answers.Upload:
        """Stream a form's file into the drop folder, and register it as a drop."""
        content_type = request.headers.get("content-type", "")
        most = self._settings.max_drop_bytes
        with uploads.unfinished(self._drops) as received:
            await uploads.receive(received, content_type, request.stream(), most)
            key = drop_key(received.file_name, received.sha256)
            register = partial(self._reader.register_drop, key, received.sha256)
            drop, is_new = await run_sync(register, received.file_name, received.size)
            if not await self._is_on_its_way(drop, received):
                await run_sync(received.publish, drop.key)
        UPLOADED_BYTES.inc(received.size)
        return answers.Upload(
            drop=drop.key,
            is_new=is_new,
            file_name=drop.file_name,
            size=drop.size,
            ignored_columns=received.ignored_columns,
            doubts=received.doubts,
            follow=f"/drops/{drop.key}",
        )

    async def _is_on_its_way(self, drop: sa.Row[Any], received: uploads.Received) -> bool:
        """Whether the bytes are taken already, or will be: a file that changes is left alone."""
        if drop.status != "registered":
            return bool(drop.status == "accepted")
        if await run_sync(self._drops.changed_ns, received.dropped(drop.key)) is None:
            return False
        fate, _ = await self._under_way(drop.key)
        return fate != Fate.FAILED

    async def drop(self, key: str) -> answers.DropReport:
        """What became of a drop."""
        self._memory.doubt()
        drop = await run_sync(self._reader.drop, key)
        if drop.status == "registered":
            fate, detail = await self._under_way(key)
            if fate == Fate.ACCEPTED:  # since it was read
                drop = await run_sync(self._reader.drop, key)
        if drop.status == "refused":
            fate, detail = Fate.FAILED, drop.error
        waiting, reasons = 0, []
        if drop.status == "accepted":
            waiting = await run_sync(self._reader.waiting, drop.tickers or [])
            reasons = await run_sync(self._reader.reasons, drop.id)
            fate, detail = Fate.ACCEPTED, await self._prospect(drop, waiting)
        return answers.DropReport(
            **{name: getattr(drop, name) for name in _OF_DROP},
            drop=drop.key,
            received_at=utc(drop.created_at),
            status=fate,
            detail=detail,
            reasons=reasons,
            tickers=drop.tickers or [],
            waiting=waiting,
        )

    async def _under_way(self, key: str) -> tuple[Fate, str]:
        """Where a drop is that was not validated yet."""
        try:
            run = await self._dagster.last_run(INGEST, {"dagster/partition": key})
        except ProblemError as error:
            return Fate.QUEUED, f"It is kept, and taken when Dagster is up. {error}"
        if run is None or await run_sync(self._came_again, key, run):
            return Fate.QUEUED, "It waits for the sensor, which looks every few seconds."
        fate, detail = _OF_INGESTION[run.status]
        return fate, detail.format(run.detail)

    def _came_again(self, key: str, run: answers.RunReport) -> bool:
        """Whether the file lies in the drop folder anew since a run of it has ended."""
        for ending in (".csv", ".csv.gz"):  # it is one of them
            came = self._drops.changed_ns(f"{key}{ending}")
            if came is not None:
                return run.ended_at is not None and came > run.ended_at.timestamp() * 1e9
        return False

    async def _prospect(self, drop: sa.Row[Any], waiting: int) -> str:
        """What is to be expected of an accepted drop."""
        if drop.tickers is None:  # it was taken before that was noted
            return "It is stored."
        if not drop.tickers:
            return "It changes no prices."
        if not waiting:
            return "Forecasts are ready."
        try:
            run = await self._dagster.last_run(REFRESH)
        except ProblemError as error:
            return f"It is forecast when Dagster is up. {error}"
        came = utc(drop.created_at)
        if run and run.status == RunStatus.FAILED and (run.ended_at or came) >= came:
            return f"The last forecasting run failed: {run.detail} It is tried again at night."
        return "Its tickers wait for forecasts."

    # Runs

    async def train(self, wanted: Collection[str]) -> answers.Training:
        """Have tickers trained and forecast, in as few runs as possible."""
        names = list(dict.fromkeys(name.strip().upper() for name in wanted))
        await run_sync(self._reader.demand_known, names)
        self._wanted.update(names)
        if self._launching is None:
            self._launching = asyncio.create_task(self._launch_soon())
        launched = await asyncio.shield(self._launching)
        lacking = sorted({*names}.difference(*launched.values()))
        if len(lacking) == len(names):
            raise ProblemError(
                HTTPStatus.CONFLICT,
                f"Dagster has no partition of {', '.join(lacking)} yet: the run that validates "
                "them has not ended. Try again in a minute.",
            )
        TRAININGS.inc(len(names) - len(lacking))
        return answers.Training(
            runs=[
                answers.Launched(run=run, tickers=share, follow=f"/runs/{run}")
                for run, chunk in launched.items()
                if (share := sorted({*names}.intersection(chunk)))
            ],
            lacking=lacking,
        )

    async def _launch_soon(self) -> dict[str, list[str]]:
        """Launch runs for all tickers that are wanted by then: the range of each run by its id."""
        known = 0
        for _ in range(MOST_GATHERINGS):
            if len(self._wanted) == known:
                break
            known = len(self._wanted)
            await asyncio.sleep(GATHER_SECONDS)
        wanted, self._wanted, self._launching = self._wanted, set(), None
        if not await run_sync(self._reader.has_market_model):
            raise ProblemError(
                HTTPStatus.CONFLICT,
                "What all tickers tell together is not learned yet. That happens by itself after "
                "the first drop, as GET /drops/{drop} tells; then ask again.",
            )
        order, queued = await self._dagster.ticker_order()
        chunks = ranges(order, wanted, most=self._settings.max_tickers_per_run)
        if queued + len(chunks) > MOST_QUEUED:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{queued:,} runs are queued already: try again when some of them have ended.",
                {"Retry-After": "60"},
            )
        launched, assets = {}, of_tickers(train=True)
        memory = memory_tags(assets, self._settings.heavy_memory)
        for chunk in chunks:
            run = await self._dagster.launch(assets, range_tags(chunk) | memory)
            launched[run] = chunk
        return launched

    async def run(self, run_id: str) -> answers.RunReport:
        """What became of a run."""
        self._memory.doubt()
        return await self._dagster.run(run_id)

    # Forecasts

    async def forecast(self, ticker: str, model: str | None, by: date | None) -> bytes:
        """A ticker's newest forecast as JSON.

        Raises:
            ProblemError: There is none.
        """
        wanted = Wanted(ticker.strip().upper(), model, by)
        told = await self._memory.get([wanted])
        if wanted not in told:
            raise await run_sync(self._reader.no_forecast, wanted)
        return told[wanted]

    async def forecasts(self, tickers: Sequence[str]) -> bytes:
        """For each ticker its champion's newest forecast or what is wrong, as JSON."""
        wanted = [Wanted(name.strip().upper()) for name in tickers]
        told = await self._memory.get(wanted)
        lacking = [one.ticker for one in wanted if one not in told]
        errors = await run_sync(self._reader.no_forecasts, lacking) if lacking else {}
        rows = (
            b'{"ticker":"%b","forecast":%b,"error":null}' % (one.ticker.encode(), told[one])
            if one in told
            else answers.Told(ticker=one.ticker, error=errors[one.ticker])
            .model_dump_json()
            .encode()
            for one in wanted
        )
        return b'{"forecasts":[%b]}' % b",".join(rows)

    # Tickers

    async def ticker(self, ticker: str, closes: int, scores: int) -> answers.TickerReport:
        """All that is known of a ticker."""
        return await run_sync(self._reader.ticker, ticker.strip().upper(), closes, scores)

    async def tickers(
        self, text: str, sort: str, limit: int, offset: int
    ) -> tuple[int, list[answers.TickerRow]]:
        """How many tickers fit, and a page of them."""
        return await run_sync(self._reader.ticker_list, text, sort, limit, offset)


_OF_DROP = ("file_name", "size", "rows_read", "accepted", "collapsed", "rejected")
_OF_INGESTION = {
    RunStatus.QUEUED: (Fate.QUEUED, "It waits for its turn."),
    RunStatus.RUNNING: (Fate.RUNNING, "Its rows are validated."),
    RunStatus.SUCCEEDED: (Fate.ACCEPTED, ""),
    RunStatus.FAILED: (Fate.FAILED, "{} Upload it again to have it tried once more."),
    RunStatus.CANCELED: (Fate.FAILED, "Its run was canceled: upload it again to have it tried."),
}
