"""IPv6 from end to end: parsed, its senders held to their own addresses, translated, delivered, answered."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT6,
    CLIENT_ID,
    GATEWAY6,
    HOST_MACS,
    ICMPV6_NUMBER,
    MACS,
    MARK,
    NOBODY6,
    NODE6,
    OK,
    OUTSIDE6,
    OUTSIDE_MAC,
    REDIRECT,
    RESOLVER6,
    SERVER6,
    SERVER_ID,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    VIP6,
    WORLD_ID,
    Lab,
    delivered,
    echo,
    ip,
    raw,
    renewed,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, Hook, Verdict

pytestmark = pytest.mark.root

ANY = "::"


def test_an_allowed_packet_is_delivered_and_told(lab: Lab) -> None:
    packet = tcp(CLIENT6, SERVER6, 40000, 8080)
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, SERVER6)))
    (event,) = lab.events()
    assert (str(event.source), str(event.destination), event.destination_port) == (CLIENT6, SERVER6, 8080)
    assert (event.source_identity, event.destination_identity) == (CLIENT_ID, SERVER_ID)
    assert len(lab.flows()) == 2


@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("load", [b"", b"odd", b"evenly"])
def test_a_service_there_and_back_again(lab: Lab, make, load: bytes) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER6, 8080), address=VIP6, protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    result = lab.from_instance(make(CLIENT6, VIP6, 40000, 80, load=load))
    expected = delivered(make(CLIENT6, SERVER6, 40000, 8080, load=load), SERVER6)
    assert (result.action, result.data) == (REDIRECT, raw(expected))
    answer = make(SERVER6, CLIENT6, 8080, 40000, load=load)
    result = lab.from_instance(answer, SERVER6)
    expected = answer.copy()
    expected[IPv6].src, expected.getlayer(2).sport = VIP6, 80
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, CLIENT6)))


def test_an_echo_to_a_service(lab: Lab) -> None:
    """The checksum of ICMPv6 covers the addresses."""
    lab.serve((SERVER6, 0), address=VIP6, port=0, protocol=0)
    result = lab.from_instance(echo(CLIENT6, VIP6))
    assert (result.action, result.data) == (REDIRECT, raw(delivered(echo(CLIENT6, SERVER6), SERVER6)))
    result = lab.from_instance(echo(SERVER6, CLIENT6, "echo-reply"), SERVER6)
    expected = renewed(echo(SERVER6, CLIENT6, "echo-reply"))
    expected[IPv6].src = VIP6
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, CLIENT6)))
    assert lab.flow(CLIENT6, VIP6, 77, 77, ICMPV6_NUMBER) is not None


def test_a_backend_of_the_other_family_is_none(lab: Lab) -> None:
    lab.serve(("10.7.0.3", 8080), address=VIP6)
    lab.from_instance(tcp(CLIENT6, VIP6))
    assert lab.drops() == {(DropReason.NO_BACKEND, Hook.FROM_INSTANCE): 1}


def test_policy_is_asked(lab: Lab) -> None:
    rule = lab.deny_all(SERVER_ID, Direction.INGRESS)
    assert lab.from_instance(tcp(CLIENT6, SERVER6, dport=8080)).action == SHOT
    (event,) = lab.events()
    assert (event.reason, event.ingress_rule) == (DropReason.POLICY_INGRESS, rule)
    lab.rule(SERVER_ID, Direction.INGRESS, Verdict.ALLOW, peer=CLIENT_ID, protocol=TCP_NUMBER, port=8080)
    assert lab.from_instance(tcp(CLIENT6, SERVER6, dport=8080)).action == REDIRECT


@pytest.mark.parametrize(
    ("packet", "link"),
    [
        (tcp(SERVER6, CLIENT6), CLIENT6),
        (Ether(src=MACS[CLIENT6], dst=HOST_MACS[CLIENT6]) / IPv6(src=OUTSIDE6, dst=SERVER6) / TCP(), CLIENT6),
        (Ether(src=MACS[CLIENT6], dst=HOST_MACS[CLIENT6]) / IPv6(src="fe80::2", dst=SERVER6) / TCP(), CLIENT6),
        (Ether(src=MACS[CLIENT6], dst=HOST_MACS[CLIENT6]) / IPv6(src="::", dst=SERVER6) / UDP(), CLIENT6),
        (Ether(src=MACS[SERVER6], dst=HOST_MACS[CLIENT6]) / IPv6(src=CLIENT6, dst=SERVER6) / TCP(), CLIENT6),
        (tcp(CLIENT6, SERVER6), SERVER6),
    ],
    ids=["another instance", "outside", "link-local", "nobody", "another MAC", "another link"],
)
def test_a_false_sender_is_dropped(lab: Lab, packet: Ether, link: str) -> None:
    assert lab.from_instance(packet, link).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == {}


@pytest.mark.parametrize(("source", "destination"), [("::ffff:10.7.0.2", SERVER6), (CLIENT6, "::ffff:10.7.0.3")])
def test_a_v4_mapped_address_is_none(lab: Lab, source: str, destination: str) -> None:
    packet = Ether(src=MACS[CLIENT6], dst=HOST_MACS[CLIENT6]) / IPv6(src=source, dst=destination) / TCP()
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


def test_the_world_the_resolver_and_nobody(lab: Lab) -> None:
    packet = tcp(CLIENT6, OUTSIDE6)
    result = lab.from_instance(packet, mark=0xF0F)
    assert (result.action, result.data, result.mark) == (OK, raw(packet), MARK | 0x00F)
    assert lab.events()[-1].destination_identity == WORLD_ID
    assert lab.from_instance(udp(CLIENT6, RESOLVER6, dport=53)).action == OK
    assert lab.to_instance(udp(RESOLVER6, CLIENT6, 53, 40000)).action == OK
    assert lab.from_instance(tcp(CLIENT6, NOBODY6)).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.FROM_INSTANCE): 1}


PAD = [PadN(optdata=bytes(4))]
CHAINS: dict[str, Any] = {
    "hop-by-hop": IPv6ExtHdrHopByHop(options=PAD),
    "destination options": IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]),
    "spent routing": IPv6ExtHdrRouting(addresses=[OUTSIDE6], segleft=0),
    "all": IPv6ExtHdrHopByHop(options=PAD) / IPv6ExtHdrRouting(segleft=0) / IPv6ExtHdrDestOpt(options=PAD),
    "atomic fragment": IPv6ExtHdrFragment(id=7),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_extension_headers_are_walked(lab: Lab, chain: Any) -> None:
    lab.serve((SERVER6, 8080), address=VIP6)
    asked = ip(CLIENT6, VIP6) / chain.copy() / TCP(sport=40000, dport=80, flags="S") / b"load"
    expected = ip(CLIENT6, SERVER6) / chain.copy() / TCP(sport=40000, dport=8080, flags="S") / b"load"
    result = lab.from_instance(asked)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, SERVER6)))


@pytest.mark.parametrize(("number", "length"), [(50, 24), (51, 24), (59, 0), (200, 3), (1, 8)])
def test_other_protocols_are_flows_without_ports(lab: Lab, number: int, length: int) -> None:
    packet = ip(CLIENT6, SERVER6, nh=number) / bytes(range(length))
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, SERVER6)))
    assert lab.flow(CLIENT6, SERVER6, 0, 0, number) is not None


MALFORMED = {
    "version 5": ip(CLIENT6, SERVER6, version=5) / TCP(),
    "length past the frame": ip(CLIENT6, SERVER6, plen=21) / TCP(),
    "TCP cut by the length": ip(CLIENT6, SERVER6, plen=19) / TCP(),
    "TCP header past the end": ip(CLIENT6, SERVER6) / TCP(dataofs=6),
    "UDP length past the end": ip(CLIENT6, SERVER6) / UDP(len=9),
    "ICMPv6 of 7 bytes": ip(CLIENT6, SERVER6, nh=58) / bytes(7),
    "an extension past the end": ip(CLIENT6, SERVER6, nh=60) / bytes([6, 9, 0, 0, 0, 0, 0, 0]),
    "an extension cut off": ip(CLIENT6, SERVER6, nh=60) / bytes([6, 0]),
    "too many": ip(CLIENT6, SERVER6, nh=60) / bytes([60, 0, 1, 4, 0, 0, 0, 0] * 9),
    "two fragment headers": ip(CLIENT6, SERVER6) / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrFragment(m=1) / TCP(),
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_malformed_packets_are_dropped(lab: Lab, packet: Ether) -> None:
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == {}


def test_a_route_past_the_destination_is_not_taken(lab: Lab) -> None:
    packet = ip(CLIENT6, SERVER6) / IPv6ExtHdrRouting(addresses=[OUTSIDE6]) / TCP()
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.UNSUPPORTED_PROTOCOL, Hook.FROM_INSTANCE): 1}


# ---- neighbours ----


def multicast(source: str, destination: str = "ff02::1:ff00:1", **fields: Any) -> Any:
    return Ether(src=MACS[CLIENT6], dst="33:33:ff:00:00:01") / IPv6(src=source, dst=destination, hlim=255, **fields)


def own(option: Any = ICMPv6NDOptSrcLLAddr, address: str = MACS[CLIENT6]) -> Any:
    return option(lladdr=address)


NONCE = ICMPv6NDOptUnknown(type=14, data=bytes(6))
HONEST = {
    "own address": multicast(CLIENT6) / ICMPv6ND_NS(tgt=GATEWAY6) / own(),
    "link-local": multicast("fe80::2") / ICMPv6ND_NS(tgt=GATEWAY6) / own(),
    "is it free": multicast("::") / ICMPv6ND_NS(tgt=CLIENT6),
    "is it free, nonce": multicast("::") / ICMPv6ND_NS(tgt="fe80::2") / NONCE,
    "no option": multicast(CLIENT6) / ICMPv6ND_NS(tgt=GATEWAY6),
    "I am": multicast("fe80::2", GATEWAY6) / ICMPv6ND_NA(tgt=CLIENT6) / own(ICMPv6NDOptDstLLAddr),
    "I, too": multicast(CLIENT6, GATEWAY6) / ICMPv6ND_NA(tgt=CLIENT6) / own(ICMPv6NDOptDstLLAddr),
}


@pytest.mark.parametrize("packet", HONEST.values(), ids=HONEST)
def test_discovery_by_honest_neighbours_goes_to_the_stack(lab: Lab, packet: Ether) -> None:
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (OK, raw(packet))
    assert (lab.flows(), lab.events(), lab.drops()) == ({}, [], {})


LIES = {
    "another's address": multicast(SERVER6) / ICMPv6ND_NS(tgt=GATEWAY6) / own(),
    "another's MAC": multicast(CLIENT6) / ICMPv6ND_NS(tgt=GATEWAY6) / own(address=MACS[SERVER6]),
    "another's MAC after a nonce": multicast(CLIENT6) / ICMPv6ND_NS(tgt=GATEWAY6) / NONCE / own(address=MACS[SERVER6]),
    "is another's free": multicast("::") / ICMPv6ND_NS(tgt=SERVER6),
    "I am another": multicast(CLIENT6, GATEWAY6) / ICMPv6ND_NA(tgt=SERVER6) / own(ICMPv6NDOptDstLLAddr),
    "link-local says so": multicast("fe80::2", GATEWAY6) / ICMPv6ND_NA(tgt=SERVER6) / own(ICMPv6NDOptDstLLAddr),
    "I am the gateway": multicast("fe80::2", GATEWAY6) / ICMPv6ND_NA(tgt=GATEWAY6) / own(ICMPv6NDOptDstLLAddr),
    "from the gateway": multicast(GATEWAY6) / ICMPv6ND_NS(tgt=CLIENT6) / own(),
}


@pytest.mark.parametrize("packet", LIES.values(), ids=LIES)
def test_discovery_with_a_lie_is_dropped(lab: Lab, packet: Ether) -> None:
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE): 1}


BROKEN = {
    "hop limit": Ether(src=MACS[CLIENT6], dst=HOST_MACS[CLIENT6])
    / IPv6(src=CLIENT6, dst=GATEWAY6, hlim=64)
    / ICMPv6ND_NS(tgt=GATEWAY6),
    "code": multicast(CLIENT6) / ICMPv6ND_NS(code=1, tgt=GATEWAY6),
    "cut off": multicast(CLIENT6, nh=58) / raw(ICMPv6ND_NS(tgt=GATEWAY6))[:20],
    "option of no length": multicast(CLIENT6, nh=58) / raw(ICMPv6ND_NS(tgt=GATEWAY6)) / bytes(8),
    "option past the end": multicast(CLIENT6, nh=58) / raw(ICMPv6ND_NS(tgt=GATEWAY6)) / bytes([14, 2] + [0] * 6),
    "too many options": multicast(CLIENT6, nh=58) / raw(ICMPv6ND_NS(tgt=GATEWAY6)) / bytes([14, 1, *bytes(6)] * 5),
}


@pytest.mark.parametrize("packet", BROKEN.values(), ids=BROKEN)
def test_malformed_discovery_is_dropped(lab: Lab, packet: Ether) -> None:
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


CHATTER = {
    "router wanted": multicast("fe80::2", "ff02::2") / ICMPv6ND_RS(),
    "router found": multicast("fe80::2", "ff02::1") / ICMPv6ND_RA(),
    "group": multicast("fe80::2", "ff02::16") / IPv6ExtHdrHopByHop(options=[RouterAlert(), *PAD]) / ICMPv6MLReport2(),
    "group of nobody": multicast("::", "ff02::16") / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2(),
    "mDNS": multicast("fe80::2", "ff02::fb") / UDP(sport=5353, dport=5353),
}


@pytest.mark.parametrize("packet", CHATTER.values(), ids=CHATTER)
@pytest.mark.parametrize("program", ["from_instance", "to_instance"])
def test_chatter_is_counted_and_not_reported(lab: Lab, packet: Ether, program: str) -> None:
    assert lab.run(program, packet, CLIENT6).action == SHOT
    assert [(reason, count) for (reason, _), count in lab.drops().items()] == [(DropReason.UNSUPPORTED_PROTOCOL, 1)]
    assert lab.events() == []


def test_the_nodes_own_discovery_reaches_an_instance(lab: Lab) -> None:
    packet = Ether(src=HOST_MACS[CLIENT6], dst=MACS[CLIENT6]) / IPv6(src=GATEWAY6, dst=CLIENT6, hlim=255)
    assert lab.to_instance(packet / ICMPv6ND_NS(tgt=CLIENT6)).action == OK


# ---- nobody there ----


def test_tcp_to_a_service_without_backend_is_reset(lab: Lab) -> None:
    lab.serve(address=VIP6)
    result = lab.from_instance(tcp(CLIENT6, VIP6, load=b"data"))
    expected = Ether(src=HOST_MACS[CLIENT6], dst=MACS[CLIENT6]) / IPv6(src=VIP6, dst=CLIENT6, hlim=64)
    expected /= TCP(sport=80, dport=40000, flags="RA", seq=0, ack=12, window=0)
    assert (result.action, result.data) == (REDIRECT, raw(expected))
    assert lab.drops() == {(DropReason.NO_BACKEND, Hook.FROM_INSTANCE): 1}


def test_udp_to_a_service_without_backend_is_told(lab: Lab) -> None:
    lab.serve(address=VIP6, protocol=UDP_NUMBER)
    asked = udp(CLIENT6, VIP6, load=b"anybody there?")
    result = lab.from_instance(asked)
    expected = Ether(src=HOST_MACS[CLIENT6], dst=MACS[CLIENT6]) / IPv6(src=VIP6, dst=CLIENT6, hlim=64)
    expected /= ICMPv6DestUnreach(code=4) / raw(asked)[14:62]
    assert (result.action, result.data) == (REDIRECT, raw(expected))


# ---- the outside ----

HEAD = Ether(src=OUTSIDE_MAC, dst=UPLINK_MAC)


@pytest.mark.parametrize("address", [ANY, NODE6])
@pytest.mark.parametrize("make", [tcp, udp])
def test_a_published_port_is_translated_there_and_back(lab: Lab, make, address: str) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER6, 8080), address=address, protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    result = lab.from_uplink(make(OUTSIDE6, NODE6, 50000, 80))
    expected = delivered(make(OUTSIDE6, SERVER6, 50000, 8080), SERVER6)
    assert (result.action, result.data) == (REDIRECT, raw(expected))
    answer = make(SERVER6, OUTSIDE6, 8080, 50000)
    result = lab.from_instance(answer, SERVER6)
    expected = answer.copy()
    expected[IPv6].src, expected.getlayer(2).sport = NODE6, 80
    assert (result.action, result.data) == (REDIRECT, raw(renewed(expected)))
    (event,) = lab.events()
    assert (event.hook, event.source_identity, event.destination_identity) == (Hook.FROM_UPLINK, WORLD_ID, SERVER_ID)


def test_what_ipv4_publishes_is_not_published_in_ipv6(lab: Lab) -> None:
    lab.serve(("10.7.0.3", 8080), address="0.0.0.0")
    packet = tcp(OUTSIDE6, NODE6)
    result = lab.from_uplink(packet)
    assert (result.action, result.data) == (UNSPEC, raw(packet))


@pytest.mark.parametrize("source", [SERVER6, "fd07::9:9", NODE6, "::1", RESOLVER6])
def test_nobody_outside_has_an_address_of_the_mesh_or_the_node(lab: Lab, source: str) -> None:
    lab.serve((SERVER6, 8080), address=ANY)
    assert lab.from_uplink(HEAD / IPv6(src=source, dst=NODE6) / TCP(dport=80, flags="S")).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_UPLINK): 1}


def test_the_node_finds_its_neighbours_itself(lab: Lab) -> None:
    packet = HEAD / IPv6(src="fe80::9", dst=NODE6, hlim=255) / ICMPv6ND_NS(tgt=NODE6)
    result = lab.from_uplink(packet)
    assert (result.action, result.data) == (UNSPEC, raw(packet))


def test_an_ipv4_address_that_ends_like_the_pool_is_not_in_it(lab: Lab) -> None:
    """And the other way round: only the last word of an IPv6 address is like 10.7.0.9."""
    assert lab.from_instance(tcp(CLIENT6, "2001:db8::a07:9")).action == OK
    assert IP not in lab.from_instance(tcp(CLIENT6, "2001:db8::a07:9")).frame
