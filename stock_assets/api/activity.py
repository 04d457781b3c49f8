"""What Dagster tells of runs, assets, checks, daemons and ticks, as metrics."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from stock_assets import metrics
from stock_assets.api.dagster import FETCH, INGEST, REFRESH, Dagster
from stock_assets.metrics import Facts

_JOBS = (FETCH, INGEST, REFRESH, "__ASSET_JOB")  # the last one has what is materialized by hand
_MOST = 1_000  # runs that are told of while they are queued or running
_QUEUED = {"QUEUED", "NOT_STARTED"}
_RETRIED = {"key": "dagster/will_retry", "value": "true"}
_ENDED: Mapping[str, Mapping[str, Any]] = {
    "success": {"statuses": ["SUCCESS"]},
    "failure": {"statuses": ["FAILURE"]},
    "retried": {"statuses": ["FAILURE"], "tags": [_RETRIED]},
    "canceled": {"statuses": ["CANCELED"]},
}
_COUNTS = {  # by a name for each in the query
    f"count_{number}_{status}": (job, status, {"pipelineName": job, **having})
    for number, job in enumerate(_JOBS)
    for status, having in _ENDED.items()
}
_CHECKED = {"SUCCEEDED": 0, "FAILED": 1}  # others were not made
_TICKED = ("success", "skipped", "failure")


async def read_activity(dagster: Dagster) -> Facts:
    """All of it, in one query.

    Raises:
        ProblemError: Dagster does not answer.
    """
    filters = {name: having for name, (_, _, having) in _COUNTS.items()}
    told = await dagster.ask(_QUERY, location=await dagster.location(), **filters)
    return {
        **_of_runs(told),
        **_of_assets(told["assetNodes"]),
        **_of_daemons(told["instance"]["daemonHealth"]["allDaemonStatuses"]),
        **_of_ticks(told),
    }


def _of_runs(told: Mapping[str, Any]) -> Facts:
    ended = {(job, status): told[name]["count"] for name, (job, status, _) in _COUNTS.items()}
    for job in _JOBS:  # those that are tried anew have failed, but nobody need look at them
        ended[job, "failure"] -= ended[job, "retried"]
    runs = Counter({(job, status): 0 for job in _JOBS for status in ("queued", "running")})
    waiting = []
    for run in told["active"]["results"]:
        is_queued = run["status"] in _QUEUED
        runs[run["jobName"], "queued" if is_queued else "running"] += 1
        if is_queued:
            waiting.append(run["creationTime"])
    return {
        metrics.RUNS: runs,
        metrics.RUNS_ENDED: ended,
        metrics.OLDEST_QUEUED: {(): min(waiting)} if waiting else {},
    }


def _of_assets(nodes: Iterable[Mapping[str, Any]]) -> Facts:
    at, seconds, failed = {}, {}, {}
    for node in nodes:
        asset = "/".join(node["assetKey"]["path"])
        for made in node["assetMaterializations"]:
            at[(asset,)] = float(made["timestamp"]) / 1000
            for step in made["runOrError"].get("stepStats", ()):  # none, if somebody reported it
                if step["stepKey"] == asset and step["startTime"] and step["endTime"]:
                    seconds[(asset,)] = step["endTime"] - step["startTime"]
        for check in node["assetChecksOrError"]["checks"]:
            severity = "error" if check["blocking"] else "warning"
            made = check["executionForLatestMaterialization"] or {}
            if made.get("status") in _CHECKED:
                failed[asset, check["name"], severity] = _CHECKED[made["status"]]
    return {
        metrics.MATERIALIZED: at,
        metrics.STEP_SECONDS: seconds,
        metrics.CHECK_FAILED: failed,
    }


def _of_daemons(statuses: Iterable[Mapping[str, Any]]) -> Facts:
    needed = [(status["daemonType"].lower(), status) for status in statuses if status["required"]]
    return {
        metrics.DAEMON_HEALTHY: {(name,): bool(status["healthy"]) for name, status in needed},
        metrics.DAEMON_HEARTBEAT: {
            (name,): status["lastHeartbeatTime"]
            for name, status in needed
            if status["lastHeartbeatTime"]
        },
    }


def _of_ticks(told: Mapping[str, Any]) -> Facts:
    automations = [
        *((one["name"], one["sensorState"]) for one in told["sensorsOrError"]["results"]),
        *((one["name"], one["scheduleState"]) for one in told["schedulesOrError"]["results"]),
    ]
    return {
        metrics.LAST_TICK: {
            (name, status): tick["endTimestamp"] or tick["timestamp"]
            for name, state in automations
            for status in _TICKED
            for tick in state[status]
        }
    }


_STATE = (
    "{ "
    + " ".join(
        f"{status}: ticks(limit: 1, statuses: [{status.upper()}]) {{ timestamp endTimestamp }}"
        for status in _TICKED
    )
    + " }"
)
_QUERY = f"""query ($location: RepositorySelector!, {
    ", ".join(f"${name}: RunsFilter!" for name in _COUNTS)
}) {{
    assetNodes {{ assetKey {{ path }}
        assetMaterializations(limit: 1) {{ timestamp
            runOrError {{ ... on Run {{ stepStats {{ stepKey startTime endTime }} }} }} }}
        assetChecksOrError {{ ... on AssetChecks {{ checks {{ name blocking
            executionForLatestMaterialization {{ status }} }} }} }} }}
    instance {{ daemonHealth {{ allDaemonStatuses {{
        daemonType required healthy lastHeartbeatTime }} }} }}
    sensorsOrError(repositorySelector: $location) {{ ... on Sensors {{
        results {{ name sensorState {_STATE} }} }} }}
    schedulesOrError(repositorySelector: $location) {{ ... on Schedules {{
        results {{ name scheduleState {_STATE} }} }} }}
    active: runsOrError(limit: {_MOST}, filter: {{
        statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING] }}) {{
        ... on Runs {{ results {{ jobName status creationTime }} }} }}
    {
    " ".join(
        f"{name}: runsOrError(filter: ${name}) {{ ... on Runs {{ count }} }}" for name in _COUNTS
    )
}
}}"""
