"""What the datapath and the agent's writing of it do in states that nobody wants: maps full, programs of others, links
and mounts gone. docs/explanation/datapath.md says the same in its table."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from support.live import FIRST_ID, Live, echoing, living

from whit.base.settings import Settings
from whit.datapath.abi import Direction, DropKey, DropReason, FlowFlags, Hook, PolicyKey, PolicyValue, Verdict
from whit.datapath.attach import best_form
from whit.kernel import netns

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(60)]

VIP = IPv4Address("198.18.77.200")
FEW_FLOWS = 2048


@pytest.fixture
def live(settings: Settings) -> Iterator[Live]:
    """Small maps: what takes millions of connections elsewhere takes thousands here."""
    sizes = {"flows": FEW_FLOWS, "events": 4096}
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
