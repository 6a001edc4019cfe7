"""Policies mean what Kubernetes says they do: compiled, they answer as a reference that reads them one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh.compiled import Compiled, compiled
from mesh.policy_reference import Question, look_up
from mesh.policy_semantics import Asked, End, Node, Pod, verdict
from support.policy_strategies import sets, wide_sets

from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.mesh.policy.explain import Dump, identity_of
from whit.mesh.policy.identities import numbers_of
from whit.mesh.policy.outside import outside_of
from whit.model.app import AppSpec
from whit.model.policy import HOST, PeerSpec, PolicyPort, PolicyRuleSpec, PolicySpec


def namespace(name: str) -> AppSpec:
    """As in the network policy tests of Kubernetes: pods a, b and c in namespaces x, y and z."""
    services: dict[str, Any] = {
        pod: {
            "image": "i",
            "labels": {"pod": pod},
            "expose": [
                {"name": "http", "port": 80 if pod == "a" else 81},
                {"name": "dns", "port": 80, "protocol": "udp"},
            ],
        }
        for pod in "abc"
    }
    return AppSpec.model_validate(
        {"name": name, "mode": "open", "directory": "/", "labels": {"ns": name}, "services": services}
    )


APPS = [namespace(name) for name in "xyz"]
PODS = [Pod(app, name) for app in APPS for name in app.services]
ADDRESSES = [
    ip_address(text)
    for text in (
        "203.0.113.1",
        "203.0.113.200",
        "192.0.2.1",
        "10.9.0.1",
        "2001:db8:1::1",
        "2001:db8:1:8000::1",
        "fd99::1",
    )
]
PORTS = (
    *((protocol, port) for protocol in (6, 17, 132) for port in (79, 80, 81, 82)),
    (1, 0x0800),
    (1, 0x0301),
    (58, 0x8000),
    (58, 0x8100),
)


def test_policies_mean_what_kubernetes_says(sample: Callable[[int, int], int]) -> None:
    @settings(max_examples=sample(100, 3000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(sets, wide_sets), st.sampled_from(PODS))
    def check(policies: list[PolicySpec], subject: Pod) -> None:
        hold_to_meaning(policies, subject)

    check()


def hold_to_meaning(policies: list[PolicySpec], subject: Pod) -> None:
    found = compiled(APPS, policies)
    regions = numbers_of(found.identities, outside_of(APPS, policies)).regions
    identities = Dump(
        identities=node.node_identities(
            AddressBook(pool="10.219.0.0/16", pool6="fd07:0:0:1::/64", ipv6=True), [], regions
        )
    )
    own = {key: value for key, value in found.table.items() if key.subject == found.number(subject.title)}
    for asked, question in questions(found, identities, subject):
        answer = look_up(own, question)
        told = "audit" if answer.audit else "allow" if answer.passes else "deny"
        assert told == verdict(APPS, policies, asked), (asked, answer, found.rules.texts().get(answer.rule))
        assert answer.rule in found.rules.texts()


@pytest.mark.parametrize("block", ["::/0", "::/64", "0.0.0.0/0"])
@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize("excepted", [(), ("2001:db8:1::/48",)])
def test_a_block_of_one_family_says_nothing_of_the_other(block: str, action: str, excepted: tuple[str, ...]) -> None:
    """IPv4 is a part of IPv6's space in the map of identities."""
    peer = {"cidr": block, "excepted": excepted if block == "::/0" else ()}
    rule = {"direction": "egress", "action": action, "peers": [peer]}
    hold_to_meaning(
        [PolicySpec.model_validate({"name": "p", "app": "x", "directions": ["egress"], "rules": [rule]})], PODS[0]
    )


def test_a_block_of_ipv4_in_the_words_of_ipv6_is_refused() -> None:
    with pytest.raises(ValueError, match="are addresses of IPv4 written as IPv6's; write the network as IPv4's"):
        PeerSpec(cidr="::ffff:10.0.0.0/104")


def questions(found: Compiled, dump: Dump, subject: Pod) -> Iterator[tuple[Asked, Question]]:
    ends: list[End] = [*PODS, *ADDRESSES, Node.HOST]
    for peer in ends:
        number = number_of(found, dump, peer)
        for direction in ("egress", "ingress"):
            for protocol, port in PORTS:
                asked = Asked(subject, direction, peer, protocol, port)  # type: ignore[arg-type]
                yield asked, Question(found.number(subject.title), direction, number, protocol, port)


def number_of(found: Compiled, dump: Dump, end: End) -> int:
    if isinstance(end, Pod):
        return found.number(end.title)
    return HOST if end is Node.HOST else identity_of(dump, str(end))


def cluster_rule(action: str, port: int | None = None) -> PolicyRuleSpec:
    ports = (PolicyPort(port=port),) if port else ()
    return PolicyRuleSpec.model_validate({"direction": "ingress", "action": action, "ports": ports})


def cluster(name: str, tier: str, priority: int, *rules: PolicyRuleSpec) -> PolicySpec:
    return PolicySpec.model_validate(
        {"name": name, "tier": tier, "priority": priority, "directions": ("ingress",), "rules": rules}
    )


CLOSED = PolicySpec(name="closed", app="x", directions=("ingress",))
ALLOW, DENY, PASS = (cluster_rule(action) for action in ("allow", "deny", "pass"))


@pytest.mark.parametrize(
    ("policies", "expected", "cause"),
    [
        ([cluster("a", "admin", 1, ALLOW, DENY), CLOSED], True, "admin policy a rule 1"),
        ([cluster("a", "admin", 1, DENY, ALLOW)], False, "admin policy a rule 1"),
        ([cluster("a", "admin", 1, PASS, DENY)], True, "x/c to"),
        ([cluster("a", "admin", 1, PASS, ALLOW), CLOSED], False, "default-deny by policy x/closed"),
        ([cluster("a", "admin", 2, DENY), cluster("b", "admin", 1, ALLOW)], True, "admin policy b rule 1"),
        ([cluster("a", "admin", 2, ALLOW), cluster("b", "admin", 1, PASS), CLOSED], False, "default-deny by policy x"),
        ([cluster("a", "admin", 1, PASS), cluster("b", "baseline", 1, DENY)], False, "baseline policy b rule 1"),
        ([cluster("a", "admin", 1, cluster_rule("deny", 81))], True, ""),
        ([cluster("a", "admin", 1, cluster_rule("pass", 80), DENY)], True, ""),
        ([cluster("b", "baseline", 1, PASS, DENY)], True, ""),
        ([cluster("b", "baseline", 1, ALLOW), CLOSED], False, "default-deny by policy x/closed; there is no rule"),
    ],
)
def test_tiers_are_asked_in_their_order(policies: list[PolicySpec], expected: bool, cause: str) -> None:
    """From c to a of x, at port 80."""
    found = compiled(APPS, policies)
    answer = look_up(found.table, Question(found.number("x/a"), "ingress", found.number("x/c"), 6, 80))
    assert answer.passes is expected
    assert cause in found.rules.texts()[answer.rule]
