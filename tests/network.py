"""Who may talk to whom, as Kubernetes reads NetworkPolicies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from tests.charts import RELEASE, Object

_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """A pod, or some other machine.

    Attributes:
        labels: Of the pod.
        namespace: Of the pod; nothing of another machine.
        address: Of the other machine.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = RELEASE
    address: str = "10.244.0.1"


def may_ask(
    policies: Iterable[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Whether one may open a connection to the other: both sides have to let it."""
    sides = (("Egress", "to", source, target), ("Ingress", "from", target, source))
    for kind, key, held, other in sides:
        holding = [
            policy["spec"]
            for policy in policies
            if held.namespace == RELEASE
            and kind in policy["spec"]["policyTypes"]
            and _selects(policy["spec"]["podSelector"], held.labels)
        ]
        rules = [rule for policy in holding for rule in policy.get(kind.lower()) or ()]
        if holding and not any(_lets(rule, key, other, port, protocol) for rule in rules):
            return False
    return True


def _lets(rule: Object, key: str, other: Peer, port: int, protocol: str) -> bool:
    ports = rule.get("ports") or [{"port": port, "protocol": protocol}]
    peers = rule.get(key) or [None]
    return any(
        one["port"] <= port <= one.get("endPort", one["port"])
        and one.get("protocol", "TCP") == protocol
        for one in ports
    ) and any(peer is None or _is(peer, other) for peer in peers)


def _is(peer: Object, other: Peer) -> bool:
    if block := peer.get("ipBlock"):
        inside = [ip_network(one) for one in (block["cidr"], *block.get("except", ()))]
        address = ip_address(other.address)
        return address in inside[0] and not any(address in one for one in inside[1:])
    if not other.namespace:
        return False
    within = peer.get("namespaceSelector", {"matchLabels": {_NAME: RELEASE}})
    return _selects(within, {_NAME: other.namespace}) and _selects(
        peer.get("podSelector", {}), other.labels
    )


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    for rule in selector.get("matchExpressions", ()):
        if rule["operator"] != "In":
            raise NotImplementedError(rule["operator"])
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
