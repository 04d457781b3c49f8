"""The Dagster webserver, asked over GraphQL: it launches runs, and knows what became of them."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from stock_assets.api.answers import RunReport, RunStatus
from stock_assets.api.problems import ProblemError

if TYPE_CHECKING:
    from httpx import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")
FETCH, INGEST, REFRESH = "fetch_prices", "ingest_drop", "refresh_tickers"

_log = structlog.get_logger("stock_assets.api")
_REMEMBERED = 1_000
_MOST_PAGES = 50  # of a run's events, a thousand each
_TIMEOUT_SECONDS = 15  # to go on with an answer
_PATIENCE_SECONDS = 60  # with all of it
_MOST_BYTES = 1 << 26  # of it
_STATUS = {
    "QUEUED": RunStatus.QUEUED,
    "NOT_STARTED": RunStatus.QUEUED,
    "MANAGED": RunStatus.QUEUED,
    "STARTING": RunStatus.RUNNING,
    "STARTED": RunStatus.RUNNING,
    "CANCELING": RunStatus.RUNNING,
    "SUCCESS": RunStatus.SUCCEEDED,
    "FAILURE": RunStatus.FAILED,
    "CANCELED": RunStatus.CANCELED,
}
_MOST_CHARACTERS = 2_000  # of what it has to say
_RUN = """fragment run on Run { runId jobName status startTime endTime }"""


def _understood(asking: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Tell where an answer has another shape than ours, as that of another release may."""

    @wraps(asking)
    async def understood(*args: P.args, **options: P.kwargs) -> T:
        try:
            return await asking(*args, **options)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            _log.warning("not understood", asking=asking.__name__, error=repr(error))
            raise ProblemError(
                HTTPStatus.BAD_GATEWAY,
                "Dagster answers otherwise than expected. Is it of the version that is locked?",
            ) from error

    return understood


class Dagster:
    """The webserver at an address, and the code location that has our jobs."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.url = re.sub("//[^/]*@", "//", self._url)  # as it is told: without a password
        self._location: Mapping[str, str] | None = None
        self._reasons: dict[str, str] = {}  # why runs failed

    @cached_property
    def _client(self) -> "AsyncClient":
        """Made when there is something to ask: it takes a tenth of the service's start."""
        from httpx import AsyncClient  # noqa: PLC0415

        return AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Let go of open connections."""
        if "_client" in vars(self):
            await self._client.aclose()

    async def check(self) -> None:
        """See that it answers and has our jobs.

        Raises:
            ProblemError: It does not.
        """
        self._location = None
        await self.location()

    @_understood
    async def location(self) -> Mapping[str, str]:
        """Where our jobs are, as a selector has it; asked for once.

        Raises:
            ProblemError: Dagster does not answer, or does not have them.
        """
        if self._location is None:
            told = await self.ask(_LOCATIONS)
            nodes = told["repositoriesOrError"].get("nodes", [])
            having = [node for node in nodes if {"name": REFRESH} in node["pipelines"]]
            if not having:
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"Dagster at {self.url} has not loaded our jobs: look at its Deployment page.",
                )
            self._location = {
                "repositoryLocationName": having[0]["location"]["name"],
                "repositoryName": having[0]["name"],
            }
        return self._location

    @_understood
    async def ticker_order(self) -> tuple[list[str], int]:
        """All tickers in the order of their partition set, and how many runs are queued."""
        told = await self.ask(_PARTITIONS)
        order = list(told["assetNodeOrError"].get("partitionKeys", []))
        return order, told.get("queued", {}).get("count", 0)

    @_understood
    async def launch(self, assets: Sequence[str], tags: Mapping[str, str]) -> str:
        """Have a run of these assets launched; returns its id.

        Raises:
            ProblemError: Dagster does not answer, or refuses.
        """
        selection = [{"path": [name]} for name in assets]
        params = {
            "mode": "default",
            "runConfigData": "{}",
            "selector": {
                **await self.location(),
                "pipelineName": REFRESH,
                "assetSelection": selection,
            },
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        told = (await self.ask(_LAUNCH, params=params))["launchPipelineExecution"]
        if "run" not in told:
            self._location = None  # it may have moved
            raise ProblemError(
                HTTPStatus.BAD_GATEWAY,
                f"Dagster does not launch the run: {_cut(told.get('message', told['__typename']))}",
            )
        return str(told["run"]["runId"])

    @_understood
    async def run(self, run_id: str) -> RunReport:
        """What became of a run.

        Raises:
            ProblemError: There is none.
        """
        told = (await self.ask(_RUN_OF, id=run_id))["runOrError"]
        if "runId" not in told:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                f"No run {run_id}. The answer to a training tells the ids of its runs.",
            )
        return await self._report(told)

    @_understood
    async def last_run(self, job: str, tags: Mapping[str, str] | None = None) -> RunReport | None:
        """The newest run of a job that has these tags."""
        having = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        told = await self.ask(_RUNS, filter={"pipelineName": job, "tags": having})
        results = told["runsOrError"].get("results", [])
        return await self._report(results[0]) if results else None

    async def _report(self, run: Mapping[str, Any]) -> RunReport:
        status = _STATUS[run["status"]]
        why = await self._why(run["runId"]) if status == RunStatus.FAILED else ""
        return RunReport(
            run=run["runId"],
            job=run["jobName"],
            status=status,
            detail=why,
            started_at=_moment(run["startTime"]),
            ended_at=_moment(run["endTime"]),
        )

    async def _why(self, run_id: str) -> str:
        """What the step that failed has to say, or the run if none did; remembered."""
        if run_id not in self._reasons:
            if len(self._reasons) >= _REMEMBERED:
                self._reasons.clear()
            self._reasons[run_id] = _cut(await self._read_why(run_id))
        return self._reasons[run_id]

    async def _read_why(self, run_id: str) -> str:
        why, cursor = "It failed; Dagster's page of the run tells more.", None
        for _ in range(_MOST_PAGES):
            told = (await self.ask(_EVENTS, id=run_id, cursor=cursor))["logsForRun"]
            for event in told.get("events", []):
                if event["__typename"] == "ExecutionStepFailureEvent" and _sentence(event):
                    return _sentence(event)
                if event["__typename"] == "RunFailureEvent":
                    why = event["message"]
            if not told.get("hasMore"):
                break
            cursor = told["cursor"]
        return why

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of the answer.

        Raises:
            ProblemError: There is none.
        """
        from httpx import HTTPError, InvalidURL  # noqa: PLC0415

        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                told = json.loads(await self._read({"query": query, "variables": variables}))
        except (HTTPError, InvalidURL, TimeoutError, ValueError) as error:
            raise self._silent(type(error).__name__) from error
        match told:
            case {"errors": [{"message": said}, *_]}:
                raise ProblemError(HTTPStatus.BAD_GATEWAY, f"Dagster says: {_cut(said)}")
            case {"data": dict(data)}:
                return data
        raise self._silent("what does is no GraphQL")  # somebody else's address

    async def _read(self, question: Mapping[str, Any]) -> bytes:
        """The answer, which is not read without end."""
        told = bytearray()
        async with self._client.stream("POST", f"{self._url}/graphql", json=question) as answer:
            async for block in answer.aiter_bytes():
                told += block
                if len(told) > _MOST_BYTES:
                    raise ValueError("It has no end.")
        return bytes(told)

    def _silent(self, why: str) -> ProblemError:
        return ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"Dagster at {self.url} does not answer ({why}). Is its webserver up, and is "
            "STOCK_ASSETS_DAGSTER_URL its address?",
        )


def _sentence(event: Mapping[str, Any]) -> str:
    said = (event.get("failureMetadata") or {}).get("description")
    error = event.get("error") or {}
    return str(said or (error.get("cause") or error).get("message") or "").strip()


def _cut(said: object) -> str:
    return str(said)[:_MOST_CHARACTERS]


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


_LOCATIONS = """{ repositoriesOrError { ... on RepositoryConnection {
    nodes { name location { name } pipelines { name } } } } }"""
_PARTITIONS = """{ assetNodeOrError(assetKey: {path: ["price_features"]}) {
    ... on AssetNode { partitionKeys } }
    queued: runsOrError(filter: {statuses: [QUEUED, NOT_STARTED]}) { ... on Runs { count } } }"""
_LAUNCH = """mutation ($params: ExecutionParams!) {
    launchPipelineExecution(executionParams: $params) { __typename
        ... on LaunchRunSuccess { run { runId } }
        ... on Error { message } } }"""
_RUN_OF = f"""query ($id: ID!) {{ runOrError(runId: $id) {{ ...run }} }} {_RUN}"""
_RUNS = f"""query ($filter: RunsFilter!) {{ runsOrError(filter: $filter, limit: 1) {{
    ... on Runs {{ results {{ ...run }} }} }} }} {_RUN}"""
_EVENTS = """query ($id: ID!, $cursor: String) { logsForRun(runId: $id, afterCursor: $cursor) {
    ... on EventConnection { hasMore cursor events { __typename
    ... on RunFailureEvent { message }
    ... on ExecutionStepFailureEvent {
        failureMetadata { description } error { message cause { message } } } } } } }"""
