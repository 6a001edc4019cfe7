"""ICMPv6 errors find the flow that they are about; their checksum covers the addresses, and what they carry too."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    PadN,
)
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT6,
    CLIENT_ID,
    HOST_MACS,
    MACS,
    NODE6,
    OK,
    OUTSIDE6,
    OUTSIDE_MAC,
    REDIRECT,
    SERVER6,
    SHOT,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    VIP6,
    Lab,
    delivered,
    echo,
    fragments,
    ip,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, Hook

pytestmark = pytest.mark.root

TOO_BIG = ICMPv6PacketTooBig(mtu=1400)
KINDS = [ICMPv6DestUnreach(code=4), TOO_BIG, ICMPv6TimeExceeded(), ICMPv6ParamProblem(code=1)]
ROUTER = "2001:db8::ffff"


def error(source: str, about: Ether, kind: Any = TOO_BIG, carried: int | None = None, to: str = "") -> Any:
    """As `source` sends it about a packet that it got; of that, `carried` bytes from the IP header on."""
    head = Ether(src=MACS.get(source, MACS[CLIENT6]), dst=HOST_MACS.get(source, HOST_MACS[CLIENT6]))
    packet = head / IPv6(src=source, dst=to or about[IPv6].src) / kind.copy()
    return packet / raw(about)[14 : None if carried is None else 14 + carried]


@pytest.mark.parametrize("kind", KINDS, ids=["unreachable", "too big", "time exceeded", "parameter"])
def test_an_error_about_a_plain_flow_passes_as_it_is(lab: Lab, kind: Any) -> None:
    asked = udp(CLIENT6, SERVER6)
    lab.from_instance(asked)
    lab.events()
    lab.deny_all(CLIENT_ID, Direction.INGRESS)
    packet = error(SERVER6, asked, kind)
    result = lab.from_instance(packet, SERVER6)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, CLIENT6)))
    assert lab.events() == []


@pytest.mark.parametrize("carried", [48, None], ids=["8 bytes", "all"])
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("load", [b"", b"odd", b"some more"])
def test_the_backend_complains_to_the_client_as_the_service(
    lab: Lab, make: Any, carried: int | None, load: bytes
) -> None:
    lab.serve((SERVER6, 8080), address=VIP6, protocol=6 if make is tcp else 17)
    lab.from_instance(make(CLIENT6, VIP6, 40000, 80, load=load))
    complaint = error(SERVER6, make(CLIENT6, SERVER6, 40000, 8080, load=load), carried=carried)
    expected = error(VIP6, make(CLIENT6, VIP6, 40000, 80, load=load), carried=carried)
    result = lab.from_instance(complaint, SERVER6)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, CLIENT6)))


@pytest.mark.parametrize("carried", [48, None], ids=["8 bytes", "all"])
@pytest.mark.parametrize("make", [tcp, udp])
def test_the_client_complains_to_the_backend_behind_the_service(lab: Lab, make: Any, carried: int | None) -> None:
    lab.serve((SERVER6, 8080), address=VIP6, protocol=6 if make is tcp else 17)
    lab.from_instance(make(CLIENT6, VIP6, 40000, 80))
    complaint = error(CLIENT6, make(VIP6, CLIENT6, 80, 40000), carried=carried)
    expected = error(CLIENT6, make(SERVER6, CLIENT6, 8080, 40000), carried=carried)
    result = lab.from_instance(complaint)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, SERVER6)))


def test_a_router_keeps_its_own_address(lab: Lab) -> None:
    lab.serve((OUTSIDE6, 443), address=VIP6)
    lab.from_instance(tcp(CLIENT6, VIP6, 40000, 80))
    result = lab.to_instance(error(ROUTER, tcp(CLIENT6, OUTSIDE6, 40000, 443)))
    assert (result.action, result.data) == (OK, raw(error(ROUTER, tcp(CLIENT6, VIP6, 40000, 80))))


def test_an_error_about_an_echo(lab: Lab) -> None:
    lab.serve((SERVER6, 0), address=VIP6, port=0, protocol=0)
    lab.from_instance(echo(CLIENT6, VIP6))
    result = lab.from_instance(error(SERVER6, echo(CLIENT6, SERVER6)), SERVER6)
    assert result.data == raw(delivered(error(VIP6, echo(CLIENT6, VIP6)), CLIENT6))


def test_extension_headers_of_the_carried_packet_are_walked(lab: Lab) -> None:
    def asked(to: str, port: int) -> Any:
        options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
        return ip(CLIENT6, to) / options / TCP(sport=40000, dport=port, flags="S")

    lab.serve((SERVER6, 8080), address=VIP6)
    lab.from_instance(asked(VIP6, 80))
    result = lab.from_instance(error(SERVER6, asked(SERVER6, 8080)), SERVER6)
    assert result.data == raw(delivered(error(VIP6, asked(VIP6, 80)), CLIENT6))


def test_an_error_about_a_first_fragment(lab: Lab) -> None:
    """As a receiver sends it that has waited in vain for the others."""
    pieces = [fragments(udp(CLIENT6, to, 40000, port), 8)[0] for to, port in ((VIP6, 80), (SERVER6, 8080))]
    lab.serve((SERVER6, 8080), address=VIP6, protocol=UDP_NUMBER)
    lab.from_instance(udp(CLIENT6, VIP6, 40000, 80))
    complaint, expected = (
        error(who, Ether(piece), ICMPv6TimeExceeded(code=1))
        for who, piece in zip((SERVER6, VIP6), reversed(pieces), strict=True)
    )
    result = lab.from_instance(complaint, SERVER6)
    assert result.data == raw(delivered(expected, CLIENT6))


@pytest.mark.parametrize("hook", [Hook.FROM_INSTANCE, Hook.TO_INSTANCE])
def test_an_error_about_no_flow_is_dropped(lab: Lab, hook: Hook) -> None:
    if hook == Hook.FROM_INSTANCE:
        result = lab.from_instance(error(SERVER6, udp(CLIENT6, SERVER6)), SERVER6)
    else:
        result = lab.to_instance(error(NODE6, udp(CLIENT6, NODE6)))
    assert result.action == SHOT
    assert lab.drops() == {(DropReason.UNRELATED_ERROR, hook): 1}


def test_an_instance_cannot_complain_about_flows_of_others(lab: Lab) -> None:
    asked = tcp(CLIENT6, OUTSIDE6, 40000, 443)
    lab.from_instance(asked)
    assert lab.from_instance(error(SERVER6, asked), SERVER6).action == SHOT
    assert lab.from_instance(error(SERVER6, tcp(CLIENT6, SERVER6), to=OUTSIDE6), SERVER6).action == SHOT


@pytest.mark.parametrize("carried", [0, 39, 40, 43])
def test_an_error_that_carries_too_little_is_dropped(lab: Lab, carried: int) -> None:
    asked = tcp(CLIENT6, SERVER6, 40000, 8080)
    lab.from_instance(asked)
    assert lab.from_instance(error(SERVER6, asked, carried=carried), SERVER6).action == SHOT


def test_path_mtu_of_a_published_port(lab: Lab) -> None:
    lab.serve((SERVER6, 8080), address="::")
    lab.from_uplink(tcp(OUTSIDE6, NODE6, 50000, 80))

    def complaint(to: str, port: int) -> Any:
        head = Ether(src=OUTSIDE_MAC, dst=UPLINK_MAC) / IPv6(src=ROUTER, dst=to)
        return head / TOO_BIG.copy() / raw(tcp(to, OUTSIDE6, port, 50000, "A"))[14:62]

    result = lab.from_uplink(complaint(NODE6, 80))
    assert (result.action, result.data) == (REDIRECT, raw(delivered(complaint(SERVER6, 8080), SERVER6)))
    assert lab.from_uplink(complaint(NODE6, 81)).action == UNSPEC
