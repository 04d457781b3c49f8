"""The values for the official charts: Helm and Kubernetes take them, and all of it fits."""

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import helm_python
import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from stock_assets import __version__
from stock_assets.api.app import create_app
from stock_assets.cli import app
from stock_assets.defs.event_log import PostgresEvents
from stock_assets.settings import Settings
from tests.charts import (
    ADDRESSES,
    PLATFORM,
    RELEASE,
    Object,
    Objects,
    check,
    containers,
    custom_kinds,
    merged,
    official_chart,
    our_manifests,
    rendered,
    values,
)
from tests.conftest import ROOT
from tests.pod_security import violations

BUCKET = "stockAssets.files=s3://bucket/prefix"
CASES = {
    "many nodes": values(*PLATFORM),
    "one node": values(*PLATFORM, "helm-values/local.yaml"),
    "bucket": values(*PLATFORM, sets=BUCKET),
}
IMAGE = f"stock-assets:{__version__}"
GIVEN = {"stock-assets-database", "stock-assets-api"}  # secrets that the README makes
OPTIONAL = {"stock-assets-bucket", "stock-assets-provider"}
CODE, API = f"Deployment {RELEASE}-code", f"Deployment {RELEASE}-api"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("charts")


@pytest.fixture(scope="module")
def dagster_chart(folder: Path) -> Path:
    return official_chart("dagster", folder)


@pytest.fixture(scope="module")
def monitoring_chart(folder: Path) -> Path:
    return official_chart("kube-prometheus-stack", folder)


@pytest.fixture(scope="module", params=CASES)
def given(request: pytest.FixtureRequest) -> Object:
    """Our values, for many nodes and for one, with a volume and with a bucket."""
    return deepcopy(CASES[request.param])


@pytest.fixture(scope="module")
def on_volume(given: Object) -> bool:
    """Whether files lie on a volume."""
    return bool(given["stockAssets"]["files"] == "/data")


@pytest.fixture(scope="module")
def platform(given: Object, dagster_chart: Path) -> Objects:
    """What is installed."""
    return Objects(rendered(dagster_chart, given, release=RELEASE))


@pytest.fixture(scope="module")
def monitoring(monitoring_chart: Path) -> Objects:
    """Prometheus and Grafana beside it."""
    given = values("helm-values/prometheus.yaml", "dashboards/alerts.yaml")
    return Objects(rendered(monitoring_chart, given, release="monitoring"))


def ours(platform: Objects) -> list[tuple[str, Object, Object]]:
    """The pods of our image: what makes them, their spec, and their one container."""
    found = [
        (name, pod, container)
        for name, pod in platform.pods()
        for container in pod["containers"]
        if container["image"] == IMAGE
    ]
    assert len(found) == 5  # webserver, daemon, code server, migration, service
    return found


# Kubernetes


def test_kubernetes_takes_every_object(platform: Objects) -> None:
    for found in platform:
        check(found, {})


def test_kubernetes_takes_every_object_of_monitoring(
    monitoring: Objects, monitoring_chart: Path
) -> None:
    kinds = custom_kinds(monitoring_chart)
    assert {"PrometheusRule", "ServiceMonitor"} <= {kind for _, kind in kinds}
    for found in monitoring:
        check(found, kinds)


def test_nobody_is_root_or_writes_into_the_image(platform: Objects) -> None:
    for name, pod, container in ours(platform):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        assert {"name": "tmp", "emptyDir": {}} in pod["volumes"], name
        for each in containers(pod):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
        assert container["resources"]["requests"], name
        assert container["resources"]["limits"]["memory"], name


def test_the_manifests_are_those_that_need_no_chart(given: Object, platform: Objects) -> None:
    ours = our_manifests(given)
    assert len(ours) > 20
    assert [found for found in platform if found in ours] == list(ours)


def test_whatever_is_named_is_there(platform: Objects) -> None:
    maps = {found["metadata"]["name"] for found in platform.of("ConfigMap")}
    claims = {found["metadata"]["name"] for found in platform.of("PersistentVolumeClaim")}
    for name, pod in platform.pods():
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims, name
            assert volume.get("configMap", {"name": "stock-assets"})["name"] in maps, name
        for container in containers(pod):
            for source in container.get("envFrom", []):
                if found := source.get("configMapRef"):
                    assert found["name"] in maps, name


def test_every_volume_is_mounted_and_every_mount_has_its_volume(platform: Objects) -> None:
    for name, pod, container in ours(platform):
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name


# Passwords


def secrets(pod: Object, *, optional: bool = False) -> Iterator[str]:
    """Names of the secrets that a pod cannot do without, or can."""
    for container in containers(pod):
        for source in container.get("envFrom", []):
            if (found := source.get("secretRef")) and found.get("optional", False) == optional:
                yield found["name"]
        for variable in container.get("env", []):
            if not optional and (found := variable.get("valueFrom", {}).get("secretKeyRef")):
                yield found["name"]


def texts(found: Any) -> Iterator[tuple[str, str]]:
    """Every text in an object, with what it is the text of."""
    match found:
        case {"name": str(name), "value": str(text)}:
            yield name, text
        case Mapping():
            for key, part in found.items():
                if isinstance(part, str):
                    yield key, part
                yield from texts(part)
        case list():
            for part in found:
                yield from texts(part)


def test_no_password_is_written_anywhere(platform: Objects, monitoring: Objects) -> None:
    for found in platform + monitoring:
        for name, text in texts(found):
            where = f"{found['kind']} {found['metadata']['name']}: {name}"
            assert not re.search(r"://[^/\s:@]+:[^/\s@$]+@", text), where
            if re.search(r"password$|secret$|token$", name, re.IGNORECASE):
                assert not text or text.startswith("$"), where


def test_no_secret_is_made_of_values(platform: Objects, monitoring: Objects) -> None:
    assert platform.of("Secret") == []
    keys = {key for secret in monitoring.of("Secret") for key in secret.get("data", {})}
    assert not {key for key in keys if "password" in key or "user" in key}


def test_secrets_are_those_that_the_readme_makes(platform: Objects, monitoring: Objects) -> None:
    told = (ROOT / "helm-values" / "README.md").read_text()
    made = set(re.findall(r"create secret generic ([\w-]+)", told))
    assert {name for _, pod in platform.pods() for name in secrets(pod)} == GIVEN
    of_grafana = {name for _, pod in monitoring.pods() for name in secrets(pod)}
    (of_prometheus,) = {
        endpoint["authorization"]["credentials"]["name"]
        for endpoint in monitoring.one("ServiceMonitor", RELEASE)["spec"]["endpoints"]
    }
    assert {*GIVEN, *OPTIONAL, *of_grafana, of_prometheus} == made


def test_who_works_on_files_and_fetches_prices_has_what_secrets_there_are(
    platform: Objects,
) -> None:
    having = {name: set(secrets(pod, optional=True)) for name, pod in platform.pods()}
    assert {name: found for name, found in having.items() if found} == {
        CODE: OPTIONAL,
        API: {"stock-assets-bucket"},
    }
    launcher = yaml.safe_load(instance_config(platform))["run_launcher"]["config"]
    assert launcher["run_k8s_config"]["container_config"] == {
        "envFrom": [{"secretRef": {"name": name, "optional": True}} for name in sorted(OPTIONAL)]
    }


# Dagster


def instance_config(objects: Objects) -> str:
    found = objects.one("ConfigMap", f"{RELEASE}-dagster-instance")
    return str(found["data"]["dagster.yaml"])


@pytest.fixture
def instance(
    given: Object,
    dagster_chart: Path,
    postgres_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as the pods have it, on a database of this machine."""
    url = sa.make_url(postgres_database)
    database = {
        "enabled": False,
        "postgresqlHost": "localhost",
        "postgresqlUsername": url.username,
        "postgresqlDatabase": url.database,
        "postgresqlParams": dict(url.query),  # the socket's folder
    }
    there = given | {"postgresql": given["postgresql"] | database}
    objects = Objects(rendered(dagster_chart, there, release=RELEASE))
    (tmp_path / "dagster.yaml").write_text(instance_config(objects))
    monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", postgres_database)
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", url.password or "none")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_events_are_logged_in_batches(instance: dg.DagsterInstance, platform: Objects) -> None:
    assert isinstance(instance.event_log_storage, PostgresEvents)
    assert told_to_all(platform)["DAGSTER_EVENT_BATCH_SIZE"] == "1000"


def test_only_lost_workers_are_tried_anew(instance: dg.DagsterInstance) -> None:
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_runs_are_watched(instance: dg.DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == 3 * 3600
    assert instance.run_monitoring_max_resume_run_attempts == 0
    assert instance.run_monitoring_poll_interval_seconds <= 30


def test_a_backfill_leaves_places_in_the_queue(instance: dg.DagsterInstance) -> None:
    limits = instance.get_concurrency_config().run_queue_config
    assert limits is not None
    (of_backfills,) = limits.tag_concurrency_limits
    assert of_backfills["key"] == "dagster/backfill"
    assert 0 < of_backfills["limit"] < limits.max_concurrent_runs <= 10


def test_a_run_is_a_job_of_which_enough_is_said(platform: Objects) -> None:
    told = yaml.safe_load(instance_config(platform))["run_launcher"]
    launcher = told["config"]
    assert (told["module"], told["class"]) == ("dagster_k8s", "K8sRunLauncher")
    assert "job_image" not in launcher  # it is that of the code
    assert launcher["job_namespace"] == RELEASE
    assert launcher["env_config_maps"] == ["stock-assets"]
    assert launcher["env_secrets"] == ["stock-assets-database"]
    assert launcher["fail_pod_on_run_failure"]
    assert launcher["resources"].keys() == {"requests", "limits"}
    assert launcher["resources"]["limits"].keys() == {"cpu", "memory"}
    pod = launcher["run_k8s_config"]["pod_spec_config"]
    assert not pod["automountServiceAccountToken"]
    of_service = platform.one("Deployment", "stock-assets-api")["spec"]["template"]["spec"]
    assert pod["securityContext"] == of_service["securityContext"]
    assert launcher["security_context"] == of_service["containers"][0]["securityContext"]
    context = json.loads(variables_of_code(platform).get(CONTEXT, '{"k8s": {}}'))["k8s"]
    volumes = [*launcher["volumes"], *context.get("volumes", [])]
    mounts = [*launcher["volume_mounts"], *context.get("volume_mounts", [])]
    assert volumes == of_service["volumes"]
    assert mounts == of_service["containers"][0]["volumeMounts"]


def test_a_run_is_told_why_it_ends_before_its_job_does(platform: Objects) -> None:
    told = yaml.safe_load(instance_config(platform))
    job = told["run_launcher"]["config"]["run_k8s_config"]["job_spec_config"]
    assert told["run_monitoring"]["max_runtime_seconds"] < job["activeDeadlineSeconds"]
    assert job["ttlSecondsAfterFinished"] == 3600


CONTEXT = "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"


def variables_of_code(platform: Objects) -> dict[str, str]:
    """What the code server is told beside the settings."""
    (container,) = (c for name, _, c in ours(platform) if name == CODE)
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_the_code_server_is_where_dagster_looks_for_it(platform: Objects) -> None:
    found = platform.one("ConfigMap", f"{RELEASE}-dagster-workspace-yaml")
    (server,) = yaml.safe_load(found["data"]["workspace.yaml"])["load_from"]
    (container,) = (c for name, _, c in ours(platform) if name == CODE)
    service = platform.one("Service", server["grpc_server"]["host"])["spec"]
    pod = platform.one("Deployment", "stock-assets-code")["spec"]["template"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert container["args"] == [
        *("dagster", "api", "grpc", "--host", "0.0.0.0", "--port"),  # noqa: S104
        *(str(server["grpc_server"]["port"]), "--module-name", "stock_assets.definitions"),
    ]
    assert service["ports"][0]["port"] == server["grpc_server"]["port"]
    assert variables_of_code(platform)["DAGSTER_CURRENT_IMAGE"] == IMAGE


# Files


def test_files_lie_where_one_value_says(
    platform: Objects, given: Object, *, on_volume: bool
) -> None:
    told = told_to_all(platform)
    assert told["STOCK_ASSETS_FILES"] == given["stockAssets"]["files"]
    assert told["NUMBA_CACHE_DIR"] == ("/data/numba" if on_volume else "/tmp")  # noqa: S108
    assert len(platform.of("PersistentVolumeClaim")) == on_volume
    holding = {
        name
        for name, pod in platform.pods()
        if any("persistentVolumeClaim" in volume for volume in pod["volumes"])
    }
    assert holding == ({CODE, API} if on_volume else set())
    assert ("claimName" in variables_of_code(platform).get(CONTEXT, "")) == on_volume
    assert "claimName" not in instance_config(platform)


# The service


def told_to_all(platform: Objects) -> dict[str, str]:
    return dict(platform.one("ConfigMap", "stock-assets")["data"])


def test_settings_are_ours_and_fit(platform: Objects) -> None:
    told = told_to_all(platform)
    names = {name[13:].lower() for name in told if name.startswith("STOCK_ASSETS_")}
    assert names <= Settings.model_fields.keys()
    webserver = platform.one("Service", f"{RELEASE}-dagster-webserver")
    port = webserver["spec"]["ports"][0]["port"]
    address = f"http://{webserver['metadata']['name']}:{port}"
    assert told["STOCK_ASSETS_DAGSTER_URL"] == address
    database = platform.one("Service", f"{RELEASE}-postgresql")
    assert told["STOCK_ASSETS_DATABASE_URL"] == (
        f"postgresql://stock_assets@{database['metadata']['name']}:5432/stock_assets"
    )


def test_a_database_of_ones_own_is_asked(dagster_chart: Path) -> None:
    without = [name for name in PLATFORM if "database" not in name]
    given = values(*without, sets="postgresql.postgresqlHost=db.example.org")
    objects = Objects(rendered(dagster_chart, given, release=RELEASE))
    assert objects.of("StatefulSet") == []
    assert told_to_all(objects)["STOCK_ASSETS_DATABASE_URL"] == (
        "postgresql://stock_assets@db.example.org:5432/stock_assets"
    )
    with pytest.raises(helm_python.HelmRenderError, match=r"--values helm-values/database\.yaml"):
        rendered(dagster_chart, values(*without), release=RELEASE)


def test_whose_prices_are_fetched_and_from_whom_are_values(given: Object) -> None:
    fetched = {"universe": "AAPL:Technology,MSFT:Technology", "provider": "alphavantage"}
    there = merged(given, {"stockAssets": fetched})
    for name, text in fetched.items():
        assert told_to_all(our_manifests(there))[f"STOCK_ASSETS_{name.upper()}"] == text
    usual = told_to_all(our_manifests(given))
    assert (usual["STOCK_ASSETS_UNIVERSE"], usual["STOCK_ASSETS_PROVIDER"]) == ("", "yahoo")


def test_commands_are_ours(platform: Objects) -> None:
    commands = [c["args"] for _, _, c in ours(platform) if c.get("args", [""])[0] == "stock-assets"]
    assert len(commands) == 2
    for command in commands:
        done = CliRunner().invoke(app, [*command[1:], "--help"])
        assert done.exit_code == 0, command


def test_the_tables_are_made_once_for_each_release(platform: Objects) -> None:
    job = platform.one("Job", "stock-assets-migrate-1")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == ["stock-assets", "db", "upgrade"]
    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["ttlSecondsAfterFinished"]


def test_who_asks_for_the_service_finds_it(platform: Objects) -> None:
    deployment = platform.one("Deployment", "stock-assets-api")["spec"]
    pod = deployment["template"]
    labels = pod["metadata"]["labels"].items()
    service = platform.one("Service", "stock-assets-api")["spec"]
    budget = platform.one("PodDisruptionBudget", "stock-assets-api")["spec"]
    for selector in (
        deployment["selector"]["matchLabels"],
        service["selector"],
        budget["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    (port,) = pod["spec"]["containers"][0]["ports"]
    assert service["ports"][0]["targetPort"] == port["name"] == "http"


def test_the_service_is_scaled_and_does_nothing_else_in_the_cluster(platform: Objects) -> None:
    deployment = platform.one("Deployment", "stock-assets-api")["spec"]
    scaler = platform.one("HorizontalPodAutoscaler", "stock-assets-api")["spec"]
    assert "replicas" not in deployment  # or every upgrade would set it back
    assert scaler["scaleTargetRef"]["name"] == "stock-assets-api"
    assert 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    name = deployment["template"]["spec"]["serviceAccountName"]
    assert not platform.one("ServiceAccount", name)["automountServiceAccountToken"]
    bound = {who["name"] for found in platform.of("RoleBinding") for who in found["subjects"]}
    assert name not in bound


def test_probes_ask_for_what_there_is(platform: Objects, settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    pod = platform.one("Deployment", "stock-assets-api")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert all(probe["path"] in paths and probe["port"] == "http" for probe in probes.values())
    assert probes["startup"]["path"] == "/readyz"
    assert probes["readiness"]["path"] == probes["liveness"]["path"] == "/healthz"


# One node


def test_one_node_with_two_cores_and_4_gb_has_room_for_all(dagster_chart: Path) -> None:
    given = CASES["one node"]
    objects = Objects(rendered(dagster_chart, given, release=RELEASE))
    run = given["runLauncher"]["config"]["k8sRunLauncher"]["resources"]["requests"]
    heavy = run | {"memory": told_to_all(objects)["STOCK_ASSETS_HEAVY_MEMORY"]}
    wanted = [
        each["resources"]["requests"] for _, pod in objects.pods() for each in pod["containers"]
    ]
    wanted += [heavy] * given["concurrency"]["runs"]["maxConcurrentRuns"]
    assert sum(quantity(each["cpu"]) for each in wanted) <= 2 - 0.85  # what Kubernetes has itself
    assert sum(quantity(each["memory"]) for each in wanted) <= (4 - 0.5) * 2**30
    (mode,) = objects.one("PersistentVolumeClaim", "stock-assets")["spec"]["accessModes"]
    assert mode == "ReadWriteOnce"


def quantity(text: str) -> float:
    units = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "": 1}
    number, unit = re.fullmatch(r"(\d+)(\D*)", text).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]


# Commands


def helm_commands(text: str) -> list[str]:
    """The commands of Helm in a text that install something."""
    return re.findall(r"^\s*(helm upgrade .*)", text.replace("\\\n", " "), re.MULTILINE)


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Reads a command of Helm, with all that ours have in them, from this project's folder."""
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for name in ("helm", "upgrade", "release", "chart"):
        parser.add_argument(name)
    for name in ("install", "wait", "wait-for-jobs"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("repo", "version", "namespace", "timeout", "kube-context"):
        parser.add_argument(f"--{name}", default="")
    for name in ("values", "set", "set-file"):
        parser.add_argument(f"--{name}", action="append", default=[])
    return parser


def installed(command: str, parser: argparse.ArgumentParser, folder: Path) -> list[Object]:
    """What a command installs, as the shell and Helm read it, and Kubernetes takes it."""
    words = ["sh", "-c", f"printf '%s\\n' {command}"]
    read = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    asked = parser.parse_args(read.splitlines())
    assert asked.repo == ADDRESSES[asked.chart]
    assert asked.install
    if asked.chart == "dagster":
        assert asked.version == dg.__version__
        assert asked.wait_for_jobs
    given = values(*asked.values, sets=",".join(asked.set))
    for expression in asked.set_file:
        given = merged(given, helm_python.parse_set_file(expression))
    chart = official_chart(asked.chart, folder)
    objects = Objects(rendered(chart, given, release=asked.release))
    kinds = custom_kinds(chart)
    for found in objects:
        check(found, kinds)
    if asked.namespace == RELEASE:
        for name, template in objects.templates():
            assert list(violations(template)) == [], name
            assert template["metadata"]["labels"]["stock-assets/part"], name
    return objects


README = helm_commands((ROOT / "helm-values" / "README.md").read_text())


@pytest.mark.parametrize("command", README, ids=[command.split()[3] for command in README])
def test_commands_of_the_readme_install_something(
    command: str, parser: argparse.ArgumentParser, tmp_path: Path
) -> None:
    assert len(installed(command, parser, tmp_path)) >= 5


def test_make_installs_what_is_for_one_node(
    parser: argparse.ArgumentParser, tmp_path: Path
) -> None:
    words = ["make", "--dry-run", "kind-up"]
    said = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (command,) = helm_commands(said)
    chart = official_chart("dagster", tmp_path / "chart")
    wanted = rendered(chart, CASES["one node"], release=RELEASE)
    assert installed(command, parser, tmp_path) == wanted
    assert (
        "label --overwrite namespace stock-assets pod-security.kubernetes.io/enforce=restr" in said
    )


# Monitoring


def test_prometheus_scrapes_the_service_with_its_key(
    platform: Objects, monitoring: Objects
) -> None:
    monitor = monitoring.one("ServiceMonitor", RELEASE)
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (
        s for s in platform.of("Service") if selector <= s["metadata"].get("labels", {}).items()
    )
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    (prometheus,) = monitoring.of("Prometheus")
    wanted = prometheus["spec"]["serviceMonitorSelector"]["matchLabels"].items()
    assert wanted <= monitor["metadata"]["labels"].items()
    assert all(endpoint["authorization"] for endpoint in monitor["spec"]["endpoints"])


def test_every_alert_is_there_as_it_is_written(monitoring: Objects) -> None:
    rules = monitoring.one("PrometheusRule", "stock-assets")
    assert rules["spec"] == values("dashboards/alerts.yaml")
    (prometheus,) = monitoring.of("Prometheus")
    wanted = prometheus["spec"]["ruleSelector"]["matchLabels"].items()
    assert wanted <= rules["metadata"]["labels"].items()


def test_without_the_alerts_it_is_told_what_is_missing(monitoring_chart: Path) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=r"add -f dashboards/alerts\.yaml"):
        rendered(monitoring_chart, values("helm-values/prometheus.yaml"), release="monitoring")


def test_grafana_has_the_data_source_of_one_machine(monitoring: Objects) -> None:
    found = monitoring.one("ConfigMap", "monitoring-kube-prometheus-grafana-datasource")
    sources = {
        source["name"]: source
        for source in yaml.safe_load(found["data"]["datasource.yaml"])["datasources"]
    }
    here = values("dashboards/provisioning/datasources/stock_assets.yaml")["datasources"]
    (ours,) = (source for source in here if "postgres" in source["type"])
    assert sources[ours["name"]] == ours


def test_grafana_takes_the_dashboards_that_kustomize_makes(monitoring: Objects) -> None:
    (made,) = values("dashboards/kustomization.yaml")["configMapGenerator"]
    pod = monitoring.one("Deployment", "monitoring-grafana")["spec"]["template"]["spec"]
    (sidecar,) = (c for c in containers(pod) if c["name"] == "grafana-sc-dashboard")
    told = {variable["name"]: variable.get("value") for variable in sidecar["env"]}
    assert {told["LABEL"]: told["LABEL_VALUE"]} == made["options"]["labels"]
    assert told["NAMESPACE"] == "ALL"
    assert told["FOLDER_ANNOTATION"] in made["options"]["annotations"]


# Monitoring without the stack


@pytest.fixture(scope="module")
def prometheus(folder: Path) -> Objects:
    """Prometheus by its own chart, with the alerts given as a file."""
    given = values("helm-values/prometheus-alone.yaml")
    alerts = (ROOT / "dashboards" / "alerts.yaml").read_text()
    given["ruleFiles"] = {"stock_assets.yaml": alerts}
    return Objects(rendered(official_chart("prometheus", folder), given, release="prometheus"))


@pytest.fixture(scope="module")
def grafana(folder: Path) -> Objects:
    """Grafana by its own chart."""
    given = values("helm-values/grafana.yaml")
    return Objects(rendered(official_chart("grafana", folder), given, release="grafana"))


def test_kubernetes_takes_the_plain_charts_too(prometheus: Objects, grafana: Objects) -> None:
    for found in prometheus + grafana:
        check(found, {})


def test_plain_prometheus_scrapes_and_alerts_as_on_one_machine(prometheus: Objects) -> None:
    files = prometheus.one("ConfigMap", "prometheus-server")["data"]
    config = yaml.safe_load(files["prometheus.yml"])
    assert "/etc/config/stock_assets.yaml" in config["rule_files"]
    assert yaml.safe_load(files["stock_assets.yaml"]) == values("dashboards/alerts.yaml")
    here = values("dashboards/prometheus.yaml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for job in here["scrape_configs"]:
        if (name := job["job_name"]).startswith("stock_assets"):
            assert jobs[name].get("params") == job.get("params")
            usual = here["global"]["scrape_interval"]
            assert jobs[name]["scrape_interval"] == job.get("scrape_interval", usual)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_plain_prometheus_finds_nothing_wrong(prometheus: Objects, tmp_path: Path) -> None:
    files = prometheus.one("ConfigMap", "prometheus-server")["data"]
    config = yaml.safe_load(files["prometheus.yml"])
    jobs = [
        {key: told for key, told in job.items() if key != "kubernetes_sd_configs"}
        for job in config["scrape_configs"]
    ]  # Debian's promtool knows nothing of Kubernetes
    (tmp_path / "stock_assets.yaml").write_text(files["stock_assets.yaml"])
    rules = [str(tmp_path / "stock_assets.yaml")]
    (tmp_path / "prometheus.yml").write_text(
        yaml.safe_dump({"scrape_configs": jobs, "rule_files": rules})
    )
    words = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_plain_grafana_has_what_that_of_the_stack_has(
    grafana: Objects, monitoring: Objects
) -> None:
    mine = values("helm-values/grafana.yaml")
    its = values("helm-values/prometheus.yaml")["grafana"]
    for key in ("admin", "envFromSecrets", "grafana.ini"):
        assert mine[key] == its[key]
    (_, database) = mine["datasources"]["datasources.yaml"]["datasources"]
    assert [database] == its["additionalDataSources"]
    looked_for = [
        {v["name"]: v.get("value") for v in container["env"]}
        for objects, name in ((grafana, "grafana"), (monitoring, "monitoring-grafana"))
        for container in containers(objects.one("Deployment", name)["spec"]["template"]["spec"])
        if container["name"] == "grafana-sc-dashboard"
    ]
    assert len(looked_for) == 2
    for key in ("LABEL", "LABEL_VALUE", "NAMESPACE", "FOLDER_ANNOTATION"):
        assert looked_for[0][key] == looked_for[1][key]
