"""A restricted namespace takes our pods, and they talk to whom they need and nobody else."""

from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.charts import (
    PLATFORM,
    RELEASE,
    Object,
    Objects,
    containers,
    official_chart,
    our_manifests,
    rendered,
    values,
)
from tests.network import Peer, may_ask
from tests.pod_security import violations

BUCKET = "stockAssets.files=s3://bucket/prefix"
OWN_DATABASE = "postgresql.postgresqlHost=db.example.org"
WITHOUT_DATABASE = [name for name in PLATFORM if "database" not in name]


@pytest.fixture(scope="module")
def ours() -> Objects:
    """Our own objects, for which the official chart need not be there."""
    return our_manifests(values(*PLATFORM))


@pytest.fixture(scope="module")
def dagster_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official_chart("dagster", tmp_path_factory.mktemp("charts"))


@pytest.fixture(scope="module")
def platform(dagster_chart: Path) -> Objects:
    """All that is installed."""
    return Objects(rendered(dagster_chart, values(*PLATFORM), release=RELEASE))


# Pods

GOOD: Object = {
    "metadata": {},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "initContainers": [
            {
                "name": "before",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "containers": [
            {
                "name": "main",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                },
            }
        ],
    },
}
POD, BEFORE, MAIN = ("spec",), ("spec", "initContainers", 0), ("spec", "containers", 0)
CONTEXT = "securityContext"


def changed(path: tuple[str | int, ...], value: Any) -> Object:
    """The good template with another value at a path; without one where it is None."""
    template: Any = deepcopy(GOOD)
    thing = template
    *way, last = path
    for key in way:
        thing = thing.setdefault(key, {}) if isinstance(thing, dict) else thing[key]
    if value is None:
        del thing[last]
    else:
        thing[last] = value
    return dict(template)


def test_a_good_pod_is_admitted() -> None:
    assert list(violations(GOOD)) == []
    by_containers = changed((*POD, CONTEXT), {})
    for container in containers(by_containers["spec"]):
        container[CONTEXT] |= GOOD["spec"][CONTEXT]
    assert list(violations(by_containers)) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ((*POD, "hostNetwork"), True, "hostNetwork"),
        ((*POD, "hostPID"), True, "hostPID"),
        ((*POD, "hostIPC"), True, "hostIPC"),
        ((*POD, "volumes", 0, "hostPath"), {"path": "/"}, "volume of kind hostPath"),
        ((*POD, "volumes", 0, "nfs"), {"server": "files"}, "volume of kind nfs"),
        ((*POD, CONTEXT, "sysctls"), [{"name": "kernel.msgmax"}], "sysctl kernel.msgmax"),
        ((*POD, CONTEXT, "runAsUser"), 0, "runAsUser"),
        ((*POD, CONTEXT, "runAsNonRoot"), None, "before: runAsNonRoot, main: runAsNonRoot"),
        (
            (*POD, CONTEXT, "seccompProfile"),
            {"type": "Unconfined"},
            "seccompProfile.type, before: seccompProfile.type, main: seccompProfile.type",
        ),
        ((*POD, CONTEXT, "seLinuxOptions"), {"type": "spc_t"}, "seLinuxOptions.type"),
        ((*POD, CONTEXT, "appArmorProfile"), {"type": "Unconfined"}, "appArmorProfile.type"),
        ((*POD, CONTEXT, "windowsOptions"), {"hostProcess": True}, "windowsOptions.hostProcess"),
        ((*MAIN, CONTEXT, "runAsNonRoot"), False, "main: runAsNonRoot"),
        ((*MAIN, CONTEXT, "runAsUser"), 0, "main: runAsUser"),
        ((*MAIN, CONTEXT, "privileged"), True, "main: privileged"),
        ((*MAIN, CONTEXT, "procMount"), "Unmasked", "main: procMount"),
        ((*MAIN, CONTEXT, "seLinuxOptions"), {"user": "root"}, "main: seLinuxOptions.user"),
        ((*MAIN, CONTEXT, "seccompProfile"), {"type": "Unconfined"}, "main: seccompProfile.type"),
        ((*MAIN, CONTEXT, "allowPrivilegeEscalation"), None, "main: allowPrivilegeEscalation"),
        ((*BEFORE, CONTEXT, "capabilities"), {"drop": ["NET_RAW"]}, "before: capabilities.drop"),
        ((*MAIN, CONTEXT, "capabilities", "add"), ["SYS_TIME"], "main: capabilities.add"),
        ((*MAIN, "ports"), [{"containerPort": 80, "hostPort": 80}], "main: hostPort"),
        (
            (*MAIN, "livenessProbe"),
            {"httpGet": {"host": "169.254.169.254"}},
            "main: livenessProbe.httpGet.host",
        ),
        (
            ("metadata", "annotations"),
            {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"},
            "container.apparmor.security.beta.kubernetes.io/main",
        ),
    ],
)
def test_each_rule_has_something_against_it(
    path: tuple[str | int, ...], value: Any, told: str
) -> None:
    assert ", ".join(violations(changed(path, value))) == told


def test_all_our_pods_are_restricted_ones(ours: Objects) -> None:
    made = dict(ours.templates())
    assert len(made) == 4  # the code server, the migration, the service, Postgres
    for name, template in made.items():
        assert list(violations(template)) == [], name


def test_those_of_the_chart_are_too(dagster_chart: Path) -> None:
    given = values(*PLATFORM, sets="migrate.enabled=true")  # a hook that we leave out
    made = dict(Objects(rendered(dagster_chart, given, release=RELEASE)).templates())
    assert len(made) == 7  # and the webserver, the daemon, and that hook
    for name, template in made.items():
        assert list(violations(template)) == [], name


def test_only_who_asks_kubernetes_has_a_token(platform: Objects) -> None:
    accounts = {found["metadata"]["name"]: found for found in platform.of("ServiceAccount")}
    having = set()
    for _, template in platform.templates():
        pod = template["spec"]
        for speaking in (pod, accounts[pod["serviceAccountName"]]):
            if (token := speaking.get("automountServiceAccountToken")) is not None:
                break
        if token is not False:
            having.add(template["metadata"]["labels"]["stock-assets/part"])
    assert having == {"webserver", "daemon"}


# Connections

PARTS = [
    "webserver",
    "daemon",
    "code",
    "run",
    "migration",
    "api",
    "database",
    "exporter",
    "unknown",
]
PEERS = {
    **{part: Peer({"stock-assets/part": part}) for part in PARTS},
    "prometheus": Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring"),
    "grafana": Peer({"app.kubernetes.io/name": "grafana"}, "monitoring"),
    "neighbour": Peer({"stock-assets/part": "webserver"}, "neighbours"),
    "names": Peer({"k8s-app": "kube-dns"}, "kube-system"),
    "internet": Peer(namespace="", address="203.0.113.7"),
}
PORTS = {
    "database": 5432,
    "code": 3030,
    "webserver": 3000,
    "api": 8000,
    "exporter": 9187,
    "https": 443,
    "kubernetes": 6443,
    "ssh": 22,
}
OUTSIDE = {"neighbour", "names", "internet", "prometheus", "grafana"}
# What is needed, and so all that there may be: who asks whom, at which port.
TO_DATABASE = {"webserver", "daemon", "code", "run", "migration", "api", "exporter"}
NEEDED = {
    *((part, "database", "database") for part in TO_DATABASE | {"grafana"}),
    *((part, "code", "code") for part in ("webserver", "daemon")),
    ("api", "webserver", "webserver"),
    ("prometheus", "exporter", "exporter"),
    *((who, "api", "api") for who in OUTSIDE),
    *((part, there, "https") for part in ("code", "run") for there in OUTSIDE),
    *(
        (part, there, port)
        for part in ("webserver", "daemon")
        for there in OUTSIDE
        for port in ("https", "kubernetes")
    ),
}


def connections(objects: Objects) -> set[tuple[str, str, str]]:
    """All that may be opened from or to a pod of the platform."""
    policies = objects.of("NetworkPolicy")
    return {
        (source, target, port)
        for source, target, port in product(PEERS, PEERS, PORTS)
        if {source, target} & {*PARTS}
        and may_ask(policies, PEERS[source], PEERS[target], PORTS[port])
    }


def test_what_is_needed_may_be_asked_and_nothing_else(ours: Objects) -> None:
    assert connections(ours) == NEEDED


def test_a_bucket_is_asked_by_the_service_too() -> None:
    objects = our_manifests(values(*PLATFORM, sets=BUCKET))
    assert connections(objects) == NEEDED | {("api", there, "https") for there in OUTSIDE}


def test_a_database_of_ones_own_may_be_anywhere() -> None:
    objects = our_manifests(values(*WITHOUT_DATABASE, sets=OWN_DATABASE))
    assert connections(objects) == NEEDED | set(product(TO_DATABASE, OUTSIDE, ["database"]))


def test_other_ports_are_a_setting() -> None:
    objects = our_manifests(values(*PLATFORM, sets="stockAssets.outsidePorts={443,9000}"))
    policies = objects.of("NetworkPolicy")
    assert may_ask(policies, PEERS["run"], PEERS["internet"], 9000)
    assert not may_ask(policies, PEERS["daemon"], PEERS["internet"], 9000)


def test_everybody_asks_for_names(ours: Objects) -> None:
    policies = ours.of("NetworkPolicy")
    cache = Peer(namespace="", address="169.254.20.10")
    for part, protocol in product(PARTS, ("UDP", "TCP")):
        assert may_ask(policies, PEERS[part], PEERS["names"], 53, protocol)
        assert may_ask(policies, PEERS[part], cache, 53, protocol)
        assert not may_ask(policies, PEERS[part], PEERS["internet"], 53, protocol)


def test_every_pod_is_known_by_its_part(platform: Objects) -> None:
    parts = [
        template["metadata"]["labels"]["stock-assets/part"] for _, template in platform.templates()
    ]
    of_runs = values(*PLATFORM)["runLauncher"]["config"]["k8sRunLauncher"]["labels"]
    assert sorted([*parts, of_runs["stock-assets/part"], "exporter", "unknown"]) == sorted(PARTS)


def test_services_lead_to_the_ports_that_may_be_asked(platform: Objects) -> None:
    led = {}
    for service in platform.of("Service"):
        (target,) = (
            template
            for _, template in platform.templates()
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        )
        named = {
            port["name"]: port["containerPort"]
            for container in target["spec"]["containers"]
            for port in container.get("ports", [])
        }
        (port,) = service["spec"]["ports"]
        wanted = port.get("targetPort", port["port"])
        led[target["metadata"]["labels"]["stock-assets/part"]] = named.get(wanted, wanted)
    assert led == {part: PORTS[part] for part in ("api", "code", "database", "webserver")}
