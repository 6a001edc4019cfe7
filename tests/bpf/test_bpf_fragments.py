"""Packets that come in pieces: all of them go where the first one goes, in both families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import TCP, UDP
from support.packet_lab import (
    CLIENT,
    CLIENT_ID,
    IPV6_OF,
    NODE,
    OUTSIDE,
    REDIRECT,
    SERVER,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    VIP,
    Lab,
    delivered,
    echo,
    fragments,
    ip,
    network_layer,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, FragmentKey, Hook

pytestmark = pytest.mark.root

LOAD = bytes(range(50))


@dataclass(frozen=True)
class Family:
    client: str
    server: str
    vip: str
    node: str
    outside: str
    any: str


@pytest.fixture(params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    names = (CLIENT, SERVER, VIP, NODE, OUTSIDE)
    if request.param == "IPv6":
        return Family(*(IPV6_OF[name] for name in names), "::")
    return Family(*names, "0.0.0.0")


@pytest.mark.parametrize("make", [tcp, udp])
def test_all_pieces_go_to_the_backend_and_back(lab: Lab, family: Family, make: Any) -> None:
    size = 24
    lab.serve((family.server, 8080), address=family.vip, protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    asked = fragments(make(family.client, family.vip, 40000, 80, load=LOAD), size)
    wanted = fragments(delivered(make(family.client, family.server, 40000, 8080, load=LOAD), family.server), size)
    results = [lab.from_instance(piece) for piece in asked]
    assert [(result.action, result.data) for result in results] == [(REDIRECT, piece) for piece in wanted]
    (event,) = lab.events()
    assert event.destination_port == 8080
    answer, expected = (make(family.server, family.client, port, 40000, load=LOAD) for port in (8080, 80))
    network_layer(expected).src = family.vip
    results = [lab.from_instance(piece, SERVER) for piece in fragments(answer, size)]
    assert [result.data for result in results] == fragments(delivered(expected, family.client), size)
    flow = lab.flow(family.client, family.vip, 40000, 80, TCP_NUMBER if make is tcp else UDP_NUMBER)
    assert flow is not None
    assert flow.packets == len(asked)


def test_an_echo_in_pieces(lab: Lab, family: Family) -> None:
    lab.serve((family.server, 0), address=family.vip, port=0, protocol=0)
    asked, wanted = (echo(family.client, to) for to in (family.vip, family.server))
    results = [lab.from_instance(piece) for piece in fragments(asked, 8)]
    assert [result.data for result in results] == fragments(delivered(wanted, family.server), 8)


def test_a_piece_without_the_first_is_dropped(lab: Lab, family: Family) -> None:
    pieces = fragments(udp(family.client, family.server, load=LOAD))
    other = fragments(udp(family.client, family.server, load=LOAD), number=78)
    assert lab.from_instance(pieces[1]).action == SHOT
    assert lab.from_instance(pieces[0]).action == REDIRECT
    assert lab.from_instance(other[1]).action == SHOT
    assert lab.from_instance(pieces[1]).action == REDIRECT
    assert lab.drops() == {(DropReason.FRAGMENT, Hook.FROM_INSTANCE): 2}


def test_policy_holds_for_every_piece(lab: Lab, family: Family) -> None:
    lab.deny_all(CLIENT_ID, Direction.EGRESS)
    for piece in fragments(udp(family.client, family.server, load=LOAD)):
        assert lab.from_instance(piece).action == SHOT
    assert set(lab.drops()) == {(DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE)}


def test_nobody_tells_the_ports_of_anothers_pieces(lab: Lab, family: Family) -> None:
    piece = fragments(udp(family.server, family.client, load=LOAD))[0]
    assert lab.from_instance(piece).action == SHOT
    assert list(lab.datapath.fragments.items()) == []


def test_the_key_is_that_of_reassembly(lab: Lab, family: Family) -> None:
    """RFC 791 and 8200: in IPv6 the protocol is not part of it, and that of the first fragment holds."""
    lab.from_instance(fragments(udp(family.client, family.server, load=LOAD))[0])
    ((key, value),) = list(lab.datapath.fragments.items())
    assert isinstance(key, FragmentKey)
    assert (str(key.source), str(key.destination)) == (family.client, family.server)
    assert key.protocol == (44 if ":" in family.client else UDP_NUMBER)
    assert (value.source_port, value.destination_port, value.protocol) == (40000, 80, UDP_NUMBER)


@pytest.mark.parametrize("make", [tcp, udp])
def test_a_first_piece_too_small_for_its_header_is_malformed(lab: Lab, family: Family, make: Any) -> None:
    packet = ip(family.client, family.server) / (TCP() if make is tcp else UDP()) / LOAD
    piece = fragments(packet, 16 if make is tcp else 8)[0]
    assert lab.from_instance(piece if make is tcp else piece[:-2]).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


def test_pieces_from_outside(lab: Lab, family: Family) -> None:
    lab.serve((family.server, 8080), address=family.any, protocol=UDP_NUMBER)
    asked = fragments(udp(family.outside, family.node, 50000, 80, LOAD))
    wanted = fragments(delivered(udp(family.outside, family.server, 50000, 8080, LOAD), family.server))
    results = [lab.from_uplink(piece) for piece in asked]
    assert [(result.action, result.data) for result in results] == [(REDIRECT, piece) for piece in wanted]


def test_pieces_of_others_are_left_to_the_stack(lab: Lab, family: Family) -> None:
    lab.serve((family.server, 8080), address=family.any, protocol=UDP_NUMBER)
    for piece in fragments(udp(family.outside, family.node, 50000, 53, LOAD)):
        result = lab.from_uplink(piece)
        assert (result.action, result.data) == (UNSPEC, piece)
    late = fragments(udp(family.outside, family.node, 50000, 80, LOAD), number=78)[1]
    assert lab.from_uplink(late).action == UNSPEC
    assert lab.drops() == {}
