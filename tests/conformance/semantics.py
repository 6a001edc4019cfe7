"""What NetworkPolicy means, read from the API's documentation word by word, slow and obvious.

https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    namespace: str
    name: str
    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]
    addresses: Sequence[str]
    ports: Mapping[tuple[str, str], int]
    """By protocol (TCP) and name."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Attempt:
    source: Pod
    destination: Pod
    port: int
    protocol: str
    """As policies write it: TCP."""
    family: int
    """4 or 6."""


def is_allowed(policies: Sequence[Document], attempt: Attempt) -> bool:
    return all(_direction_allows(policies, attempt, direction) for direction in ("egress", "ingress"))


def _direction_allows(policies: Sequence[Document], attempt: Attempt, direction: str) -> bool:
    subject = attempt.source if direction == "egress" else attempt.destination
    selecting = [one for one in policies if _isolates(one, subject, direction)]
    rules = [rule for one in selecting for rule in one["spec"].get(direction) or []]
    return not selecting or any(
        _rule_allows(rule, one_namespace(rule, selecting, direction), attempt, direction) for rule in rules
    )


def one_namespace(rule: Document, selecting: Sequence[Document], direction: str) -> str:
    """The namespace of the policy that a rule stands in."""
    return next(
        one["metadata"]["namespace"]
        for one in selecting
        if any(rule is own for own in one["spec"].get(direction) or [])
    )


def _isolates(policy: Document, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return (
        direction.capitalize() in types
        and policy["metadata"]["namespace"] == pod.namespace
        and matches(spec["podSelector"], pod.labels)
    )


def _rule_allows(rule: Document, namespace: str, attempt: Attempt, direction: str) -> bool:
    peers = rule.get("to" if direction == "egress" else "from")
    peer = attempt.destination if direction == "egress" else attempt.source
    named = not peers or any(_is_meant(wanted, namespace, peer, attempt.family) for wanted in peers)
    return named and _port_allows(rule.get("ports"), attempt)


def _is_meant(wanted: Document, namespace: str, peer: Pod, family: int) -> bool:
    if "ipBlock" in wanted:
        address = ip_address(next(one for one in peer.addresses if ip_address(one).version == family))
        found = wanted["ipBlock"]
        return address in ip_network(found["cidr"]) and not any(
            address in ip_network(one) for one in found.get("except", [])
        )
    if "namespaceSelector" in wanted:
        in_namespace = matches(wanted["namespaceSelector"], peer.namespace_labels)
    else:
        in_namespace = peer.namespace == namespace
    return in_namespace and matches(wanted.get("podSelector", {}), peer.labels)


def _port_allows(ports: Sequence[Document] | None, attempt: Attempt) -> bool:
    return not ports or any(_is_port(wanted, attempt) for wanted in ports)


def _is_port(wanted: Document, attempt: Attempt) -> bool:
    protocol = wanted.get("protocol", "TCP")
    if protocol != attempt.protocol:
        return False
    number = wanted.get("port")
    if number is None:
        return True
    if isinstance(number, str):
        return attempt.destination.ports.get((protocol, number)) == attempt.port
    return number <= attempt.port <= wanted.get("endPort", number)


def matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """meta/v1 LabelSelector."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        _meets(one, labels) for one in selector.get("matchExpressions", [])
    )


def _meets(requirement: Document, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement["key"])
    return {
        "In": lambda: value in requirement["values"],
        "NotIn": lambda: value not in requirement["values"],
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }[requirement["operator"]]()
