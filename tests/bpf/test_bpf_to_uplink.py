"""What leaves by a link of the node: answers of backends that are no instances; all else as it is."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.l2 import Ether
from support.packet_lab import (
    MARK,
    NODE,
    NODE6,
    OK,
    OUTSIDE,
    OUTSIDE6,
    OUTSIDE_MAC,
    SERVER,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    Lab,
    fragments,
    ip,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import FlowFlags

pytestmark = pytest.mark.root

FAR, FAR6 = "203.0.113.7", "2001:db8:77::7"
ends = pytest.mark.parametrize(
    ("node", "outside", "backend"),
    [(NODE, OUTSIDE, FAR), (NODE6, OUTSIDE6, FAR6), (NODE, OUTSIDE, NODE), (NODE, OUTSIDE, OUTSIDE)],
    ids=["elsewhere", "elsewhere, IPv6", "the node", "the client"],
)


def protocol_of(make: Any) -> int:
    return TCP_NUMBER if make is tcp else UDP_NUMBER


@ends
@pytest.mark.parametrize("make", [tcp, udp])
def test_what_a_backend_elsewhere_answers_comes_from_the_service(
    lab: Lab, make: Any, node: str, outside: str, backend: str
) -> None:
    lab.serve((backend, 8080), address=node, protocol=protocol_of(make))
    result = lab.from_uplink(make(outside, node, 50000, 80))
    sent = make(outside, backend, 50000, 8080)
    assert (result.action, result.data, result.mark) == (OK, raw(sent), MARK)
    answer = make(backend, outside, 8080, 50000)
    result = lab.to_uplink(answer)
    expected = make(node, outside, 80, 50000)
    expected[Ether].src, expected[Ether].dst = answer[Ether].src, answer[Ether].dst
    assert (result.action, result.data) == (UNSPEC, raw(expected))
    back = lab.flow(backend, outside, 8080, 50000, protocol_of(make))
    assert back is not None
    assert (back.packets, back.flags & FlowFlags.ESTABLISHED) == (1, FlowFlags.ESTABLISHED)


def test_what_is_no_such_answer_leaves_as_it_is(lab: Lab) -> None:
    """An answer of an instance was translated where it came from, and one to an instance is nobody's outside."""
    lab.serve((SERVER, 8080), address=NODE)
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80))
    before = lab.flow(SERVER, OUTSIDE, 8080, 50000)
    for packet in (tcp(NODE, OUTSIDE, 80, 50000), tcp(FAR, OUTSIDE, 8080, 50000), udp(NODE, OUTSIDE, 80, 50000)):
        result = lab.to_uplink(packet)
        assert (result.action, result.data) == (UNSPEC, raw(packet))
    assert lab.flow(SERVER, OUTSIDE, 8080, 50000) == before
    assert lab.drops() == {}


def test_a_new_connection_to_the_backend_itself_is_left_alone(lab: Lab) -> None:
    """From the port with which the service was asked, once that is over."""
    lab.serve((NODE, 8080), address=NODE)
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80))
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80, "R"))
    packet = tcp(NODE, OUTSIDE, 8080, 50000, "SA")
    assert lab.to_uplink(packet).data == raw(packet)
    assert lab.flows() == {}


def test_later_fragments_follow_the_first(lab: Lab) -> None:
    lab.serve((FAR, 8080), address=NODE, protocol=UDP_NUMBER)
    lab.from_uplink(udp(OUTSIDE, NODE, 50000, 80))
    answer = udp(FAR, OUTSIDE, 8080, 50000, load=bytes(60))
    expected = udp(NODE, OUTSIDE, 80, 50000, load=bytes(60))
    for part, wanted in zip(fragments(answer), fragments(expected), strict=True):
        result = lab.to_uplink(part)
        assert (result.action, result.data[14:]) == (UNSPEC, wanted[14:])


@pytest.mark.parametrize(("node", "outside", "backend"), [(NODE, OUTSIDE, FAR), (NODE6, OUTSIDE6, FAR6)])
def test_errors_about_what_was_sent_on_speak_of_the_service(lab: Lab, node: str, outside: str, backend: str) -> None:
    """The node itself says that a packet was too big for the link on which it was sent on."""
    lab.serve((backend, 8080), address=node)
    lab.from_uplink(tcp(outside, node, 50000, 80))

    def complaint(about: str, port: int) -> Any:
        carried = raw(tcp(outside, about, 50000, port, "A"))[14:]
        error = ICMPv6PacketTooBig(mtu=1400) if ":" in node else ICMP(type=3, code=4, nexthopmtu=1400)
        return ip(node, outside) / error / carried

    result = lab.to_uplink(complaint(backend, 8080))
    assert (result.action, result.data) == (UNSPEC, raw(complaint(node, 80)))


def test_errors_about_anything_else_are_the_stacks(lab: Lab) -> None:
    head = Ether(src=UPLINK_MAC, dst=OUTSIDE_MAC) / IP(src=NODE, dst=OUTSIDE) / ICMP(type=3, code=1)
    packet = head / raw(tcp(OUTSIDE, FAR, 50000, 8080))[14:]
    result = lab.to_uplink(packet)
    assert (result.action, result.data) == (UNSPEC, raw(packet))
    assert (lab.events(), lab.drops()) == ([], {})
