"""Cases of NetworkPolicy by combination, in the kinds and numbers of the cyclonus generator (230).

What is expected is not written down but follows from `semantics.py`, an obvious reading of the API's documentation.
Named after what varies: `peers ingress: pods by label, namespaces by expression`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.network_policies import CASES, Document, block, labels, policy, port, within

DIRECTIONS = ("ingress", "egress")
SIDE = {"ingress": "from", "egress": "to"}
EVERY_PROBE = ("80/tcp", "81/tcp", "80/udp", "81/udp")
NEVER = labels(never="matches")


@dataclass(frozen=True)
class Change:
    """One step: what is applied, deleted, labelled."""

    apply: Sequence[Document] = ()
    delete: Sequence[str] = ()
    namespace_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pod_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Generated:
    name: str
    changes: Sequence[Change]
    probes: Sequence[str] = ("80/tcp", "81/udp")


def _one(name: str, *policies: Document, **more: Any) -> Generated:
    return Generated(name, [Change(policies)], **more)


def _ruled(name: str, direction: str, rule: Document, namespace: str = "x", **more: Any) -> Document:
    """A policy with one rule in one direction for pod a."""
    spec = {"podSelector": labels(pod="a"), "policyTypes": [direction.capitalize()], direction: [rule]} | more
    return policy(namespace, name, **spec)


# ---- the kinds ----


def targets() -> Iterator[Generated]:
    selectors: Mapping[str, tuple[str, Document]] = {
        "every pod of x": ("x", {}),
        "every pod of y": ("y", {}),
        "pods by label": ("x", labels(pod="a")),
        "pods by expression": ("x", within("pod", "a", "b")),
        "pods by label in z": ("z", labels(pod="c")),
        "nobody": ("x", NEVER),
    }
    for name, (namespace, selector) in selectors.items():
        spec = {"podSelector": selector, "policyTypes": ["Ingress", "Egress"]}
        yield _one(f"target: {name}", policy(namespace, "target", **spec))


def rules() -> Iterator[Generated]:
    for direction, (name, found) in itertools.product(DIRECTIONS, {"deny all": [], "allow all": [{}]}.items()):
        spec = {"policyTypes": [direction.capitalize()], direction: found}
        yield _one(f"rules {direction}: {name}", policy("x", "rules", **spec))


PODS: Mapping[str, Document | None] = {
    "no pod selector": None,
    "every pod": {},
    "pods by label": labels(pod="b"),
    "pods by expression": within("pod", "b", "c"),
    "pods by negation": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["b"]}]},
    "pods that are not there": NEVER,
}
NAMESPACES: Mapping[str, Document | None] = {
    "no namespace selector": None,
    "every namespace": {},
    "namespaces by label": labels(ns="y"),
    "namespaces by expression": within("ns", "x", "y"),
    "namespaces by name": {"matchLabels": {"kubernetes.io/metadata.name": "z"}},
    "namespaces that are not there": NEVER,
}
BLOCKS: Mapping[str, Document] = {
    "one address": block("x/b"),
    "one address elsewhere": block("y/c"),
    "all addresses of instances": block("pool"),
    "all but one": block("pool", "x/b"),
    "all but two": block("pool", "x/b", "y/b"),
    "everything": block("0.0.0.0/0"),
    "nothing that is there": block("0.0.0.0/31"),
    "everything but instances": block("0.0.0.0/0", "pool"),
    "half": block("half"),
}


def _selected(pods: Document | None, namespaces: Document | None) -> Document:
    peer = {"podSelector": pods, "namespaceSelector": namespaces}
    return {key: value for key, value in peer.items() if value is not None}


def peers() -> Iterator[Generated]:
    single = {
        f"{pod_name}, {namespace_name}": [_selected(pods, namespaces)]
        for (pod_name, pods), (namespace_name, namespaces) in itertools.product(PODS.items(), NAMESPACES.items())
        if pods is not None or namespaces is not None
    }
    blocks = {name: [found] for name, found in BLOCKS.items()}
    some = [_selected(PODS["pods by label"], None), _selected(None, NAMESPACES["namespaces by name"])]
    some += [BLOCKS["one address elsewhere"], _selected(NEVER, None)]
    several = {f"{count} peers, set {number}": [*chosen] for count in (2, 3) for number, chosen in _chosen(some, count)}
    several |= {"four peers": some, "the same peer twice": some[:1] * 2}
    for direction, (name, found) in itertools.product(DIRECTIONS, (single | blocks | several).items()):
        yield _one(f"peers {direction}: {name}", _ruled("peers", direction, {SIDE[direction]: found}))


def _chosen(peers: Sequence[Document], count: int) -> Iterator[tuple[int, tuple[Document, ...]]]:
    return enumerate(itertools.combinations(peers, count), start=1)


PORTS: Mapping[str, Document] = {
    "every port": {},
    "port 80": {"port": 80},
    "port 81": {"port": 81},
    "a named port": {"port": "serve-80-tcp"},
    "a named port of UDP": {"port": "serve-81-udp"},
    "a port where nobody listens": {"port": 7981},
    "a range": {"port": 80, "endPort": 81},
    "a range that ends at it": {"port": 79, "endPort": 80},
}
PROTOCOLS: Mapping[str, Document] = {
    "no protocol": {},
    "TCP": {"protocol": "TCP"},
    "UDP": {"protocol": "UDP"},
    "SCTP": {"protocol": "SCTP"},
}


def ports() -> Iterator[Generated]:
    found = {
        f"{port_name}, {protocol_name}": [number | protocol]
        for (port_name, number), (protocol_name, protocol) in itertools.product(PORTS.items(), PROTOCOLS.items())
    }
    found |= {
        "80 of TCP and 81 of UDP": [port(80), port(81, "UDP")],
        "both of TCP": [port(80), port(81)],
        "a name and a number": [port("serve-80-tcp"), port(81, "UDP")],
    }
    for direction, (name, wanted) in itertools.product(DIRECTIONS, found.items()):
        yield _one(f"ports {direction}: {name}", _ruled("ports", direction, {"ports": wanted}), probes=EVERY_PROBE)


def conflicts() -> Iterator[Generated]:
    """Both ends speak, or two policies of one end."""
    at_source, at_destination = {"podSelector": labels(pod="b")}, {"podSelector": labels(pod="a")}
    deny_egress = policy("x", "deny-egress", **at_source, policyTypes=["Egress"])
    allow_egress = policy("x", "allow-egress", **at_source, policyTypes=["Egress"], egress=[{}])
    deny_ingress = policy("x", "deny-ingress", **at_destination, policyTypes=["Ingress"])
    allow_ingress = policy("x", "allow-ingress", **at_destination, policyTypes=["Ingress"], ingress=[{}])
    yield _one("conflict: source denies, destination allows", deny_egress, allow_ingress)
    yield _one("conflict: source allows, destination denies", allow_egress, deny_ingress)
    yield _one("conflict: both deny", deny_egress, deny_ingress)
    yield _one("conflict: both allow", allow_egress, allow_ingress)
    ways: Mapping[str, Document] = {
        "by nothing": {},
        "by a pod that is not there": {"podSelector": NEVER},
        "by an address that is not there": BLOCKS["nothing that is there"],
    }
    for direction, (name, peer) in itertools.product(DIRECTIONS, ways.items()):
        denied = [] if not peer else [{SIDE[direction]: [peer]}]
        spec = {"podSelector": labels(pod="a"), "policyTypes": [direction.capitalize()]}
        denial, allowance = (
            policy("x", word, **spec, **{direction: found}) for word, found in (("deny", denied), ("allow", [{}]))
        )
        yield _one(f"conflict {direction}: denied {name} and allowed all, same end", denial, allowance)
        yield _one(f"conflict {direction}: allowed all and denied {name}, the other order", allowance, denial)


def actions() -> Iterator[Generated]:
    denial = policy("x", "changing", policyTypes=["Ingress"])
    opened = policy("x", "changing", policyTypes=["Ingress"], ingress=[{}])
    of_label = _ruled("labelled", "ingress", {"from": [{"namespaceSelector": labels(new="label")}]})
    of_pod = _ruled("labelled", "ingress", {"from": [{"namespaceSelector": {}, "podSelector": labels(new="label")}]})
    yield Generated("action: create and delete a policy", [Change([denial]), Change(delete=["x/changing"])])
    yield Generated("action: update a policy", [Change([denial]), Change([opened]), Change([denial])])
    yield Generated("action: label a namespace", [Change([of_label]), Change(namespace_labels={"y": {"new": "label"}})])
    yield Generated(
        "action: label another namespace",
        [
            Change([of_label], namespace_labels={"z": {"new": "other"}}),
            Change(namespace_labels={"z": {"new": "label"}}),
        ],
    )
    yield Generated("action: label a pod", [Change([of_pod]), Change(pod_labels={"y/b": {"new": "label"}})])
    yield Generated(
        "action: label a pod away",
        [Change([of_pod], pod_labels={"y/b": {"new": "label"}}), Change(pod_labels={"y/b": {"new": "other"}})],
    )


def namespaces() -> Iterator[Generated]:
    for direction in DIRECTIONS:
        peer = {"namespaceSelector": labels(ns="y")}
        both = [_ruled("namespaced", direction, {SIDE[direction]: [peer]}, namespace) for namespace in ("x", "z")]
        yield _one(f"namespaces {direction}: the same policy in two", *both)


def upstream() -> Iterator[Generated]:
    """Thirteen of the end-to-end cases, all of whose probes are asked here."""
    wanted = [case for case in CASES if not case.needs_sctp and "CIDR" not in case.name][:13]
    for case in wanted:
        changes = [Change(step.apply, step.delete, step.namespace_labels, step.pod_labels) for step in case.steps]
        yield Generated(f"upstream: {case.name}", changes, EVERY_PROBE)


def example() -> Iterator[Generated]:
    rule = {"from": [block("pool", "x/c"), {"namespaceSelector": labels(ns="y")}, {"podSelector": labels(pod="b")}]}
    spec = {
        "podSelector": labels(pod="a"),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [rule | {"ports": [port(80)]}],
        "egress": [{"to": [block("pool", "z/a")], "ports": [port(80), port(81, "UDP")]}],
    }
    yield _one(
        "example: the policy of the documentation", policy("x", "test-network-policy", **spec), probes=EVERY_PROBE
    )


KINDS = {
    "peers": (peers, 112),
    "ports": (ports, 70),
    "conflict": (conflicts, 16),
    "upstream": (upstream, 13),
    "action": (actions, 6),
    "target": (targets, 6),
    "rules": (rules, 4),
    "namespaces": (namespaces, 2),
    "example": (example, 1),
}
GENERATED: tuple[Generated, ...] = tuple(itertools.chain.from_iterable(kind() for kind, _ in KINDS.values()))
