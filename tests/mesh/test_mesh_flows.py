"""Events become flows with names; the log keeps the last, filters, and lets followers read on."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows import Dictionary, FlowLog, flow_of
from whit.mesh.identities import IdentityBook
from whit.model.flow import Flow

WEB, API = 0x1000001, 0x1000002
WORDS = Dictionary(
    IdentityBook(names={WEB: "shop/web", API: "shop/api"}),
    {7: "shop/web uses api:80/tcp", 8: "shop/api is declared: only those that use it reach it", 9: "x: undeclared"},
    {16: "shop-web-1"},
)
BOOT = datetime(2026, 1, 1, tzinfo=UTC)
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
    return flow_of(replace(EVENT, **changes), WORDS, BOOT, {1: "w-t-16", 2: "eth0"})


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


def test_the_log_keeps_the_last_and_finds_the_wanted() -> None:
    log = filled(10, capacity=4)
    assert len(log) == 4
    assert [one.destination.port for one in log.past(lambda _: True)] == [6, 7, 8, 9]
    assert [one.destination.port for one in log.past(lambda one: one.destination.port % 2 == 0)] == [6, 8]
    assert [one.destination.port for one in log.past(lambda _: True, limit=2)] == [8, 9]


def filled(count: int, capacity: int) -> FlowLog:
    log = FlowLog(capacity)
    log.words = WORDS
    log.add([record(port) for port in range(count)])
    return log


def record(port: int) -> bytes:
    return replace(EVENT, destination_port=port).pack()


async def test_followers_see_what_comes_and_let_go_when_closed() -> None:
    log = filled(3, capacity=100)
    async with contextlib.aclosing(log.follow(lambda one: one.destination.port > 10)) as flows:
        waiting = asyncio.create_task(anext(flows))
        await asyncio.sleep(0)
        log.add([record(5), record(11), record(12)])
        async with asyncio.timeout(1):
            assert (await waiting).destination.port == 11
            assert (await anext(flows)).destination.port == 12
    assert not log._followers


async def test_a_slow_follower_misses_some_and_never_holds_up_the_log() -> None:
    log = filled(0, capacity=100_000)
    flows = log.follow(lambda _: True)
    first = asyncio.create_task(anext(flows))
    await asyncio.sleep(0)
    log.add([record(port % 65536) for port in range(50_000)])
    assert (await first).destination.port == 0
    assert len(log) == 50_000
    await flows.aclose()
