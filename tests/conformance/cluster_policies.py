"""The conformance suite of ClusterNetworkPolicy, as data, under its upstream names.

Its houses are: gryffindor the subject, namespace x; ravenclaw namespace y; slytherin the pod z/a; hufflepuff the pods
z/b and z/c. Of its two ports of each protocol, the lower is 80 and the higher 81. A line of `expect` may end with the
name of the rule that decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from conformance.network_policies import Case, Document, Step, labels, policy, within

EVERY_PORT = ("80/tcp", "81/tcp", "80/udp", "81/udp")
LOW_AND_HIGH = {"tcp": ("80/tcp", "81/tcp"), "udp": ("80/udp", "81/udp")}
RAVENCLAW = {"namespaces": labels(ns="y")}
SLYTHERIN = {"pods": {"namespaceSelector": labels(ns="z"), "podSelector": labels(pod="a")}}
HUFFLEPUFF = {"pods": {"namespaceSelector": labels(ns="z"), "podSelector": within("pod", "b", "c")}}
GRYFFINDOR = {"namespaces": labels(ns="x")}
SIDES = {"ingress": ("from", "From {}"), "egress": ("to", "To {}")}
TIERS = {"Admin": "CNPAdminTier", "Baseline": "CNPBaselineTier"}


def cluster_policy(name: str, tier: str = "Admin", priority: int = 15, **spec: Any) -> Document:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": GRYFFINDOR, **spec},
    }


def rule(name: str, action: str, direction: str, peer: Document, *ports: str) -> Document:
    found = {"name": name, "action": action, SIDES[direction][0]: [peer]}
    return found | ({"protocols": [*map(protocol, ports)]} if ports else {})


def protocol(port: str) -> Document:
    number, _, kind = port.partition("/")
    return {kind: {"destinationPort": {"number": int(number)}}}


def between(direction: str, peer: str) -> str:
    return f"{peer} -> x/*" if direction == "ingress" else f"x/* -> {peer}"


# ---- what all the suites of ingress, egress and gress have ----


def seven(tier: str, direction: str, kinds: Sequence[str]) -> list[Document]:
    """The rules of the manifests; the baseline tier has none that passes."""
    side = SIDES[direction][0]
    low, high = ([LOW_AND_HIGH[kind][which] for kind in kinds] for which in (0, 1))
    found = [
        rule(f"allow-{side}-ravenclaw", "Accept", direction, RAVENCLAW),
        rule(f"deny-{side}-ravenclaw", "Deny", direction, RAVENCLAW),
        rule(f"pass-{side}-ravenclaw", "Pass", direction, RAVENCLAW),
        rule(f"deny-{side}-slytherin-at-low", "Deny", direction, SLYTHERIN, *low),
        rule(f"pass-{side}-slytherin-at-low", "Pass", direction, SLYTHERIN, *low),
        rule(f"allow-{side}-hufflepuff-at-high", "Accept", direction, HUFFLEPUFF, *high),
        rule(f"deny-{side}-hufflepuff-everything-else", "Deny", direction, HUFFLEPUFF),
    ]
    return found if tier == "Admin" else [one for one in found if one["action"] != "Pass"]


def swapped(rules: Sequence[Document], one: int, other: int) -> list[Document]:
    found = [*rules]
    found[one], found[other] = found[other], found[one]
    return found


def of_hufflepuff(direction: str, kinds: Sequence[str]) -> Iterator[str]:
    """Ports are opened one by one, and all others are closed, whatever their protocol."""
    side = SIDES[direction][0]
    for pod in ("z/b", "z/c"):
        pair = between(direction, pod)
        yield f"{pair}: no by deny-{side}-hufflepuff-everything-else"
        yield from (f"{pair} at {LOW_AND_HIGH[kind][1]}: yes" for kind in kinds)


def of_slytherin(direction: str, kinds: Sequence[str]) -> Iterator[str]:
    pair, side = between(direction, "z/a"), SIDES[direction][0]
    return (f"{pair} at {LOW_AND_HIGH[kind][0]}: no by deny-{side}-slytherin-at-low" for kind in kinds)


def rules_case(tier: str, name: str, directions: Sequence[str], kinds: Sequence[str]) -> Case:
    """The rules as they are; those of ravenclaw swapped; and in the admin tier, those that pass before the others."""

    def step(expect: Sequence[str], *swaps: tuple[int, int]) -> Step:
        rules = {direction: seven(tier, direction, kinds) for direction in directions}
        for one, other in swaps:
            rules = {direction: swapped(found, one, other) for direction, found in rules.items()}
        return Step(expect, [cluster_policy("gress-rules", tier, **rules)], probes=EVERY_PORT)

    open_ports = [line for direction in directions for line in of_hufflepuff(direction, kinds)]
    closed = [line for direction in directions for line in of_slytherin(direction, kinds)]
    denied = [f"{between(direction, 'y/*')}: no by deny-{SIDES[direction][0]}-ravenclaw" for direction in directions]
    steps = [step([*open_ports, *closed]), step([*open_ports, *closed, *denied], (0, 1))]
    if tier == "Admin":
        steps.append(step(open_ports, (0, 2), (3, 4)))
    return Case(f"{TIERS[tier]}{name}", steps)


# ---- the others ----


def priority_field() -> Case:
    """The lower number is asked first; a pass leads past all other policies of the tier."""
    peer = {"from": [SLYTHERIN]}, {"to": [SLYTHERIN]}
    deny = {
        "ingress": [{"name": "deny-all-ingress-from-slytherin", "action": "Deny"} | peer[0]],
        "egress": [{"name": "deny-all-egress-to-slytherin", "action": "Deny"} | peer[1]],
    }
    other = {
        "ingress": [{"name": "pass-all-ingress", "action": "Pass"} | peer[0]],
        "egress": [{"name": "pass-all-egress", "action": "Pass"} | peer[1]],
    }
    baseline = {
        "ingress": [{"name": "allow-all-ingress", "action": "Accept"} | peer[0]],
        "egress": [{"name": "allow-all-egress", "action": "Accept"} | peer[1]],
    }
    denied = [
        "z/a -> x/*: no by deny-all-ingress-from-slytherin",
        "x/* -> z/a: no by deny-all-egress-to-slytherin",
    ]
    first = [
        cluster_policy("priority-50-example", priority=50, **deny),
        cluster_policy("old-priority-60-new-priority-40-example", priority=60, **other),
        cluster_policy("default", "Baseline", 10, **baseline),
    ]
    second = [cluster_policy("old-priority-60-new-priority-40-example", priority=40, **other)]
    return Case("CNPAdminTierPriorityField", [Step(denied, first), Step([], second)])


def integration() -> Case:
    """Admin denies; admin passes, and NetworkPolicy allows; NetworkPolicy goes, and the baseline denies."""

    def gress(action: str) -> dict[str, Any]:
        return {
            "ingress": [{"name": f"{action}-all-ingress", "action": action, "from": [SLYTHERIN]}],
            "egress": [{"name": f"{action}-all-egress", "action": action, "to": [SLYTHERIN]}],
        }

    selector = {
        "namespaceSelector": SLYTHERIN["pods"]["namespaceSelector"],
        "podSelector": SLYTHERIN["pods"]["podSelector"],
    }
    allow = policy(
        "x",
        "allow-gress-from-to-slytherin-to-gryffindor",
        podSelector=None,
        policyTypes=["Ingress", "Egress"],
        ingress=[{"from": [selector]}],
        egress=[{"to": [selector]}],
    )
    # Whom NetworkPolicy does not name is closed out by it.
    isolated = ["* -> x/*: no by default-deny", "x/* -> *: no by default-deny"]
    both = ["x/* -> z/a: {}", "z/a -> x/*: {}"]
    denied = ["x/* -> z/a: no by Deny-all-egress", "z/a -> x/*: no by Deny-all-ingress"]
    return Case(
        "CNPAdminTierIntegration",
        [
            Step(
                [*isolated, *denied],
                [
                    cluster_policy("pass-example", priority=10, **gress("Deny")),
                    allow,
                    cluster_policy("default", "Baseline", 10, **gress("Deny")),
                ],
            ),
            Step(
                [*isolated, *(line.format("yes") for line in both)],
                [cluster_policy("pass-example", priority=10, **gress("Pass"))],
            ),
            Step(denied, delete=["x/allow-gress-from-to-slytherin-to-gryffindor"]),
        ],
    )


def inline_cidr(tier: str) -> Case:
    """Of everything denied, single addresses are open; then a pod's only. `x/a` stands for the pod's addresses."""
    everything = {"name": "deny-egress-to-internet", "action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    slytherin = rule("allow-egress-to-slytherin", "Accept", "egress", SLYTHERIN)
    to_pods = {
        "name": "allow-egress-to-specific-podIPs",
        "action": "Accept",
        "to": [{"networks": ["y/a", "z/b"]}],
    }
    closed = ["x/* -> *: no by deny-egress-to-internet", "x/* -> z/a: yes"]

    def step(expect: Sequence[str], *rules: Document) -> Step:
        return Step(expect, [cluster_policy("inline-cidr-as-peers-example", tier, egress=[*rules])])

    return Case(
        f"{TIERS[tier]}EgressInlineCIDRPeers",
        [
            step(closed, slytherin, everything),
            step([*closed, "x/* -> y/a: yes", "x/* -> z/b: yes"], to_pods, slytherin, everything),
            step(
                ["x/* -> y/a: no by deny-egress-to-specific", "x/* -> z/b: no by deny-egress-to-specific"],
                to_pods | {"name": "deny-egress-to-specific", "action": "Deny"},
            ),
        ],
    )


def named_port(tier: str, direction: str) -> Case:
    """The rule of hufflepuff's port names it, instead: the one that is opened is the lower one, of UDP or TCP alone."""
    kind, side = ("udp", "from") if direction == "ingress" else ("tcp", "to")
    rules = seven(tier, direction, [kind])
    rules[-2]["protocols"] = [{"destinationNamedPort": f"serve-80-{kind}"}]
    expect = [
        f"{between(direction, 'z/b')}: no by deny-{side}-hufflepuff-everything-else",
        f"{between(direction, 'z/c')}: no by deny-{side}-hufflepuff-everything-else",
        f"{between(direction, 'z/b')} at 80/{kind}: yes",
        f"{between(direction, 'z/c')} at 80/{kind}: yes",
        *of_slytherin(direction, [kind]),
    ]
    return Case(
        f"{TIERS[tier]}{direction.capitalize()}NamedPort",
        [Step(expect, [cluster_policy("named", tier, **{direction: rules})], probes=EVERY_PORT)],
    )


def port_range(tier: str) -> Case:
    """TCP from ravenclaw, UDP from hufflepuff, each in a range; everything else of the houses is denied."""

    def ranged(kind: str, start: int, end: int) -> list[Document]:
        return [{kind: {"destinationPort": {"range": {"start": start, "end": end}}}}]

    def rules(direction: str) -> list[Document]:
        side = SIDES[direction][0]
        return [
            rule(f"allow-{side}-ravenclaw-range", "Accept", direction, RAVENCLAW)
            | {"protocols": ranged("tcp", 79, 81)},
            rule(f"allow-{side}-hufflepuff-range", "Accept", direction, HUFFLEPUFF)
            | {"protocols": ranged("udp", 81, 99)},
            rule(f"deny-all-{direction}", "Deny", direction, {"namespaces": within("ns", "y", "z")}),
        ]

    expect: list[str] = []
    for direction in SIDES:
        expect += [
            f"{between(direction, 'y/*')}: no by deny-all-{direction}",
            f"{between(direction, 'z/*')}: no by deny-all-{direction}",
            *(f"{between(direction, 'y/*')} at {port}: yes" for port in ("80/tcp", "81/tcp")),
            *(f"{between(direction, f'z/{pod}')} at 81/udp: yes" for pod in "bc"),
        ]
    made = cluster_policy("port-range-rules", tier, 9, ingress=rules("ingress"), egress=rules("egress"))
    return Case(f"{TIERS[tier]}PortRange", [Step(expect, [made], probes=EVERY_PORT)])


def pod_selector(tier: str) -> Case:
    """By pod label alone in subject and peers, and a single pod of a namespace."""
    first = cluster_policy(
        "pod-selector-rules",
        tier,
        20,
        subject={"pods": {"podSelector": labels(pod="a")}},
        egress=[
            rule("deny-to-b-pods", "Deny", "egress", {"pods": {"podSelector": labels(pod="b")}}),
            rule(
                "deny-to-one",
                "Deny",
                "egress",
                {"pods": {"namespaceSelector": labels(ns="z"), "podSelector": labels(pod="c")}},
            ),
        ],
        ingress=[rule("deny-from-c-pods", "Deny", "ingress", {"pods": {"podSelector": labels(pod="c")}})],
    )
    second = cluster_policy(
        "pod-name-subject-rules",
        tier,
        21,
        subject={"pods": {"namespaceSelector": labels(ns="y"), "podSelector": labels(pod="b")}},
        egress=[rule("deny-to-z", "Deny", "egress", {"namespaces": labels(ns="z")})],
    )
    expect: list[str] = []
    for namespace in "xyz":
        expect += [f"{namespace}/a -> {other}/b: no by deny-to-b-pods" for other in "xyz"]
        expect += [f"{namespace}/a -> z/c: no by deny-to-one"]
        expect += [f"{other}/c -> {namespace}/a: no by deny-from-c-pods" for other in "xyz"]
    expect += ["y/b -> z/*: no by deny-to-z"]
    return Case(f"{TIERS[tier]}PodSelector", [Step(expect, [first, second])])


def same_priority(tier: str) -> Case:
    """All are applied, each to its own subject."""

    def made(name: str, subject: Document, peer: Document, port: str) -> Document:
        rules = {one: [rule(f"{name}-{one}", "Deny", one, peer, port)] for one in SIDES}
        return cluster_policy(name, tier, 15, subject=subject, **rules)

    documents = [
        made("gryffindor-slytherin", GRYFFINDOR, SLYTHERIN, "80/tcp"),
        made("gryffindor-hufflepuff", GRYFFINDOR, HUFFLEPUFF, "80/tcp"),
        made("hufflepuff-slytherin", HUFFLEPUFF, SLYTHERIN, "81/tcp"),
    ]
    expect = [
        "x/* -> z/a at 80/tcp: no by gryffindor-slytherin-egress",
        "z/a -> x/* at 80/tcp: no by gryffindor-slytherin-ingress",
    ]
    for pod in ("z/b", "z/c"):
        expect += [
            f"x/* -> {pod} at 80/tcp: no by gryffindor-hufflepuff-egress",
            f"{pod} -> x/* at 80/tcp: no by gryffindor-hufflepuff-ingress",
            f"{pod} -> z/a at 81/tcp: no by hufflepuff-slytherin-egress",
            f"z/a -> {pod} at 81/tcp: no by hufflepuff-slytherin-ingress",
        ]
    return Case(f"{TIERS[tier]}SamePriority", [Step(expect, documents, probes=LOW_AND_HIGH["tcp"])])


CLUSTER_CASES: tuple[Case, ...] = (
    *(
        rules_case(tier, f"{direction.capitalize()}{kind.upper()}", [direction], [kind])
        for tier in TIERS
        for direction in SIDES
        for kind in LOW_AND_HIGH
    ),
    *(rules_case(tier, "Gress", [*SIDES], [*LOW_AND_HIGH]) for tier in TIERS),
    priority_field(),
    integration(),
    *(inline_cidr(tier) for tier in TIERS),
    *(named_port(tier, direction) for tier in TIERS for direction in SIDES),
    *(port_range(tier) for tier in TIERS),
    *(pod_selector(tier) for tier in TIERS),
    *(same_priority(tier) for tier in TIERS),
)
SCTP_CASES = tuple(f"{TIERS[tier]}{direction.capitalize()}SCTP" for tier in TIERS for direction in SIDES)
