"""Recorded flows judged by what policies would be, over the real log and the real engine."""

from __future__ import annotations

from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mesh.test_mesh_check import admin, named, policy, shop

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows.log import FlowLog
from whit.mesh.flows.store import FlowStore
from whit.mesh.policy.recorded import gather
from whit.mesh.policy.replay import replay
from whit.mesh.policy.scenario import Present
from whit.model.app import AppSpec
from whit.model.finding import Candidate
from whit.model.policy import HOST, WORLD, PolicySpec
from whit.model.replay import Replay

BOOT = datetime(2026, 1, 2, tzinfo=UTC)
APP = shop()
PRESENT = Present((APP,), known=Present((APP,)).with_().book)
ADDRESSES = {
    "web": "10.77.0.2",
    "api": "10.77.0.3",
    "db": "10.77.0.4",
    "world": "203.0.113.7",
    "elsewhere": "203.0.113.200",
    "host": "10.77.0.1",
}


def number(name: str) -> int:
    reserved = {"world": WORLD, "elsewhere": WORLD, "host": HOST}
    return reserved.get(name) or PRESENT.with_().book.numbers[f"shop/{name}"]


def event(source: str, destination: str, port: int, at: float = 1.0, **fields: Any) -> bytes:
    plain = abi.FlowEvent(
        time_ns=int(at * 1e9),
        kind=abi.EventKind.FLOW,
        hook=abi.Hook.FROM_INSTANCE,
        reason=0,
        ifindex=1,
        source=Address.from_ip(ADDRESSES[source]),
        destination=Address.from_ip(ADDRESSES[destination]),
        service=Address.from_ip(ADDRESSES[destination]),
        source_port=40000,
        destination_port=port,
        service_port=port,
        protocol=6,
        verdict=abi.Verdict.ALLOW,
        source_identity=number(source),
        destination_identity=number(destination),
        egress_rule=0,
        ingress_rule=0,
        length=60,
        flags=0,
        icmp_type=0,
        icmp_code=0,
    )
    return changed(plain, **fields).pack()


DENIED = {"verdict": abi.Verdict.DENY, "reason": abi.DropReason.POLICY_EGRESS}


def replayed(records: list[bytes], *policies: PolicySpec, apps: tuple[AppSpec, ...] = (), since: float = 0) -> Replay:
    log = FlowLog()
    log.context.boot = BOOT
    log.add(records)
    start = BOOT + timedelta(seconds=since)
    now, then = PRESENT.with_(), PRESENT.with_(Candidate(apps=apps, policies=policies))
    return replay(gather(log.backwards(start), start), now, then)


def told(found: Replay) -> list[tuple[str, str, str, str, int, int]]:
    return [(one.now, one.then, one.source, one.destination, one.port, one.count) for one in found.changes]


def test_what_would_be_denied_and_what_would_be_allowed() -> None:
    records = [
        *(event("web", "api", 80, at) for at in (1, 2, 3)),
        event("api", "db", 5432),
        *(event("web", "db", 5432, at, **DENIED) for at in (4, 5)),
    ]
    deny = {"direction": "ingress", "action": "deny", "peers": [named("api")]}
    reaches = {"direction": "egress", "peers": [named("db")], "ports": [{"port": 5432}]}
    admits = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 5432}]}
    found = replayed(
        records,
        policy("db", rules=[deny, admits], **named("db")),
        policy("web", rules=[reaches], **named("web")),
    )
    assert told(found) == [
        ("allow", "deny", "shop/api", "shop/db", 5432, 1),
        ("deny", "allow", "shop/web", "shop/db", 5432, 2),
    ]
    assert (found.flows, found.distinct, found.gone) == (6, 3, 0)
    assert found.changes[0].then_rule.startswith("policy shop/db rule 1: deny from services whit.service=api")
    assert found.changes[1].now_rule.startswith("shop/web is declared")
    assert (found.changes[1].first, found.changes[1].last) == (BOOT + timedelta(seconds=4), BOOT + timedelta(seconds=5))
    assert found.changes[1].recorded == {"deny": 2}


def test_nothing_changes_where_the_candidate_says_the_same() -> None:
    records = [event("web", "api", 80), event("web", "db", 5432, **DENIED), event("host", "api", 80, **DENIED)]
    same = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 80}]}
    assert told(replayed(records, policy("a", rules=[same], **named("api")))) == []


def test_an_app_that_no_longer_uses_a_service() -> None:
    without = shop(web={"image": "i"}, api={"image": "i"}, db={"image": "i"})
    found = replayed([event("web", "api", 80), event("web", "api", 81, **DENIED)], apps=(without,))
    assert told(found) == [("allow", "deny", "shop/web", "shop/api", 80, 1)]


def test_services_that_would_be_gone_are_counted_and_not_judged() -> None:
    found = replayed([event("web", "api", 80)], apps=(shop(api={"image": "i"}),))
    assert (told(found), found.gone) == ([], 1)


def test_the_world_is_what_the_candidate_makes_of_it() -> None:
    """The address had the identity of the world; beside the candidate's networks it has another."""
    reach = {"direction": "egress", "peers": [{"cidr": "203.0.113.0/24", "excepted": ["203.0.113.128/25"]}]}
    records = [event("web", "world", 443, **DENIED), event("web", "elsewhere", 443, **DENIED)]
    found = replayed(records, policy("a", rules=[reach], **named("web")))
    assert told(found) == [("deny", "allow", "shop/web", "203.0.113.7", 443, 1)]


def test_audit_would_be_told() -> None:
    deny = {"direction": "ingress", "action": "deny", "peers": [named("web")]}
    found = replayed([event("web", "api", 80)], policy("a", rules=[deny], mode="audit", **named("api")))
    assert told(found) == [("allow", "audit", "shop/web", "shop/api", 80, 1)]


def test_types_of_icmp_are_judged_as_such() -> None:
    def ping(kind: int) -> bytes:
        return event("web", "world", 7, protocol=1, icmp_type=kind, **DENIED)

    ports = [{"protocol": "icmp", "icmp_type": 8}]
    reach = {"direction": "egress", "peers": [{"entity": "world"}], "ports": ports}
    found = replayed([ping(8), ping(13)], policy("a", rules=[reach], **named("web")))
    assert [(one.protocol, one.port) for one in found.changes] == [("icmp", 8 << 8)]


def test_only_flows_since_then_count_and_only_what_policy_decided() -> None:
    records = [
        *(event("web", "api", 80, at) for at in (1, 20, 30)),
        event("web", "api", 80, 25, verdict=abi.Verdict.DENY, reason=abi.DropReason.NO_BACKEND),
    ]
    every = {"direction": "ingress", "action": "deny", "peers": [{"apps": {}}]}
    found = replayed(records, admin("a", [every]), since=15)
    assert told(found) == [("allow", "deny", "shop/web", "shop/api", 80, 2)]
    assert (found.flows, found.skipped, found.since) == (2, 1, BOOT + timedelta(seconds=20))


def test_flows_on_disk_count_too(tmp_path: Path) -> None:
    log = FlowLog(store=FlowStore(tmp_path, 1 << 20))
    log.context.boot = BOOT
    log.add([event("web", "api", 80, at) for at in range(100)])
    log.keep()
    again = FlowLog(store=FlowStore(tmp_path, 1 << 20))
    found = gather(again.backwards())
    assert [seen.count for seen in found.ways.values()] == [100]
