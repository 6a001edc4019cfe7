"""Edges of the kernel's map with names and rules, on a map with the real layout."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from whit.base.settings import Settings
from whit.datapath import abi, libbpf
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.mesh.flows import edges
from whit.mesh.flows.naming import Dictionary
from whit.mesh.policy.identities import IdentityBook

pytestmark = [pytest.mark.root, pytest.mark.machine]

WEB, API = 0x1000001, 0x1000002
WORDS = Dictionary(
    IdentityBook(names={WEB: "shop/web", API: "shop/api"}),
    {5: "web uses api", 6: "api: all else is denied", 7: "shop is open: undeclared"},
)


@pytest.fixture
def datapath(settings: Settings) -> Iterator[Datapath]:
    with Datapath.install(settings, DatapathConfig(IPv4Network("10.99.0.0/16"))) as found:
        yield found
    uninstall(settings)


def put(datapath: Datapath, key: abi.EdgeKey, *per_cpu: abi.EdgeValue) -> None:
    """A value for each processor, as the kernel keeps them."""
    cpus = libbpf.call("libbpf_num_possible_cpus")
    empty = abi.EdgeValue(*[0] * 12, bytes(64))
    values = b"".join(one.pack() for one in [*per_cpu, *[empty] * cpus][:cpus])
    assert libbpf.function("bpf_map_update_elem")(datapath.edges.fd, key.pack(), values, 0) == 0


def rule(
    datapath: Datapath, number: int, subject: int, peer: int, direction: int, verdict: int, prefix: int = 96
) -> None:
    key = abi.PolicyKey(prefix, subject, peer, direction, 6 if prefix > 72 else 0, 80 if prefix > 80 else 0)
    datapath.policies.put(key, abi.PolicyValue(number, 1 if verdict else 0, verdict, 0, 0))


def test_counters_of_all_processors_are_added_up(datapath: Datapath) -> None:
    first = abi.EdgeValue(1, 2, 3, 4, 5, 6, 7, 800, 2, 10, 1, 9000, b"\1\0\0\0" * 15 + b"\5\0\0\0")
    second = abi.EdgeValue(10, 20, 30, 40, 50, 60, 70, 8000, 20, 100, 10, 90000, b"\2\0\0\0" * 16)
    put(datapath, abi.EdgeKey(WEB, API, 80, 6, abi.Verdict.ALLOW), first, second)
    (seen,) = edges.named(edges.take(datapath), datapath, WORDS)
    assert (seen.source, seen.destination, seen.label, seen.verdict) == ("shop/web", "shop/api", "80/tcp", "allow")
    if libbpf.call("libbpf_num_possible_cpus") > 1:
        assert (seen.flows, seen.reply_bytes, seen.errors, seen.rtt) == (11, 55, 11, 400.0)
        assert seen.latency == (*[3] * 15, 7)


def test_an_edge_has_the_rule_that_decides_it_now(datapath: Datapath) -> None:
    put(datapath, abi.EdgeKey(WEB, API, 80, 6, abi.Verdict.ALLOW))
    put(datapath, abi.EdgeKey(WEB, API, 81, 6, abi.Verdict.DENY))
    rule(datapath, 6, API, 0, abi.Direction.INGRESS, abi.Verdict.DENY, 72)
    rule(datapath, 5, WEB, API, abi.Direction.EGRESS, abi.Verdict.ALLOW)
    found = {one.port: one for one in edges.named(edges.take(datapath), datapath, WORDS)}
    assert (found[80].rule_text, found[80].undeclared) == ("web uses api", False)
    assert (found[81].rule, found[81].rule_text) == (6, "api: all else is denied")
    rule(datapath, 7, WEB, API, abi.Direction.EGRESS, abi.Verdict.ALLOW)
    found = {one.port: one for one in edges.named(edges.take(datapath), datapath, WORDS)}
    assert found[80].undeclared
