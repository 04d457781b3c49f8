"""What the restricted Pod Security Standard has against a pod, as of Kubernetes 1.34.

Its rules, and those of the baseline below it, are told in
https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tests.charts import Object, containers

_VOLUMES = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "name",
    "persistentVolumeClaim",
    "projected",
    "secret",
]
_SYSCTLS = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
]
_PROFILES = ["RuntimeDefault", "Localhost"]
_SELINUX = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"]
_MAY: Mapping[str, Collection[Any]] = {  # of a pod or a container; what is not said is not wrong
    "windowsOptions.hostProcess": [False],
    "seLinuxOptions.type": _SELINUX,
    "seLinuxOptions.user": [""],
    "seLinuxOptions.role": [""],
    "appArmorProfile.type": _PROFILES,
    "seccompProfile.type": _PROFILES,
    "procMount": ["Default"],
    "privileged": [False],
    "runAsNonRoot": [True],
}
_MUST: Mapping[str, Collection[Any]] = {  # of a container, or else of its pod
    "runAsNonRoot": [True],
    "seccompProfile.type": _PROFILES,
}
_HOSTS = [  # whom the node may be sent to ask
    f"{hook}.{kind}.host"
    for hook in (
        *("livenessProbe", "readinessProbe", "startupProbe"),
        *("lifecycle.postStart", "lifecycle.preStop"),
    )
    for kind in ("httpGet", "tcpSocket")
]


def violations(template: Object) -> Iterator[str]:
    """What is wrong with the pods of a template; nothing where they are admitted."""
    pod = template["spec"]
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    for volume in pod.get("volumes") or []:
        yield from (f"volume of kind {kind}" for kind in volume if kind not in _VOLUMES)
    for name, profile in (template.get("metadata", {}).get("annotations") or {}).items():
        if name.startswith("container.apparmor") and not profile.startswith(("runtime/", "local")):
            yield name
    context = pod.get("securityContext") or {}
    yield from _of_context(context)
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for container in [*containers(pod), *pod.get("ephemeralContainers", [])]:
        for wrong in _of_container(container, context):
            yield f"{container['name']}: {wrong}"


def _of_context(context: Object) -> Iterator[str]:
    for path, allowed in _MAY.items():
        if _at(context, path) not in [None, *allowed]:
            yield path
    if context.get("runAsUser") == 0:
        yield "runAsUser"


def _of_container(container: Object, of_pod: Object) -> Iterator[str]:
    context = container.get("securityContext") or {}
    yield from _of_context(context)
    for path, allowed in _MUST.items():
        if _at(context, path) is None and _at(of_pod, path) not in allowed:
            yield path
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in (_at(context, "capabilities.drop") or []):
        yield "capabilities.drop"
    if not {*(_at(context, "capabilities.add") or [])} <= {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    yield from ("hostPort" for port in container.get("ports", []) if port.get("hostPort"))
    yield from (path for path in _HOSTS if _at(container, path))


def _at(thing: Object, path: str) -> Any:
    """What it says at the end of a path; None if nothing."""
    found: Any = thing
    for key in path.split("."):
        found = (found or {}).get(key)
    return found
