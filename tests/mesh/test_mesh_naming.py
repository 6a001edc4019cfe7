"""Events become flows with names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows.naming import Context, Dictionary, flow_of
from whit.mesh.policy.identities import IdentityBook
from whit.model.flow import Flow

WEB, API = 0x1000001, 0x1000002
WORDS = Dictionary(
    IdentityBook(names={WEB: "shop/web", API: "shop/api"}),
    {7: "shop/web uses api:80/tcp", 8: "shop/api is declared: only those that use it reach it", 9: "x: undeclared"},
    {16: "shop-web-1"},
)
BOOT = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = Context(BOOT, {1: "w-t-16", 2: "eth0"})
EVENT = abi.FlowEvent(
    time_ns=1_500_000_000,
    kind=abi.EventKind.FLOW,
    source=Address.from_ip("10.77.0.16"),
    destination=Address.from_ip("10.77.0.17"),
    service=Address.from_ip("10.77.128.1"),
    source_port=40000,
    destination_port=80,
    service_port=8080,
    protocol=6,
    verdict=abi.Verdict.ALLOW,
    source_identity=WEB,
    destination_identity=API,
    egress_rule=7,
    ingress_rule=8,
    ifindex=1,
    length=60,
    reason=0,
    hook=abi.Hook.FROM_INSTANCE,
    flags=0,
    icmp_type=0,
    icmp_code=0,
)


def flow(**changes: int) -> Flow:
    return flow_of(replace(EVENT, **changes), WORDS, CONTEXT)


def test_numbers_become_names() -> None:
    seen = flow()
    assert Flow.model_validate(seen.model_dump()) == seen
    assert (seen.source.name, seen.destination.name, seen.service) == ("shop/web", "shop/api", "10.77.128.1:8080")
    assert (seen.verdict, seen.rule, seen.rule_text, seen.reason) == ("allow", 7, "shop/web uses api:80/tcp", "")
    assert (seen.protocol, seen.hook, seen.link) == ("tcp", "from-instance", "shop-web-1")
    assert seen.time == BOOT + timedelta(seconds=1.5)
    assert flow(ifindex=2).link == "eth0"


@pytest.mark.parametrize(
    ("reason", "rule"),
    [(abi.DropReason.POLICY_INGRESS, 8), (abi.DropReason.POLICY_EGRESS, 7)],
)
def test_a_drop_names_the_rule_of_the_side_that_dropped(reason: abi.DropReason, rule: int) -> None:
    seen = flow(verdict=abi.Verdict.DENY, reason=reason)
    assert (seen.verdict, seen.reason, seen.rule) == ("deny", reason.name, rule)
    assert seen.reason_text == abi.DROP_TEXTS[reason]


def test_what_came_from_outside_is_named_by_the_rule_that_admitted_it() -> None:
    assert flow(egress_rule=0).rule == 8


def test_audited_and_undeclared_flows_are_marked() -> None:
    assert flow(flags=abi.PolicyFlags.AUDIT).verdict == "audit"
    assert flow(egress_rule=9).undeclared
    assert not flow().undeclared
    assert not flow(egress_rule=9, verdict=abi.Verdict.DENY, reason=1).undeclared


def test_a_reason_of_a_later_release_is_told_by_its_number() -> None:
    seen = flow(verdict=abi.Verdict.DENY, reason=999)
    assert (seen.reason, seen.reason_text) == ("reason 999", "")


END = abi.EndEvent(
    time_ns=4_000_000_000,
    kind=abi.EventKind.END,
    hook=abi.Hook.FROM_INSTANCE,
    flow_flags=abi.FlowFlags.REPLY,
    ifindex=1,
    source=EVENT.source,
    destination=EVENT.destination,
    source_port=40000,
    destination_port=80,
    protocol=6,
    reset=1,
    source_identity=WEB,
    destination_identity=API,
    duration_ns=2_500_000_000,
    packets=10,
    bytes=1000,
    reply_packets=20,
    reply_bytes=30000,
    rtt_us=150,
    retransmits=2,
)
HTTP = abi.HttpEvent(
    time_ns=3_000_000_000,
    kind=abi.EventKind.HTTP,
    hook=abi.Hook.FROM_INSTANCE,
    status=503,
    ifindex=1,
    source=EVENT.source,
    destination=EVENT.destination,
    source_port=40000,
    destination_port=80,
    method=abi.HttpMethod.POST,
    path_length=7,
    source_identity=WEB,
    destination_identity=API,
    latency_us=1234,
    path=b"/orders?x=1".ljust(abi.HTTP_PATH_BYTES, b"\0"),
)


def test_an_end_tells_what_the_connection_had_been() -> None:
    seen = flow_of(END, WORDS, CONTEXT)
    assert Flow.model_validate(seen.model_dump()) == seen
    assert (seen.kind, seen.protocol, seen.verdict, seen.source.name) == ("end", "tcp", "allow", "shop/web")
    assert seen.end is not None
    assert seen.end.model_dump() == {
        "seconds": 2.5,
        "packets": 10,
        "bytes": 1000,
        "reply_packets": 20,
        "reply_bytes": 30000,
        "rtt_us": 150,
        "retransmits": 2,
        "reset": True,
    }


def test_an_exchange_tells_what_was_asked_and_answered() -> None:
    seen = flow_of(HTTP, WORDS, CONTEXT)
    assert Flow.model_validate(seen.model_dump()) == seen
    assert (seen.kind, seen.protocol, seen.destination.port) == ("http", "tcp", 80)
    assert seen.http is not None
    assert seen.http.model_dump() == {"method": "POST", "path": "/orders", "status": 503, "latency_us": 1234}
    strange = replace(HTTP, path=b"/\xff\x00" + bytes(61), path_length=3, method=77)
    assert flow_of(strange, WORDS, CONTEXT).http.path == "/\\xff\x00"  # type: ignore[union-attr]


def test_a_destination_has_the_name_that_was_asked_for() -> None:
    asked = Context(BOOT, {}, {EVENT.source.packed + EVENT.destination.packed: "api.example.com"})
    assert flow_of(EVENT, WORDS, asked).destination.dns == "api.example.com"
    other = replace(EVENT, source=Address.from_ip("10.77.0.99"))
    assert flow_of(other, WORDS, asked).destination.dns == ""


def test_a_hop_is_no_flow() -> None:
    with pytest.raises(TypeError):
        flow_of(abi.HopEvent(*[0] * 5, EVENT.source, EVENT.source, *[0] * 7), WORDS, CONTEXT)
