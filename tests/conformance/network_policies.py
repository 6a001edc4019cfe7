"""The end-to-end cases of Kubernetes' NetworkPolicy, as data, under their upstream names.

Three namespaces x, y, z with the pods a, b, c each, labelled `ns` and `pod`. A case is a list of steps; a step applies
and deletes policies and sets labels, and says who then reaches whom: everybody, but for the lines of `expect`, of which
later ones win. `x/a` in an address block stands for the address of that pod.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Step:
    expect: Sequence[str]
    apply: Sequence[Document] = ()
    delete: Sequence[str] = ()
    """namespace/name."""
    namespace_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Added to those that a namespace has."""
    pod_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    probes: Sequence[str] = ("80/tcp",)


@dataclass(frozen=True)
class Case:
    name: str
    steps: Sequence[Step]

    @property
    def needs_sctp(self) -> bool:
        return any("sctp" in probe for step in self.steps for probe in step.probes)


def policy(namespace: str, name: str, **spec: Any) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, **spec},
    }


def labels(**wanted: str) -> Document:
    return {"matchLabels": wanted}


def within(key: str, *values: str) -> Document:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": [*values]}]}


def pod(name: str) -> Document:
    return {"podSelector": labels(pod=name)}


def ns(name: str) -> Document:
    return {"namespaceSelector": labels(ns=name)}


def port(number: int | str, protocol: str = "TCP") -> Document:
    return {"port": number, "protocol": protocol}


DENY_INGRESS: Document = {"policyTypes": ["Ingress"], "ingress": []}
DENY_ALL: Document = {"policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []}
A = labels(pod="a")
ONLY_TO_A = ["* -> x/a: no"]
BOTH_PORTS = ("80/tcp", "81/tcp")


def one(name: str, expect: Sequence[str], *policies: Document, **more: Any) -> Case:
    return Case(name, [Step(expect, policies, **more)])


def to_a(name: str, **spec: Any) -> Document:
    """An ingress policy for pod a of namespace x."""
    return policy("x", name, podSelector=A, **spec)


def default_deny_ingress(protocol: str, prefix: str = "") -> Case:
    return one(
        f"{prefix}should support a 'default-deny-ingress' policy",
        ["* -> x/*: no"],
        policy("x", "deny-ingress", **DENY_INGRESS),
        probes=(f"80/{protocol}",),
    )


def based_on_ports(protocol: str, prefix: str = "") -> Case:
    rule = {"from": [ns("y")], "ports": [port(81, protocol.upper())]}
    return one(
        f"{prefix}should enforce policy based on Ports",
        ["* -> x/a: no", f"y/* -> x/a at 81/{protocol}: yes"],
        to_a("allow-port-81", ingress=[rule]),
        probes=(f"80/{protocol}", f"81/{protocol}"),
    )


def pod_elsewhere(protocol: str, prefix: str = "") -> Case:
    return one(
        f"{prefix}should enforce policy to allow traffic only from a pod in a different namespace based on PodSelector "
        "and NamespaceSelector",
        ["* -> x/a: no", "y/a -> x/a: yes"],
        to_a("allow-ns-y-pod-a", ingress=[{"from": [ns("y") | pod("a")]}]),
        probes=(f"80/{protocol}",),
    )


ALLOW_ALL = {"ingress": [{}]}
ALLOW_80_NAMED = to_a("allow-named", ingress=[{"ports": [port("serve-80-tcp")]}])
EGRESS = {"policyTypes": ["Egress"]}


def block(network: str, *excepted: str) -> Document:
    return {"ipBlock": {"cidr": network} | ({"except": [*excepted]} if excepted else {})}


CASES: tuple[Case, ...] = (
    default_deny_ingress("tcp"),
    one(
        "should support a 'default-deny-all' policy",
        ["* -> x/*: no", "x/* -> *: no"],
        policy("x", "deny-all", **DENY_ALL),
    ),
    one(
        "should enforce policy to allow traffic from pods within server namespace based on PodSelector",
        ["* -> x/a: no", "x/b -> x/a: yes"],
        to_a("allow-x-b", ingress=[{"from": [pod("b")]}]),
    ),
    one(
        "should enforce policy to allow ingress traffic for a target",
        ["* -> x/*: no", "x/b -> x/a: yes"],
        policy("x", "deny-ingress", **DENY_INGRESS),
        to_a("allow-b", ingress=[{"from": [pod("b")]}]),
    ),
    one(
        "should enforce policy to allow ingress traffic from pods in all namespaces",
        [],
        to_a("allow-every-namespace", ingress=[{"from": [{"namespaceSelector": {}}]}]),
    ),
    one(
        "should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector",
        ["* -> x/a: no", "y/* -> x/a: yes"],
        to_a("allow-ns-y", ingress=[{"from": [ns("y")]}]),
    ),
    one(
        "should enforce policy based on PodSelector with MatchExpressions",
        ["* -> x/a: no", "x/b -> x/a: yes"],
        to_a("allow-b-expression", ingress=[{"from": [{"podSelector": within("pod", "b")}]}]),
    ),
    one(
        "should enforce policy based on NamespaceSelector with MatchExpressions",
        ["* -> x/a: no", "y/* -> x/a: yes"],
        to_a("allow-ns-y-expression", ingress=[{"from": [{"namespaceSelector": within("ns", "y")}]}]),
    ),
    one(
        "should enforce policy based on PodSelector or NamespaceSelector",
        ["* -> x/a: no", "y/* -> x/a: yes", "z/* -> x/a: yes", "x/b -> x/a: yes"],
        to_a(
            "allow-b-or-not-x",
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": {
                                "matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]
                            }
                        },
                        pod("b"),
                    ]
                }
            ],
        ),
    ),
    one(
        "should enforce policy based on PodSelector and NamespaceSelector",
        ["* -> x/a: no", "y/b -> x/a: yes", "z/b -> x/a: yes"],
        to_a(
            "allow-b-not-x",
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": {
                                "matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]
                            }
                        }
                        | pod("b")
                    ]
                }
            ],
        ),
    ),
    one(
        "should enforce policy based on Multiple PodSelectors and NamespaceSelectors",
        ["* -> x/a: no", "y/b -> x/a: yes", "y/c -> x/a: yes", "z/b -> x/a: yes", "z/c -> x/a: yes"],
        to_a(
            "allow-bc-yz",
            ingress=[{"from": [{"namespaceSelector": within("ns", "y", "z"), "podSelector": within("pod", "b", "c")}]}],
        ),
    ),
    one(
        "should enforce policy based on any PodSelectors",
        ["* -> x/a: no", "x/b -> x/a: yes", "x/c -> x/a: yes"],
        to_a("allow-b-or-c", ingress=[{"from": [pod("b"), pod("c")]}]),
    ),
    pod_elsewhere("tcp"),
    based_on_ports("tcp"),
    Case(
        "should enforce multiple, stacked policies with overlapping podSelectors",
        [
            Step(
                ["* -> x/a: no", "y/* -> x/a at 81/tcp: yes"],
                [to_a("allow-81", ingress=[{"from": [ns("y")], "ports": [port(81)]}])],
                probes=BOTH_PORTS,
            ),
            Step(
                ["* -> x/a: no", "y/* -> x/a: yes"],
                [to_a("allow-80", ingress=[{"from": [ns("y")], "ports": [port(80)]}])],
                probes=BOTH_PORTS,
            ),
        ],
    ),
    Case(
        "should support allow-all policy",
        [
            Step(["* -> x/*: no"], [policy("x", "deny-ingress", **DENY_INGRESS)], probes=BOTH_PORTS),
            Step([], [policy("x", "allow-all", **ALLOW_ALL)], probes=BOTH_PORTS),
        ],
    ),
    one(
        "should allow ingress access on one named port",
        ["* -> x/a at 81/tcp: no", "* -> x/a at 80/udp: no"],
        to_a("allow-named-80", ingress=[{"ports": [port("serve-80-tcp")]}]),
        probes=(*BOTH_PORTS, "80/udp"),
    ),
    one(
        "should allow ingress access from namespace on one named port",
        ["* -> x/a: no", "y/* -> x/a at 80/tcp: yes"],
        to_a("allow-y-named-80", ingress=[{"from": [ns("y")], "ports": [port("serve-80-tcp")]}]),
        probes=BOTH_PORTS,
    ),
    one(
        "should allow egress access on one named port",
        ["x/a -> *: no", "x/a -> * at 80/tcp: yes"],
        policy("x", "egress-named-80", podSelector=A, **EGRESS, egress=[{"ports": [port("serve-80-tcp")]}]),
        probes=BOTH_PORTS,
    ),
    Case(
        "should enforce updated policy",
        [
            Step([], [policy("x", "changing", **ALLOW_ALL)], probes=BOTH_PORTS),
            Step(["* -> x/*: no"], [policy("x", "changing", **DENY_INGRESS)], probes=BOTH_PORTS),
        ],
    ),
    Case(
        "should allow ingress access from updated namespace",
        [
            Step(
                ["* -> x/a: no"],
                [to_a("allow-updated", ingress=[{"from": [{"namespaceSelector": labels(ns2="updated")}]}])],
            ),
            Step(["* -> x/a: no", "y/* -> x/a: yes"], namespace_labels={"y": {"ns2": "updated"}}),
        ],
    ),
    Case(
        "should allow ingress access from updated pod",
        [
            Step(
                ["* -> x/a: no"], [to_a("allow-updated", ingress=[{"from": [{"podSelector": labels(pod2="updated")}]}])]
            ),
            Step(["* -> x/a: no", "x/b -> x/a: yes"], pod_labels={"x/b": {"pod2": "updated"}}),
        ],
    ),
    one(
        "should deny ingress from pods on other namespaces",
        ["y/* -> x/*: no", "z/* -> x/*: no"],
        policy("x", "allow-own", ingress=[{"from": [{"podSelector": {}}]}]),
    ),
    Case(
        "should deny ingress access to updated pod",
        [
            Step([], [policy("x", "deny-target", podSelector=labels(target="isolated"), **DENY_INGRESS)]),
            Step(["* -> x/a: no"], pod_labels={"x/a": {"target": "isolated"}}),
        ],
    ),
    one(
        "should deny egress from pods based on PodSelector",
        ["x/a -> *: no"],
        policy("x", "deny-egress-a", podSelector=A, **EGRESS, egress=[]),
    ),
    one(
        "should deny egress from all pods in a namespace",
        ["x/* -> *: no"],
        policy("x", "deny-egress", **EGRESS, egress=[]),
    ),
    Case(
        "should work with Ingress, Egress specified together",
        [
            Step(
                ["* -> x/a: no", "x/b -> x/a: yes", "x/a -> *: no", "x/a -> * at 80/tcp: yes"],
                [
                    to_a(
                        "both",
                        policyTypes=["Ingress", "Egress"],
                        ingress=[{"from": [pod("b")]}],
                        egress=[{"ports": [port(80)]}],
                    )
                ],
                probes=BOTH_PORTS,
            ),
        ],
    ),
    Case(
        "should support denying of egress traffic on the client side "
        "(even if the server explicitly allows this traffic)",
        [
            Step(
                ["x/a -> *: no", "x/a -> y/a: yes", "* -> y/a: no", "* -> y/b: no", "x/a -> y/a: yes"],
                [
                    policy("x", "egress-to-y-a", podSelector=A, **EGRESS, egress=[{"to": [ns("y") | pod("a")]}]),
                    policy("y", "admit-x-a-1", podSelector=A, ingress=[{"from": [ns("x") | pod("a")]}]),
                    policy("y", "admit-x-a-2", podSelector=labels(pod="b"), ingress=[{"from": [ns("x") | pod("a")]}]),
                ],
            ),
        ],
    ),
    one(
        "should enforce egress policy allowing traffic to a server in a different namespace based on PodSelector and "
        "NamespaceSelector",
        ["x/a -> *: no", "x/a -> y/a: yes"],
        policy("x", "egress-to-y-a", podSelector=A, **EGRESS, egress=[{"to": [ns("y") | pod("a")]}]),
    ),
    one(
        "should enforce ingress policy allowing any port traffic to a server on a specific protocol",
        ["* -> x/a at 80/udp: no"],
        to_a("allow-tcp", ingress=[{"ports": [{"protocol": "TCP"}]}]),
        probes=(*BOTH_PORTS, "80/udp"),
    ),
    Case(
        "should enforce multiple ingress policies with ingress allow-all policy taking precedence",
        [
            Step(
                ["* -> x/*: no", "* -> x/a at 81/tcp: no", "x/b -> x/a at 81/tcp: yes"],
                [
                    policy("x", "deny-ingress", **DENY_INGRESS),
                    to_a("allow-b-81", ingress=[{"from": [pod("b")], "ports": [port(81)]}]),
                ],
                probes=BOTH_PORTS,
            ),
            Step([], [policy("x", "allow-all", **ALLOW_ALL)], probes=BOTH_PORTS),
        ],
    ),
    Case(
        "should enforce multiple egress policies with egress allow-all policy taking precedence",
        [
            Step(["x/* -> *: no"], [policy("x", "deny-egress", **EGRESS, egress=[])], probes=BOTH_PORTS),
            Step([], [policy("x", "allow-egress", **EGRESS, egress=[{}])], probes=BOTH_PORTS),
        ],
    ),
    Case(
        "should stop enforcing policies after they are deleted",
        [
            Step(["* -> x/*: no", "x/* -> *: no"], [policy("x", "deny-all", **DENY_ALL)]),
            Step([], delete=["x/deny-all"]),
        ],
    ),
    one(
        "should allow egress access to server in CIDR block",
        ["x/a -> *: no", "x/a -> y/b: yes"],
        policy("x", "egress-block", podSelector=A, **EGRESS, egress=[{"to": [block("y/b")]}]),
    ),
    one(
        "should enforce except clause while egress access to server in CIDR block",
        ["x/a -> *: no", "x/a -> *: yes", "x/a -> x/b: no"],
        policy("x", "egress-except", podSelector=A, **EGRESS, egress=[{"to": [block("pool", "x/b")]}]),
    ),
    Case(
        "should ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed",
        [
            Step(
                ["x/a -> x/b: no"],
                [policy("x", "egress-except", podSelector=A, **EGRESS, egress=[{"to": [block("pool", "x/b")]}])],
            ),
            Step([], [policy("x", "egress-block", podSelector=A, **EGRESS, egress=[{"to": [block("x/b")]}])]),
        ],
    ),
    Case(
        "should enforce policies to check ingress and egress policies can be controlled independently based on "
        "PodSelector",
        [
            Step(
                ["* -> x/a: no", "x/b -> x/a: yes"],
                [to_a("admit-b", ingress=[{"from": [pod("b")]}])],
            ),
            Step(
                ["x/a -> *: no", "x/a -> x/b: yes"],
                [to_a("reach-b", **EGRESS, egress=[{"to": [pod("b")]}])],
                delete=["x/admit-b"],
            ),
        ],
    ),
    one(
        "should not mistakenly treat 'protocol: SCTP' as 'protocol: TCP', even if the plugin doesn't support SCTP",
        ["* -> x/a: no", "* -> x/a at 80/tcp: no"],
        to_a("allow-sctp-81", ingress=[{"ports": [port(81, "SCTP")]}]),
        probes=BOTH_PORTS,
    ),
    one(
        "should properly isolate pods that are selected by a policy allowing SCTP, "
        "even if the plugin doesn't support SCTP",
        ["* -> x/a: no"],
        to_a("allow-sctp-80", ingress=[{"ports": [port(80, "SCTP")]}]),
        probes=(*BOTH_PORTS, "80/udp"),
    ),
    one(
        "should not allow access by TCP when a policy specifies only UDP",
        ["* -> x/a at 81/tcp: no", "* -> x/a at 80/tcp: no", "* -> x/a at 80/udp: no"],
        to_a("allow-udp-81", ingress=[{"ports": [port(81, "UDP")]}]),
        probes=(*BOTH_PORTS, "80/udp", "81/udp"),
    ),
    one(
        "should enforce policy to allow traffic based on NamespaceSelector with MatchLabels using default ns label",
        ["* -> x/a: no", "y/* -> x/a: yes"],
        to_a(
            "allow-default-label",
            ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}]}],
        ),
    ),
    one(
        "should enforce policy based on NamespaceSelector with MatchExpressions using default ns label",
        ["* -> x/a: no", "y/* -> x/a: yes", "z/* -> x/a: yes"],
        to_a(
            "allow-default-expression",
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x"]}
                                ]
                            }
                        }
                    ]
                }
            ],
        ),
    ),
    default_deny_ingress("udp", "[UDP] "),
    based_on_ports("udp", "[UDP] "),
    pod_elsewhere("udp", "[UDP] "),
    default_deny_ingress("sctp", "[SCTP] "),
    based_on_ports("sctp", "[SCTP] "),
    pod_elsewhere("sctp", "[SCTP] "),
)
