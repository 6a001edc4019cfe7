"""What the next link does not carry: answered, cut by the stack, or let through if it will be cut anyway."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    HOST_MACS,
    MACS,
    MARK,
    NODE,
    NODE6,
    OK,
    OUTSIDE,
    OUTSIDE6,
    REDIRECT,
    SERVER,
    SERVER6,
    SHOT,
    UDP_NUMBER,
    VIP,
    VIP6,
    Lab,
    delivered,
    fragments,
    ip,
    raw,
    renewed,
    tcp,
    udp,
)

from whit.datapath.abi import DropReason, Hook

pytestmark = pytest.mark.root

MTU = 1400
LONG = bytes(1400)


@pytest.fixture
def narrow(lab: Lab) -> Lab:
    """The server's link and the uplink carry less than the client's."""
    for address, mtu in ((CLIENT, 1500), (SERVER, MTU), (OUTSIDE, MTU)):
        lab.datapath.mtus.put(lab.links[address], mtu)
    return lab


def answer(asked: Ether, source: str, to: str) -> Ether:
    head = Ether(src=HOST_MACS[to], dst=MACS[to])
    if ":" in source:
        return head / IPv6(src=source, dst=to, hlim=64) / ICMPv6PacketTooBig(mtu=MTU) / raw(asked)[14:62]
    return head / IP(src=source, dst=to, id=0) / ICMP(type=3, code=4, nexthopmtu=MTU) / raw(asked)[14:42]


def undivided(source: str, destination: str, load: bytes = LONG) -> Ether:
    fields = {} if ":" in source else {"flags": "DF"}
    return ip(source, destination, **fields) / UDP(sport=40000, dport=80) / load


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
@pytest.mark.parametrize("by_service", [False, True])
def test_what_may_not_be_cut_is_answered(narrow: Lab, client: str, server: str, by_service: bool) -> None:
    vip = VIP6 if ":" in client else VIP
    narrow.serve((server, 80), address=vip, protocol=UDP_NUMBER)
    asked = undivided(client, vip if by_service else server)
    result = narrow.from_instance(asked)
    assert (result.action, result.data) == (REDIRECT, raw(answer(asked, vip if by_service else server, client)))
    assert narrow.drops() == {(DropReason.TOO_BIG, Hook.FROM_INSTANCE): 1}


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_what_just_fits_passes(narrow: Lab, client: str, server: str) -> None:
    room = MTU - (40 if ":" in client else 20) - 8
    packet = undivided(client, server, bytes(room))
    result = narrow.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, server)))
    assert narrow.from_instance(undivided(client, server, bytes(room + 1))).data != result.data
    assert narrow.drops() == {(DropReason.TOO_BIG, Hook.FROM_INSTANCE): 1}


def test_ipv4_that_may_be_cut_is_the_stacks(narrow: Lab) -> None:
    """Translated already, and marked as judged by tc_index, so that to_instance lets the pieces pass."""
    narrow.serve((SERVER, 8080), protocol=UDP_NUMBER)
    result = narrow.from_instance(udp(CLIENT, VIP, 40000, 80, LONG))
    assert (result.action, result.mark) == (OK, MARK)
    assert result.data == raw(renewed(udp(CLIENT, SERVER, 40000, 8080, LONG)))
    assert narrow.drops() == {}


@pytest.mark.parametrize(("node", "outside", "server"), [(NODE, OUTSIDE, SERVER), (NODE6, OUTSIDE6, SERVER6)])
def test_an_answer_to_the_outside_that_is_too_big_is_answered(
    narrow: Lab, node: str, outside: str, server: str
) -> None:
    narrow.serve((server, 80), address=node, protocol=UDP_NUMBER)
    narrow.from_uplink(udp(outside, node, 40000, 80))
    asked = udp(server, outside, 80, 40000, LONG)
    result = narrow.from_instance(asked, SERVER)
    assert (result.action, result.data) == (REDIRECT, raw(answer(asked, outside, server)))


def test_what_comes_from_outside_is_answered_by_the_node(narrow: Lab) -> None:
    narrow.serve((SERVER, 8080), address=NODE, protocol=UDP_NUMBER)
    asked = undivided(OUTSIDE, NODE)
    result = narrow.from_uplink(asked)
    expected = Ether(src=asked.dst, dst=asked.src) / IP(src=NODE, dst=OUTSIDE, id=0)
    expected /= ICMP(type=3, code=4, nexthopmtu=MTU) / raw(asked)[14:42]
    assert (result.action, result.data) == (REDIRECT, raw(expected))


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
@pytest.mark.parametrize(("over", "fits"), [(0, True), (1, False)])
def test_segments_are_measured_one_by_one(narrow: Lab, client: str, server: str, over: int, fits: bool) -> None:
    """The TCP header has options: it is 32 bytes long."""
    size = MTU - (40 if ":" in client else 20) - 32 + over
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    fields = {} if ":" in client else {"flags": "DF"}
    packet = ip(client, server, **fields) / TCP(sport=40000, dport=80, flags="A", options=options) / bytes(2 * size)
    result = narrow.from_instance(packet, segments=2, size=size)
    assert (result.data == raw(delivered(packet, server))) is fits
    assert narrow.drops() == ({} if fits else {(DropReason.TOO_BIG, Hook.FROM_INSTANCE): 1})


def test_what_the_stack_sends_is_its_own_business(narrow: Lab) -> None:
    assert narrow.to_instance(udp(NODE, SERVER, load=LONG), SERVER).action == OK
    assert narrow.from_instance(udp(CLIENT, OUTSIDE, load=LONG)).action == OK


def test_a_fragment_that_is_too_big_is_only_dropped(narrow: Lab) -> None:
    piece = fragments(udp(CLIENT6, SERVER6, load=bytes(3000)), 1440)[0]
    assert narrow.from_instance(piece).action == SHOT
    assert narrow.drops() == {(DropReason.TOO_BIG, Hook.FROM_INSTANCE): 1}


def test_a_link_of_unknown_size_carries_all(lab: Lab) -> None:
    packet = tcp(CLIENT, SERVER, load=LONG)
    assert lab.from_instance(packet).data == raw(delivered(packet, SERVER))
