"""What the datapath and the agent's writing of it do in states that nobody wants: maps full, programs of others, links
and mounts gone. docs/explanation/datapath.md says the same in its table."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.live import FIRST_ID, Live, echoing, living

from whit.base.errors import MapFull
from whit.base.settings import Settings
from whit.datapath.abi import (
    Direction,
    DropKey,
    DropReason,
    FlowFlags,
    Hook,
    IdentityKey,
    IdentityValue,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.address import Address
from whit.datapath.attach import best_form
from whit.kernel import netns
from whit.mesh.compiler import compile_rules
from whit.mesh.services import Backend, Service
from whit.mesh.tables import IdentityMap, ServiceMaps, write_policy
from whit.model.policy import Rule

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(60)]

VIP = IPv4Address("198.18.77.200")
FEW_FLOWS = 2048
FEW = 8
"""Entries of the maps that user space writes."""


@pytest.fixture
def live(settings: Settings) -> Iterator[Live]:
    """Small maps: what takes millions of connections elsewhere takes thousands here."""
    few = dict.fromkeys(("backends", "slots", "frontends", "policies"), FEW)
    sizes = few | {"flows": FEW_FLOWS, "events": 4096, "identities": 2 * FEW}
    with living(settings, best_form(), redirect_peer=True, sizes=sizes) as made:
        yield made


def close_to_answers(live: Live) -> None:
    """Instance 2 may begin nothing: what it sends passes as an answer or not at all."""
    key = PolicyKey(72, FIRST_ID + 2, 0, Direction.EGRESS, 0, 0)
    live.datapath.policies.put(key, PolicyValue(9, 1, Verdict.DENY, 0, 0))


def flood(live: Live, count: int) -> None:
    """So many flows that are of one datagram."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            for number in range(count):
                with contextlib.suppress(ConnectionRefusedError):
                    own.sendto(b"x", (str(live.world.address(2)), 10_000 + number % 50_000))

    netns.call_in(live.place(1), send)


def connect(live: Live, address: IPv4Address, port: int) -> socket.socket:
    client = netns.call_in(live.place(1), lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    client.settimeout(5)
    client.connect((str(address), port))
    return client


def echo(client: socket.socket, data: bytes = b"still there?") -> bytes:
    client.sendall(data)
    return client.recv(64)


def dropped(live: Live, reason: DropReason, hook: Hook) -> int:
    value = live.datapath.drops.get(DropKey(reason, hook))
    return value.packets if value else 0


def test_connections_in_use_outlive_a_full_map_of_flows(live: Live) -> None:
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        for _ in range(20):
            assert echo(client) == b"still there?"
            flood(live, FEW_FLOWS // 8)
        assert live.datapath.flows.count() <= FEW_FLOWS
        assert echo(client) == b"still there?"
    assert dropped(live, DropReason.CONNTRACK_FULL, Hook.FROM_INSTANCE) == 0


@pytest.mark.parametrize("lost", ["asking", "answering", "both"])
def test_an_idle_connection_whose_entries_made_room_goes_on(live: Live, lost: str) -> None:
    """It is judged anew; with one backend it is the old one. What is asked again brings the way back again too."""
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        assert echo(client) == b"still there?"
        for key, value in list(live.datapath.flows.items()):
            if lost == "both" or bool(value.flags & FlowFlags.REPLY) == (lost == "answering"):
                live.datapath.flows.delete(key)
        assert echo(client) == b"still there?"


def test_an_idle_connection_makes_room_and_goes_on(live: Live) -> None:
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        assert echo(client) == b"still there?"
        for _ in range(4):
            flood(live, 4 * FEW_FLOWS)
        assert not [key for key, _ in live.datapath.flows.items() if key.protocol == 6], "it was to make room"
        assert echo(client) == b"still there?"


def test_a_full_ring_loses_events_and_counts_them_and_no_packet(live: Live) -> None:
    with echoing(live.place(2), socket.SOCK_STREAM):
        flood(live, 500)
        told = len(live.datapath.events.read())
        with connect(live, live.world.address(2), 8080) as client:
            assert echo(client) == b"still there?"
        lost = dropped(live, DropReason(0), Hook.LOST_EVENTS)
        assert told > 0
        assert told + lost >= 500


def services(live: Live, *numbers: int, backends: int = 1) -> list[Service]:
    """Services at .200 and up, which all lead to instance 2."""
    return [
        Service(
            number,
            (str(VIP + number),),
            backends=tuple(
                Backend((number * 16 + one) << 16, str(live.world.address(2)), port=8080) for one in range(backends)
            ),
        )
        for number in numbers
    ]


def holds(live: Live) -> list[dict[Any, Any]]:
    return [dict(table.items()) for table in (live.datapath.frontends, live.datapath.slots, live.datapath.backends)]


def test_services_that_have_no_room_are_left_out_and_the_others_kept_up(live: Live) -> None:
    writer = ServiceMaps(live.datapath)
    writer.write(services(live, *range(FEW - 1)))
    before = holds(live)
    with pytest.raises(MapFull, match=r"map backends: E2BIG") as raised:
        writer.write(services(live, *range(FEW - 1)) + services(live, 40, backends=FEW))
    assert f"room for {FEW} entries" in raised.value.hint
    assert holds(live) == before, "nothing is lost, nothing is half there"
    with pytest.raises(MapFull):
        writer.write(services(live, *range(1, FEW - 1)) + services(live, 40, backends=FEW))
    assert len(holds(live)[0]) == FEW - 2, "what is not wanted goes all the same"
    with pytest.raises(MapFull):
        writer.write(services(live, *range(2, FEW - 1)) + services(live, 1, backends=FEW))
    assert len(holds(live)[0]) == FEW - 2, "who cannot grow stays as it was"
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP + 1, 80) as client:
        assert echo(client) == b"still there?"


def test_full_service_maps_are_changed_in_place(live: Live) -> None:
    """Where old and new do not fit beside each other, but the new ones alone do."""
    writer = ServiceMaps(live.datapath)
    writer.write(services(live, *range(FEW)))
    writer.write(services(live, *range(20, 20 + FEW)))
    assert {key.address for key in holds(live)[0]} == {
        Address.from_ip(str(VIP + number)) for number in range(20, 20 + FEW)
    }
    assert writer.write(services(live, *range(20, 20 + FEW))) == 0


def test_policy_that_has_no_room_leaves_the_old_one(live: Live) -> None:
    def rule(number: int, subject: int, verdict: str) -> Rule:
        return Rule.model_validate(
            {"id": number, "subject": subject, "direction": "egress", "peer": 0, "verdict": verdict, "text": ""}
        )

    old = compile_rules([rule(1, FIRST_ID + 2, "deny"), *(rule(n, 500 + n, "allow") for n in range(2, 6))])
    write_policy(live.datapath, old)
    with pytest.raises(MapFull, match="map policies: ENOSPC"):
        write_policy(live.datapath, compile_rules([rule(n, 600 + n, "allow") for n in range(1, 30)]))
    assert dict(live.datapath.policies.items()) == old
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, live.world.address(2), 8080) as client:
        assert echo(client) == b"still there?"
    flows = live.datapath.flows.count()
    with contextlib.suppress(OSError), netns.call_in(live.place(2), lambda: socket.socket()) as refused:
        refused.settimeout(0.3)
        refused.connect((str(live.world.address(1)), 8080))
    assert live.datapath.flows.count() == flows
    assert dropped(live, DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE) > 0


def test_identities_that_have_no_room_take_nobodys_away(live: Live) -> None:
    def key(number: int) -> IdentityKey:
        return IdentityKey(128, Address.from_ip(f"198.18.77.{number}"))

    there = dict(live.datapath.identities.items())
    writer = IdentityMap(live.datapath)
    with pytest.raises(MapFull, match="map identities: ENOSPC"):
        writer.write(there | {key(100 + number): IdentityValue(7) for number in range(2 * FEW)})
    assert there.items() <= dict(live.datapath.identities.items()).items()
    writer.write(there)
    assert dict(live.datapath.identities.items()) == there
