"""Runs as Kubernetes Jobs: the real launcher, daemons, Postgres; the cluster is tests.kubernetes.

The instance is what the chart makes of our values, but for where cluster and database are.
"""

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.monitoring import run_monitoring
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._grpc.client import DagsterGrpcClient
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster_graphql.test.utils import execute_dagster_graphql

from stock_assets.api.dagster import _LAUNCH
from stock_assets.database import Database
from stock_assets.ranges import of_tickers, range_tags
from stock_assets.sessions import EXCHANGE_TIME
from tests.browser import free_port
from tests.charts import (
    PLATFORM,
    RELEASE,
    Objects,
    merged,
    official_chart,
    our_manifests,
    rendered,
    values,
)
from tests.commands import wait_until
from tests.conftest import as_csv, empty_database, make_prices
from tests.kubernetes import Cluster, Node, Object, serving
from tests.pod_security import violations
from tests.test_database import take

VALUES = values(*PLATFORM)
OURS = our_manifests(VALUES)
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
DAEMON = VALUES["dagsterDaemon"]
LIMITS = VALUES["concurrency"]["runs"]
(SERVER,) = VALUES["dagsterWebserver"]["workspace"]["servers"]
CODE = OURS.one("Deployment", SERVER["host"])["spec"]["template"]["spec"]
SETTINGS = OURS.one("ConfigMap", "stock-assets")["data"]
HEAVY = VALUES["stockAssets"]["heavyMemory"]
SECRET = VALUES["global"]["postgresqlSecretName"]
IMAGE = CODE["containers"][0]["image"]
NAMESPACE = RELEASE
DAGSTER_HOME = "/opt/dagster/dagster_home"
PASSWORD = "never-to-be-seen"  # noqa: S105
TICKERS, STRANGER = ["AAPL", "IBM", "MSFT"], "NONE"  # the latter has no prices
FORECASTING = of_tickers(train=False)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's own

LOG = logging.getLogger(__name__)
Status = dg.DagsterRunStatus

_BACKFILL = """mutation ($params: LaunchBackfillParams!) {
    launchPartitionBackfill(backfillParams: $params) { __typename
        ... on LaunchBackfillSuccess { backfillId } } }"""
_TERMINATE = """mutation ($run: String!, $policy: TerminateRunPolicy) {
    terminateRun(runId: $run, terminatePolicy: $policy) { __typename } }"""


def snaked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the names that dagster.yaml has for them."""
    return {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value
        for key, value in values.items()
    }


def names(sources: Iterable[Mapping[str, str]]) -> list[str]:
    """The names of Secrets or ConfigMaps."""
    return [source["name"] for source in sources]


def dagster_yaml(kubeconfig: Path) -> Object:
    """What the chart writes into dagster.yaml, but for addresses."""
    in_postgres = {"config": {"postgres_url": {"env": "STOCK_ASSETS_DATABASE_URL"}}}
    launcher = snaked(LAUNCHER) | {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
        "job_namespace": NAMESPACE,
        "service_account_name": f"{NAMESPACE}-dagster",
        "dagster_home": DAGSTER_HOME,
        "instance_config_map": f"{NAMESPACE}-dagster-instance",
        "postgres_password_secret": SECRET,
        "env_config_maps": names(LAUNCHER["envConfigMaps"]),
        "env_secrets": names(LAUNCHER["envSecrets"]),
        "run_k8s_config": snaked(LAUNCHER["runK8sConfig"]),
    }
    queue = snaked(DAEMON["runCoordinator"]["config"]["queuedRunCoordinator"])
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "run_storage": {"module": "dagster_postgres", "class": "PostgresRunStorage"} | in_postgres,
        "schedule_storage": {"module": "dagster_postgres", "class": "PostgresScheduleStorage"}
        | in_postgres,
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": queue,
        },
        "concurrency": {"runs": snaked(LIMITS)},
        "run_monitoring": {"enabled": True} | snaked(DAEMON["runMonitoring"]),
        "run_retries": {"enabled": True} | snaked(DAEMON["runRetries"]),
        "telemetry": VALUES["telemetry"],
        **VALUES["additionalInstanceConfig"],
    }


@dataclass
class Platform:
    """What is installed: the cluster, Dagster's daemon and webserver, the prediction database."""

    cluster: Cluster
    workspace: WorkspaceProcessContext
    database: Database

    @property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's records."""
        return self.workspace.instance

    def ask(self, query: str, **variables: Any) -> Any:
        """What the webserver answers."""
        with self.workspace.create_request_context() as request:
            return execute_dagster_graphql(request, query, variables).data

    def launch(self, assets: Sequence[str], chunk: Sequence[str] = TICKERS) -> str:
        """Have a run over a range asked for, as the page does, and launched; returns its id."""
        tags = [{"key": key, "value": value} for key, value in range_tags(chunk).items()]
        params = {
            "mode": "default",
            "runConfigData": "{}",
            "selector": {
                "repositoryLocationName": SERVER["name"],
                "repositoryName": "__repository__",
                "pipelineName": "refresh_tickers",
                "assetSelection": [{"path": [name]} for name in assets],
            },
            "executionMetadata": {"tags": tags},
        }
        run = self.ask(_LAUNCH, params=params)["launchPipelineExecution"]["run"]["runId"]
        self.dequeue()
        return str(run)

    def job(self, run: str) -> Object:
        """The Job of a run."""
        return deepcopy(self.cluster.objects["Job", job_of(run)])

    def run(self, run: str) -> dg.DagsterRun:
        """What is recorded of a run."""
        found = self.instance.get_run_by_id(run)
        assert found
        return found

    def why(self, run: str) -> str:
        """What is said of its failure."""
        (entry,) = self.instance.all_logs(run, of_type=dg.DagsterEventType.RUN_FAILURE)
        return str(entry.get_dagster_event().message)

    def retries(self, run: str) -> list[dg.DagsterRun]:
        """The runs that the daemon launches for one that was lost, in its turn."""
        assert not any(EventLogConsumerDaemon().run_iteration(self.workspace))
        self.dequeue()
        return [one for one in self.instance.get_runs() if one.parent_run_id == run]

    def dequeue(self) -> None:
        """Launch what waits, as far as there is room: the daemon's turn."""
        with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
            assert not any(daemon.run_iteration(self.workspace))

    def monitor(self) -> None:
        """Look after runs: the daemon's turn."""
        assert not any(run_monitoring.execute_run_monitoring_iteration(self.workspace, LOG))

    @contextmanager
    def at_work(self, *runs: str) -> Iterator[None]:
        """Their pods have begun, and wait for prices that are not to be read meanwhile."""
        with self.database.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE prices IN ACCESS EXCLUSIVE MODE"))
            for run in runs:
                self.cluster.start(job_of(run))
            for run in runs:
                wait_until("begun run", partial(self.has_begun, run), seconds=120)
            yield

    @contextmanager
    def no_database(self) -> Iterator[None]:
        """A time in which pods are told of a database where there is none."""
        config = self.cluster.node.config
        nowhere = {"STOCK_ASSETS_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(config, "stock-assets", {**config["stock-assets"], **nowhere})
            yield

    def has_begun(self, run: str) -> bool:
        """Whether it is at work."""
        return self.run(run).status is Status.STARTED


def job_of(run: str) -> str:
    """The name of a run's Job."""
    return f"dagster-run-{run}"


@contextmanager
def code_server(node: Node) -> Iterator[int]:
    """The code server as it is deployed: its port."""
    port = free_port()
    (container,) = deepcopy(CODE["containers"])
    container["args"] = [
        {"0.0.0.0": "127.0.0.1", str(SERVER["port"]): str(port)}.get(word, word)  # noqa: S104
        for word in container["args"]
    ]
    container["env"] += [{"name": "DAGSTER_HOME", "value": DAGSTER_HOME}]  # as in the image
    client = DagsterGrpcClient(port=port, host="127.0.0.1")

    def is_up() -> bool:
        try:
            client.ping("")
        except DagsterUserCodeUnreachableError:
            return False
        return True

    with node.begin("code", container) as process:
        try:
            wait_until("code server", is_up, seconds=60)
            yield port
        finally:
            process.kill()  # it holds nothing, and told to end it may take forever


@contextmanager
def csv_host(folder: Path) -> Iterator[str]:
    """The address of a CSV that somebody serves."""
    folder.mkdir()
    (folder / "prices.csv").write_bytes(as_csv(make_prices("FETCHED")))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/prices.csv"
        server.shutdown()


@pytest.fixture(scope="module")
def platform(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform as it is installed, with prices; a pod runs when a test has it run."""
    folder = tmp_path_factory.mktemp("cluster")
    url = empty_database(postgres_url, "on_kubernetes")
    cluster = Cluster(Node(folder))
    told = SETTINGS | {
        "STOCK_ASSETS_DATABASE_URL": url,
        "STOCK_ASSETS_MODELS": "ridge",  # nothing to compile
        "STOCK_ASSETS_UNIVERSE": "FETCHED:Energy",
    }
    cluster.node.config = {
        "stock-assets": told,
        SECRET: {"PGPASSWORD": PASSWORD, "postgresql-password": PASSWORD},
    }
    database = Database(url)
    take(database, *[make_prices(ticker) for ticker in TICKERS])
    (folder / "dagster.yaml").write_text(yaml.safe_dump(dagster_yaml(folder / "kubeconfig")))
    with ExitStack() as stack:
        told["STOCK_ASSETS_PROVIDER"] = stack.enter_context(csv_host(folder / "host"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("STOCK_ASSETS_DATABASE_URL", "DAGSTER_EVENT_BATCH_SIZE"):
            patch.setenv(name, cluster.node.config["stock-assets"][name])
        stack.callback(database.engine.dispose)
        stack.enter_context(serving(cluster))
        port = stack.enter_context(code_server(cluster.node))
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(folder)))
        target = GrpcServerTarget(
            host="127.0.0.1", port=port, socket=None, location_name=SERVER["name"]
        )
        workspace = stack.enter_context(WorkspaceProcessContext(instance, target))
        platform = Platform(cluster, workspace, database)
        instance.add_dynamic_partitions("tickers", [*TICKERS, STRANGER])
        platform.retries("")  # from here on
        yield platform


@pytest.fixture(scope="module")
def asked(platform: Platform) -> str:
    """The run that the sensor asks for when prices have come, launched."""
    assert not any(execute_sensor_iteration(platform.workspace, LOG, None, None))
    platform.dequeue()
    of_it = dg.RunsFilter(tags={"dagster/sensor_name": "refresh_sensor"})
    (run,) = platform.instance.get_runs(of_it)
    return run.run_id


@pytest.fixture(scope="module")
def trained(platform: Platform, asked: str) -> str:
    """That run, when its pod has ended."""
    platform.cluster.start(job_of(asked))
    platform.cluster.end(job_of(asked))
    return asked


def test_the_chart_writes_the_same_dagster_yaml(tmp_path: Path) -> None:
    chart = official_chart("dagster", tmp_path)
    objects = Objects(rendered(chart, VALUES, release=NAMESPACE))
    config = objects.one("ConfigMap", f"{NAMESPACE}-dagster-instance")
    written = yaml.safe_load(config["data"]["dagster.yaml"])
    ours = dagster_yaml(Path())
    of_tests = {"load_incluster_config": False, "kubeconfig_file": "."}
    assert ours["run_launcher"]["config"] == written["run_launcher"]["config"] | of_tests
    for name in ("run_launcher", "run_storage", "schedule_storage"):
        del ours[name]
    assert merged(written, ours) == written


def test_a_run_is_the_job_that_the_values_tell(platform: Platform, asked: str) -> None:
    job = platform.job(asked)
    assert LAUNCHER["labels"]
    labels = LAUNCHER["labels"] | {
        "dagster/job": "refresh_tickers",
        "dagster/run-id": asked,
        "dagster/code-location": SERVER["name"],
    }
    spec = dict(job["spec"])
    template = spec.pop("template")
    (container,) = template["spec"].pop("containers")
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == (job_of(asked), NAMESPACE)
    assert labels.items() <= job["metadata"]["labels"].items()
    assert labels.items() <= template["metadata"]["labels"].items()
    assert spec == {
        "backoffLimit": 0,
        "activeDeadlineSeconds": 11400,
        "ttlSecondsAfterFinished": 3600,
    }
    assert template["spec"] == {
        "restartPolicy": "Never",
        "serviceAccountName": f"{NAMESPACE}-dagster",
        "automountServiceAccountToken": False,
        "securityContext": CODE["securityContext"],
        "volumes": CODE["volumes"],
        "imagePullSecrets": [],
    }
    command, *arguments = container.pop("args")
    assert (command, arguments[:2]) == ("dagster", ["api", "execute_run"])
    assert json.loads(arguments[2])["pipeline_run_id"] == asked
    assert container == {
        "name": "dagster",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": container["resources"],
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "data", "mountPath": "/data"},
        ],
        "envFrom": [
            {"configMapRef": {"name": "stock-assets"}},
            {"secretRef": {"name": SECRET}},
            {"secretRef": {"name": "stock-assets-bucket", "optional": True}},
            {"secretRef": {"name": "stock-assets-provider", "optional": True}},
        ],
        "env": [
            {"name": "DAGSTER_RUN_JOB_NAME", "value": "refresh_tickers"},
            {"name": "DAGSTER_HOME", "value": DAGSTER_HOME},
            {
                "name": "DAGSTER_PG_PASSWORD",
                "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "postgresql-password"}},
            },
        ],
    }


def test_a_restricted_namespace_takes_its_pod(platform: Platform, asked: str) -> None:
    assert list(violations(platform.job(asked)["spec"]["template"])) == []


def test_no_job_tells_a_secret(platform: Platform, asked: str) -> None:
    told = json.dumps(platform.job(asked))
    assert PASSWORD not in told
    assert platform.database.url.render_as_string() not in told


def test_a_heavy_run_has_more_memory(platform: Platform, asked: str) -> None:
    light = platform.launch(FORECASTING)
    (of_light,), (of_heavy,) = (
        platform.job(run)["spec"]["template"]["spec"]["containers"] for run in (light, asked)
    )
    platform.instance.report_run_canceled(platform.run(light))
    assert of_light["resources"] == LAUNCHER["resources"]
    memory = {"memory": HEAVY}
    assert of_heavy["resources"] == {
        kind: LAUNCHER["resources"][kind] | memory for kind in ("requests", "limits")
    }


def test_a_pod_forecasts_its_range_in_one_process(platform: Platform, trained: str) -> None:
    assert platform.run(trained).status is Status.SUCCESS
    assert platform.job(trained)["status"]["succeeded"] == 1
    shown = platform.database.champion_forecasts(TICKERS)
    assert shown.groupby("ticker").size().to_dict() == dict.fromkeys(TICKERS, 10)
    events = platform.instance.all_logs(trained, of_type=dg.DagsterEventType.STEP_SUCCESS)
    steps = {event.step_key for event in events}
    assert steps >= {"market_model", *of_tickers(train=True)}
    assert len({event.get_dagster_event().pid for event in events}) == 1


def test_prices_are_fetched_by_a_pod_that_the_schedule_asks_for(platform: Platform) -> None:
    times: dict[str, Any] = {}
    now = datetime.now(UTC)
    for moment in (now, next_evening(now)):
        assert not any(launch_scheduled_runs(platform.workspace, LOG, moment, times))
    platform.dequeue()
    of_it = dg.RunsFilter(tags={"dagster/schedule_name": "nightly_fetch"})
    (run,) = platform.instance.get_runs(of_it)
    platform.cluster.start(job_of(run.run_id))
    platform.cluster.end(job_of(run.run_id))
    assert platform.run(run.run_id).status is Status.SUCCESS
    (dropped,) = (platform.cluster.node.volume("data") / "drops").glob("127.0.0.1-*-FETCHED-*.csv")
    assert dropped.read_bytes() == as_csv(make_prices("FETCHED").assign(sector="Technology"))


def next_evening(moment: datetime) -> datetime:
    """Some minutes after the schedule's time on the next day that it has."""
    evening = moment.astimezone(ZoneInfo(EXCHANGE_TIME)).replace(hour=18, minute=10)
    while evening <= moment or evening.weekday() > 4:
        evening += timedelta(days=1)
    return evening.astimezone(UTC)


@pytest.fixture(scope="module")
def ended(platform: Platform, trained: str) -> dict[str, str]:  # noqa: ARG001  there are models
    """Runs whose pods were at work together, by what became of them."""
    fates = ("canceled", "killed", "lost", "drained")
    runs = {fate: platform.launch(FORECASTING) for fate in fates}
    runs["failed"] = platform.launch(FORECASTING, [STRANGER])
    more = {fate: platform.launch(FORECASTING) for fate in ("late", "crashed")}
    platform.ask(_TERMINATE, run=more["late"], policy="MARK_AS_CANCELED_IMMEDIATELY")
    platform.cluster.start(job_of(more["late"]))
    with platform.no_database():
        platform.cluster.start(job_of(more["crashed"]))
    with platform.at_work(*runs.values()):
        told = platform.ask(_TERMINATE, run=runs["canceled"], policy="SAFE_TERMINATE")
        assert told["terminateRun"]["__typename"] == "TerminateRunSuccess"
        platform.cluster.kill(job_of(runs["killed"]), reason="OOMKilled")
        platform.cluster.lose(job_of(runs["lost"]))
        platform.cluster.evict(job_of(runs["drained"]))
    runs |= more
    for run in runs.values():
        platform.cluster.end(job_of(run))
    platform.monitor()
    return runs


def test_what_an_asset_raises_fails_the_job_and_is_not_tried_again(
    platform: Platform, ended: dict[str, str]
) -> None:
    run = ended["failed"]
    assert platform.run(run).status is Status.FAILURE
    (condition,) = platform.job(run)["status"]["conditions"]
    assert condition["type"] == "Failed"
    assert platform.retries(run) == []


def test_a_canceled_run_ends_with_its_job(platform: Platform, ended: dict[str, str]) -> None:
    run = ended["canceled"]
    assert platform.run(run).status is Status.CANCELED
    assert not [name for _, name in platform.cluster.objects if job_of(run) in name]
    assert platform.retries(run) == []


def test_a_pod_that_begins_after_its_run_was_canceled_does_nothing(
    platform: Platform, ended: dict[str, str]
) -> None:
    run = ended["late"]
    assert platform.run(run).status is Status.CANCELED
    assert not platform.instance.all_logs(run, of_type=dg.DagsterEventType.STEP_START)


@pytest.mark.parametrize(
    ("fate", "told"),
    [
        ("killed", "Terminated with exit code 137: OOMKilled"),
        ("lost", "BackoffLimitExceeded: Job has reached the specified backoff limit"),
        ("drained", "Execution was interrupted unexpectedly"),
    ],
)
def test_a_run_that_lost_its_pod_fails_and_is_tried_again(
    platform: Platform, ended: dict[str, str], fate: str, told: str
) -> None:
    assert platform.run(ended[fate]).status is Status.FAILURE
    assert told in platform.why(ended[fate])
    (again,) = platform.retries(ended[fate])
    assert again.tags["dagster/retry_number"] == "1"
    assert platform.job(again.run_id)["status"]["active"] == 1


def test_the_second_pod_does_what_the_first_did_not(
    platform: Platform, ended: dict[str, str]
) -> None:
    (again,) = platform.retries(ended["killed"])
    platform.cluster.start(job_of(again.run_id))
    platform.cluster.end(job_of(again.run_id))
    assert platform.run(again.run_id).status is Status.SUCCESS


def test_a_pod_that_does_not_begin_is_told_of_and_tried_again(
    platform: Platform, ended: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        ended["crashed"]: 'connection to server at "127.0.0.1", port 1 failed',
        platform.launch(FORECASTING): "Pod status: Pending",  # no node has room
    }
    monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: time.time() + 601)
    platform.monitor()
    for run, why in told.items():
        assert platform.run(run).status is Status.FAILURE
        assert "longer than 600 seconds to start" in platform.why(run)
        assert why in platform.why(run)
        assert len(platform.retries(run)) == 1


def test_a_backfill_becomes_pods_of_so_many_tickers_so_many_at_once(platform: Platform) -> None:
    for run in platform.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        platform.instance.report_run_canceled(run)  # there is room for all pods
    (limit,) = LIMITS["tagConcurrencyLimits"]
    most = int(SETTINGS["STOCK_ASSETS_MAX_TICKERS_PER_RUN"])
    market = [f"T{number:04}" for number in range(most * (limit["limit"] + 2))]
    platform.instance.add_dynamic_partitions("tickers", market)
    params = {
        "assetSelection": [{"path": ["price_features"]}],
        "partitionNames": market,
        "fromFailure": False,
        "tags": [],
    }
    told = platform.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
    assert not any(execute_backfill_iteration(platform.workspace, LOG))
    of_it = dg.RunsFilter(tags={"dagster/backfill": told["backfillId"]})
    runs = platform.instance.get_runs(of_it)
    edges = [
        (
            run.tags["dagster/asset_partition_range_start"],
            run.tags["dagster/asset_partition_range_end"],
        )
        for run in runs
    ]
    assert sorted(edges) == list(zip(market[::most], market[most - 1 :: most], strict=True))

    def pods() -> list[dg.DagsterRun]:
        platform.dequeue()
        return [run for run in runs if ("Job", job_of(run.run_id)) in platform.cluster.objects]

    launched = pods()
    assert len(launched) == limit["limit"]
    assert pods() == launched
    platform.instance.report_run_canceled(launched[0])
    assert len(pods()) == limit["limit"] + 1
