"""What flows a query lets through, and that the sieve never holds back one of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from whit.control.observing.query import FlowQuery
from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.events import Event
from whit.mesh.flows.naming import Context, Dictionary, flow_of
from whit.mesh.policy.identities import IdentityBook
from whit.model.flow import Flow
from whit.model.instance import InstanceStatus

WEB, API = 0x1000001, 0x1000002
WORDS = Dictionary(IdentityBook(names={WEB: "shop/web", API: "shop/api"}), {7: "web uses api", 9: "open: undeclared"})
SOURCE, DESTINATION, OUTSIDE = map(Address.from_ip, ("10.77.0.16", "10.77.0.17", "2001:db8::7"))
CONTEXT = Context(datetime(2026, 1, 1, tzinfo=UTC), {}, {SOURCE.packed + OUTSIDE.packed: "api.example.com"})

ALLOWED = abi.FlowEvent(
    10**9, 1, 1, 0, 1, SOURCE, DESTINATION, DESTINATION, 40000, 80, 80, 6, 1, WEB, API, 7, 8, 60, 0, 0, 0
)  # fmt: skip
DENIED = replace(ALLOWED, verdict=0, reason=1, destination_port=5432, time_ns=2 * 10**9)
OPEN = replace(ALLOWED, egress_rule=9, time_ns=3 * 10**9)
AWAY = replace(ALLOWED, destination=OUTSIDE, destination_identity=2, destination_port=443, source=SOURCE)
DATAGRAM = replace(ALLOWED, protocol=17, source=OUTSIDE, source_identity=2, destination_port=53)
END = abi.EndEvent(
    5 * 10**9, 2, 1, 0, 1, SOURCE, DESTINATION, 40000, 80, 6, 0, WEB, API, 10**9, 1, 1, 1, 1, 1, 0
)  # fmt: skip
HTTP = abi.HttpEvent(
    6 * 10**9, 3, 1, 503, 1, SOURCE, DESTINATION, 40000, 80, 1, 7, WEB, API, 900, b"/orders".ljust(64, b"\0")
)  # fmt: skip
ALL: dict[str, Event] = {
    "allowed": ALLOWED, "denied": DENIED, "open": OPEN, "away": AWAY, "datagram": DATAGRAM, "end": END, "http": HTTP,
}  # fmt: skip


def through(**asked: Any) -> set[str]:
    query = FlowQuery(**asked)
    return {name for name, event in ALL.items() if query.matches(named(event))}


def named(event: Event) -> Flow:
    return flow_of(event, WORDS, CONTEXT)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, set(ALL)),
        ({"kind": ["end", "http"]}, {"end", "http"}),
        ({"app": "shop", "kind": ["flow"]}, {"allowed", "denied", "open", "away", "datagram"}),
        ({"app": "sho"}, set()),
        ({"source": "world"}, {"datagram"}),
        ({"source": "10.77.0.16", "port": 443}, {"away"}),
        ({"destination": "api.example.com"}, {"away"}),
        ({"destination": "world,2001:db8::7"}, {"away"}),
        ({"verdict": "deny"}, {"denied"}),
        ({"reason": "POLICY_EGRESS"}, {"denied"}),
        ({"rule": 9}, {"open"}),
        ({"undeclared": True}, {"open"}),
        ({"port": 5432}, {"denied"}),
        ({"protocol": "udp"}, {"datagram"}),
        ({"family": 6}, {"datagram"}),
        ({"family": "6"}, {"datagram"}),
        ({"since": "2026-01-01T00:00:03Z"}, {"open", "end", "http"}),
        ({"until": "2026-01-01T01:00:01+01:00"}, {"allowed", "away", "datagram"}),
        ({"status": "503"}, {"http"}),
        ({"status": "5xx", "method": "get", "path": "/ord"}, {"http"}),
        ({"status": "4xx"}, set()),
        ({"path": "/", "kind": ["flow"]}, set()),
    ],
)
def test_filters(asked: dict[str, Any], found: set[str]) -> None:
    assert through(**asked) == found


def test_the_sieve_holds_back_nothing_that_matches() -> None:
    choices: dict[str, list[Any]] = {
        "kind": [[], ["flow"], ["end"], ["http", "end"]],
        "verdict": ["", "allow", "deny"],
        "reason": ["", "POLICY_EGRESS"],
        "port": [0, 80, 5432],
        "status": ["", "5xx"],
        "undeclared": [False, True],
    }
    held = 0
    for values in itertools.product(*choices.values()):
        query = FlowQuery(**dict(zip(choices, values, strict=True)))
        passes = query.sieve()
        for event in ALL.values():
            assert passes(event.pack()) or not query.matches(named(event)), (query, event)
            held += not passes(event.pack())
    assert held > 1000


@pytest.mark.parametrize(
    "asked", [{"status": "6xx"}, {"status": "50"}, {"family": 5}, {"since": "2026-01-01T00:00:00"}]
)
def test_nonsense_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FlowQuery(**asked)


def test_instances_are_known_by_their_addresses() -> None:
    instance = InstanceStatus(name="shop-web-1", app="shop", service="web", address="10.77.0.16", address6="fd00::1")
    query = FlowQuery(source="shop-web-1", destination="shop/api").with_addresses([instance])
    assert (query.source, query.destination) == ("10.77.0.16,fd00::1", "shop/api")
    assert query.matches(named(ALLOWED))
    assert not query.matches(named(DATAGRAM))
