"""What policies mean, slow and obvious: written from the text of the Kubernetes API, knowing neither lines nor tables.

NetworkPolicy: https://kubernetes.io/docs/concepts/services-networking/network-policies/ (isolation per direction,
additive rules); ClusterNetworkPolicy: https://network-policy-api.sigs.k8s.io (tiers, priority, pass).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from whit.model.app import AppSpec
from whit.model.policy import NUMBERS, Direction, PeerSpec, PolicyPort, PolicyRuleSpec, PolicySpec
from whit.model.selector import LabelSelector
from whit.model.service import ServiceSpec


@dataclass(frozen=True)
class Pod:
    app: AppSpec
    name: str

    @property
    def service(self) -> ServiceSpec:
        return self.app.services[self.name]

    @property
    def title(self) -> str:
        return f"{self.app.name}/{self.name}"


class Node(Enum):
    """It has addresses in no block, but in that of everything."""

    HOST = "host"


Outside = IPv4Address | IPv6Address
End = Pod | Outside | Node
"""A service, somebody outside, or the node itself."""


@dataclass(frozen=True)
class Asked:
    subject: Pod
    direction: Direction
    peer: End
    protocol: int
    port: int


def verdict(apps: Sequence[AppSpec], policies: Sequence[PolicySpec], asked: Asked) -> str:
    """allow, deny or audit. Apps are open: without policies they reach themselves and the world."""
    enforced = [policy for policy in policies if policy.mode == "enforce"]
    if not allowed(enforced, asked):
        return "deny"
    return "allow" if allowed(policies, asked) else "audit"


def allowed(policies: Sequence[PolicySpec], asked: Asked) -> bool:
    mine = [policy for policy in policies if selects(policy, asked.subject) and asked.direction in policy.directions]
    decided = first_match([policy for policy in mine if policy.tier == "admin"], asked)
    if decided is not None:
        return decided
    ordinary = [policy for policy in mine if policy.tier == "default"]
    actions = {rule.action for policy in ordinary for rule in matching(policy, asked)}
    if "deny" in actions:
        return False
    if "allow" in actions or ordinary:
        return "allow" in actions
    decided = first_match([policy for policy in mine if policy.tier == "baseline"], asked)
    return without_policies(asked) if decided is None else decided


def first_match(policies: Iterable[PolicySpec], asked: Asked) -> bool | None:
    """None: nothing matches, or what does passes."""
    for policy in sorted(policies, key=lambda policy: (bool(policy.app), policy.priority, policy.name)):
        for rule in matching(policy, asked):
            return None if rule.action == "pass" else rule.action == "allow"
    return None


def matching(policy: PolicySpec, asked: Asked) -> Iterator[PolicyRuleSpec]:
    for rule in policy.rules:
        if rule.direction != asked.direction:
            continue
        peers = not rule.peers or any(is_peer(policy, peer, asked.peer) for peer in rule.peers)
        if peers and (not rule.ports or any(is_port(port, asked) for port in rule.ports)):
            yield rule


def selects(policy: PolicySpec, pod: Pod) -> bool:
    if policy.app:
        return policy.app == pod.app.name and matches(policy.services, labels(pod))
    return matches(policy.apps or LabelSelector(), namespace_labels(pod)) and matches(policy.services, labels(pod))


def is_peer(policy: PolicySpec, peer: PeerSpec, end: End) -> bool:
    if isinstance(end, Node):
        return peer.entity == "host" or (peer.cidr is not None and ip_network(peer.cidr).prefixlen == 0)
    if isinstance(end, Outside):
        if peer.entity == "world":
            return True
        return peer.cidr is not None and holds(peer.cidr, end) and not any(holds(one, end) for one in peer.excepted)
    if peer.services is None and peer.apps is None:
        return False
    if peer.apps is None and policy.app and policy.app != end.app.name:
        return False
    return matches(peer.apps or LabelSelector(), namespace_labels(end)) and matches(
        peer.services or LabelSelector(), labels(end)
    )


def is_port(port: PolicyPort, asked: Asked) -> bool:
    if NUMBERS[port.protocol] != asked.protocol:
        return False
    if port.protocol.startswith("icmp"):
        kind, code = asked.port >> 8, asked.port & 0xFF
        return port.icmp_type in (None, kind) and port.icmp_code in (None, code)
    if isinstance(port.port, str):
        target = asked.subject if asked.direction == "ingress" else asked.peer
        if not isinstance(target, Pod):
            return False
        named = [one for one in target.service.expose if (one.name, one.protocol) == (port.port, port.protocol)]
        return any(one.port == asked.port for one in named)
    return port.port is None or port.port <= asked.port <= (port.end_port or port.port)


def without_policies(asked: Asked) -> bool:
    if isinstance(asked.peer, Pod):
        return asked.peer.app.name == asked.subject.app.name
    return asked.direction == "egress" and not isinstance(asked.peer, Node)


def matches(selector: LabelSelector, found: dict[str, str]) -> bool:
    for key, value in selector.match_labels.items():
        if found.get(key) != value:
            return False
    for one in selector.match_expressions:
        truth = {
            "In": found.get(one.key) in one.values,
            "NotIn": found.get(one.key) not in one.values,
            "Exists": one.key in found,
            "DoesNotExist": one.key not in found,
        }
        if not truth[one.operator]:
            return False
    return True


def labels(pod: Pod) -> dict[str, str]:
    return {**pod.service.labels, "whit.service": pod.name}


def namespace_labels(pod: Pod) -> dict[str, str]:
    return {**pod.app.labels, "kubernetes.io/metadata.name": pod.app.name}


def holds(network: str, address: Outside) -> bool:
    return ip_address(address) in ip_network(network)
