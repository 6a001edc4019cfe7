"""The conformance cases of ClusterNetworkPolicy over real instances, both families and protocols: who reaches whom, and
what the mesh tells of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence

import pytest
from conformance.checking import assert_told, described, play_case
from conformance.cluster_policies import CLUSTER_CASES, GRYFFINDOR, SCTP_CASES, SLYTHERIN, TIERS, cluster_policy, rule
from conformance.network_policies import Case
from conformance.probing import Goal
from support.cluster import Cluster, tuple_of
from support.service_site import UDP, ask, until
from support.whit import free_port

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]


@pytest.mark.parametrize("case", CLUSTER_CASES, ids=lambda case: case.name)
def test_cluster_policy(cluster: Cluster, case: Case) -> None:
    play_case(cluster, case)


@pytest.mark.parametrize("name", SCTP_CASES)
def test_cluster_policy_sctp(name: str) -> None:
    pytest.skip("this kernel has no SCTP")


@pytest.fixture
def on_node(cluster: Cluster) -> Iterator[list[str]]:
    """A server on the node itself, on two ports of each protocol: TCP, TCP, UDP, UDP."""
    ports = [f"{free_port()}/{protocol}" for protocol in ("tcp", "tcp", "udp", "udp")]
    with subprocess.Popen([cluster.image / "responder", *ports], env=os.environ | {"NAME": "node"}) as server:
        try:
            assert until(lambda: ask("127.0.0.1", int(ports[-1].split("/")[0]), UDP) == "node")
            yield ports
        finally:
            server.kill()


def answers(cluster: Cluster, goals: Sequence[Goal], word: str) -> list[str]:
    """Who answers each; of what nobody does, it was told that the rule of that name denied it."""
    attempts, flows = cluster.attempt(goals)
    told = {tuple_of(flow): flow for flow in flows}
    for one in attempts:
        assert_told(told[one.sent], bool(one.answer), "" if one.answer else word, described(one))
    return [one.answer for one in attempts]


@pytest.mark.parametrize("tier", TIERS)
def test_egress_node_peers(cluster: Cluster, on_node: list[str], tier: str) -> None:
    """CNPAdminTierEgressNodePeers, and that of the baseline: allow, pass and deny, each at a port of the node."""
    nodes = {"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}}
    deny = rule("deny-egress-to-slytherin-and-nodes-and-internet", "Deny", "egress", SLYTHERIN)
    deny["to"] += [nodes, {"networks": ["0.0.0.0/0", "::/0"]}]
    rules = [rule("allow-on-nodes", "Accept", "egress", nodes, on_node[0]), deny]
    if tier == "Admin":
        rules.insert(1, rule("pass-on-nodes", "Pass", "egress", nodes, on_node[2]))
    split = [port.split("/") for port in on_node]
    goals = [Goal("x/b", "node", address, int(port), protocol) for address in cluster.node for port, protocol in split]
    passed = "node" if tier == "Admin" else ""
    try:
        assert set(answers(cluster, goals, "")) == {"node"}
        cluster.apply([cluster_policy("node-and-cidr-as-peers-example", tier, 75, egress=rules)])
        assert answers(cluster, goals, "deny-egress-to-slytherin-and") == 2 * ["node", "", passed, ""]
    finally:
        cluster.reset()


def test_hairpin(cluster: Cluster) -> None:
    """CNPAdminTierHairpin: who reaches itself through its service is subject to ingress policy."""
    goals = [
        Goal("x/a", "x/a", address, 80, kind) for address in cluster.service_addresses("x/a") for kind in ("tcp", "udp")
    ]
    try:
        assert answers(cluster, goals, "") == 4 * ["x/a"]
        deny = rule("deny-gryffindor-ingress", "Deny", "ingress", GRYFFINDOR)
        cluster.apply([cluster_policy("hairpin-ingress-deny", ingress=[deny])])
        assert answers(cluster, goals, "deny-gryffindor-ingress") == 4 * [""]
    finally:
        cluster.reset()
