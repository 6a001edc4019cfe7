"""What an instance sends: who it may claim to be, what it may speak, and where its packets go."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from support.packet_lab import (
    CLIENT,
    CLIENT_ID,
    HOST_MACS,
    ICMP_NUMBER,
    MACS,
    MARK,
    NOBODY,
    NODE,
    OK,
    OUTSIDE,
    REDIRECT,
    RESOLVER,
    RESOLVER_ID,
    SERVER,
    SERVER_ID,
    SHOT,
    UDP_NUMBER,
    WORLD_ID,
    Lab,
    delivered,
    echo,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import DropReason, EventKind, FlowEvent, FlowFlags, FlowValue, Hook, Verdict
from whit.datapath.address import Address

pytestmark = pytest.mark.root


def test_an_allowed_packet_is_delivered_remembered_and_told(lab: Lab) -> None:
    packet = tcp(CLIENT, SERVER, 40000, 8080)
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, SERVER)))
    (event,) = lab.events()
    assert replace(event, time_ns=0) == expected_event(lab, len(packet))
    assert abs(time.monotonic_ns() - event.time_ns) < 60 * 10**9
    assert lab.drops() == {}


def expected_event(lab: Lab, length: int) -> FlowEvent:
    """Of the packet above, at no time."""
    server = Address.from_ip(SERVER)
    return FlowEvent(
        time_ns=0,
        kind=EventKind.FLOW,
        source=Address.from_ip(CLIENT),
        destination=server,
        service=server,
        source_port=40000,
        destination_port=8080,
        service_port=8080,
        protocol=6,
        verdict=Verdict.ALLOW,
        source_identity=CLIENT_ID,
        destination_identity=SERVER_ID,
        egress_rule=0,
        ingress_rule=0,
        ifindex=lab.links[CLIENT],
        length=length,
        reason=0,
        hook=Hook.FROM_INSTANCE,
        flags=0,
        icmp_type=0,
        icmp_code=0,
    )


def test_both_ways_of_a_flow_are_remembered(lab: Lab) -> None:
    packet = tcp(CLIENT, SERVER, 40000, 8080)
    lab.from_instance(packet)
    there, back = lab.flow(CLIENT, SERVER, 40000, 8080), lab.flow(SERVER, CLIENT, 8080, 40000)
    assert there is not None
    assert back is not None
    assert there == FlowValue(
        last_seen_ns=there.last_seen_ns,
        packets=1,
        bytes=len(packet),
        translation=Address.from_ip(SERVER),
        translation_port=8080,
        flags=0,
        ifindex=lab.links[CLIENT],
        backend=0,
        initiator=CLIENT_ID,
        responder=SERVER_ID,
        egress_rule=0,
        ingress_rule=0,
        generation=0,
        policy_port=8080,
        retransmits=0,
        rtt_us=0,
        next_sequence=there.next_sequence,
        sampled_sequence=there.sampled_sequence,
        sampled_ns=there.sampled_ns,
        next_sample_ns=there.next_sample_ns,
        began_ns=there.began_ns,
    )
    assert back == replace(
        there,
        flags=FlowFlags.REPLY,
        packets=0,
        bytes=0,
        next_sequence=0,
        sampled_sequence=8,
        sampled_ns=there.last_seen_ns,
        next_sample_ns=0,
    )
    assert (there.next_sequence, there.sampled_ns) == (8, 0)
    assert len(lab.flows()) == 2


@pytest.mark.parametrize(
    ("packet", "link"),
    [
        (tcp(SERVER, NODE), CLIENT),
        (Ether(src=MACS[CLIENT]) / IP(src=OUTSIDE, dst=SERVER) / TCP(), CLIENT),
        (Ether(src=MACS[CLIENT]) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67), CLIENT),
        (Ether(src=MACS[SERVER]) / IP(src=CLIENT, dst=SERVER) / TCP(), CLIENT),
        (tcp(CLIENT, SERVER), SERVER),
    ],
    ids=["another instance's address", "outside address", "no address", "another MAC", "another link"],
)
def test_a_false_sender_is_dropped(lab: Lab, packet: Ether, link: str) -> None:
    assert lab.from_instance(packet, link).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE): 1}
    (event,) = lab.events()
    assert (event.reason, str(event.source)) == (DropReason.SPOOFED_ADDRESS, packet[IP].src)
    assert lab.flows() == {}


def arp(**fields: Any) -> Any:
    sender: dict[str, Any] = {"hwsrc": MACS[CLIENT], "psrc": CLIENT, "pdst": "169.254.1.1"}
    return Ether(src=MACS[CLIENT], dst="ff:ff:ff:ff:ff:ff") / ARP(**(sender | fields))


def test_arp_of_the_own_address_passes(lab: Lab) -> None:
    result = lab.from_instance(arp())
    assert (result.action, result.data) == (OK, raw(arp()))


@pytest.mark.parametrize("lie", [{"psrc": SERVER}, {"psrc": NODE}, {"hwsrc": MACS[SERVER]}, {"psrc": "0.0.0.0"}])
def test_arp_with_a_lie_is_dropped(lab: Lab, lie: dict[str, str]) -> None:
    assert lab.from_instance(arp(**lie)).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE): 1}


def test_arp_for_other_networks_is_malformed(lab: Lab) -> None:
    assert lab.from_instance(arp(hwtype=6)).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


@pytest.mark.parametrize("type_", [0x88B5, 0x8863, 0x0802])
def test_other_protocols_are_dropped(lab: Lab, type_: int) -> None:
    packet = Ether(src=MACS[CLIENT], dst=HOST_MACS[CLIENT], type=type_) / bytes(50)
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.UNSUPPORTED_PROTOCOL, Hook.FROM_INSTANCE): 1}


def test_a_vlan_is_not_a_way_around(lab: Lab) -> None:
    tagged = Ether(src=MACS[CLIENT], dst=HOST_MACS[CLIENT]) / Dot1Q(vlan=5) / IP(src=CLIENT, dst=SERVER) / TCP()
    assert lab.from_instance(tagged).action == SHOT
    assert lab.drops() == {(DropReason.UNSUPPORTED_PROTOCOL, Hook.FROM_INSTANCE): 1}


GRE_NUMBER = 47
HEAD = Ether(src=MACS[CLIENT], dst=HOST_MACS[CLIENT])


@pytest.mark.parametrize(
    "packet",
    [
        HEAD / IP(src=CLIENT, dst=SERVER, version=5) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER, ihl=4) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER, ihl=15, len=40) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER, len=19) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER, len=41) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER, len=39) / TCP(),
        HEAD / IP(src=CLIENT, dst=SERVER) / TCP(dataofs=4),
        HEAD / IP(src=CLIENT, dst=SERVER) / TCP(dataofs=6),
        HEAD / IP(src=CLIENT, dst=SERVER) / UDP(len=7),
        HEAD / IP(src=CLIENT, dst=SERVER) / UDP(len=9),
        HEAD / IP(src=CLIENT, dst=SERVER, proto=1) / bytes(7),
    ],
    ids=[
        "version 5",
        "header under 20",
        "header past the end",
        "length under the header",
        "length past the frame",
        "TCP cut by the length",
        "TCP header under 20",
        "TCP header past the end",
        "UDP length under 8",
        "UDP length past the end",
        "ICMP of 7 bytes",
    ],
)
def test_malformed_packets_are_dropped(lab: Lab, packet: Ether) -> None:
    assert lab.from_instance(packet).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == {}


@pytest.mark.parametrize("kept", [34, 41, 53])
def test_truncated_packets_are_dropped(lab: Lab, kept: int) -> None:
    """Less of an IP packet than its header the kernel does not let a test run have."""
    assert lab.from_instance(raw(tcp(CLIENT, SERVER))[:kept]).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


@pytest.mark.parametrize("kept", [14, 15, 41])
def test_truncated_arp_is_dropped(lab: Lab, kept: int) -> None:
    assert lab.from_instance(raw(arp())[:kept]).action == SHOT
    assert lab.drops() == {(DropReason.MALFORMED, Hook.FROM_INSTANCE): 1}


@pytest.mark.parametrize(("flags", "offset"), [(0, 100), ("MF", 100)])
def test_a_fragment_whose_first_part_was_not_seen_is_dropped_and_named(lab: Lab, flags: str | int, offset: int) -> None:
    packet = HEAD / IP(src=CLIENT, dst=SERVER, flags=flags, frag=offset) / UDP() / bytes(64)
    assert lab.from_instance(packet).action == SHOT
    (event,) = lab.events()
    assert (event.reason, str(event.source), str(event.destination)) == (DropReason.FRAGMENT, CLIENT, SERVER)


def test_ip_options_are_no_obstacle(lab: Lab) -> None:
    packet = HEAD / IP(src=CLIENT, dst=SERVER, options=[b"\x01\x01\x01\x00"]) / TCP(sport=40000, dport=8080, flags="S")
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, SERVER)))
    assert lab.flow(CLIENT, SERVER, 40000, 8080) is not None


def test_to_the_world_goes_through_the_stack_with_a_mark(lab: Lab) -> None:
    packet = tcp(CLIENT, OUTSIDE, 40000, 443)
    result = lab.from_instance(packet, mark=0xF0F)
    assert (result.action, result.data, result.mark) == (OK, raw(packet), MARK | 0x00F)
    (event,) = lab.events()
    assert (event.destination_identity, event.verdict) == (WORLD_ID, Verdict.ALLOW)


def test_the_longest_prefix_says_who_an_address_is(lab: Lab) -> None:
    lab.identify("198.51.100.0/24", 0x80000001)
    lab.identify("198.51.0.0/16", 0x80000002)
    for address, identity in ((OUTSIDE, 0x80000001), ("198.51.7.1", 0x80000002), ("203.0.113.1", WORLD_ID)):
        lab.from_instance(tcp(CLIENT, address))
        assert lab.events()[-1].destination_identity == identity


def test_the_resolver_is_reached_through_the_stack(lab: Lab) -> None:
    packet = udp(CLIENT, RESOLVER, 40000, 53)
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (OK, raw(packet))
    assert lab.events()[-1].destination_identity == RESOLVER_ID
    answer = udp(RESOLVER, CLIENT, 53, 40000)
    assert lab.to_instance(answer).action == OK
    assert lab.events() == []


def test_an_address_of_the_pool_that_nobody_has_leads_nowhere(lab: Lab) -> None:
    assert lab.from_instance(tcp(CLIENT, NOBODY)).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.FROM_INSTANCE): 1}


def test_an_instance_that_has_gone_leads_nowhere_for_its_flows_too(lab: Lab) -> None:
    lab.from_instance(tcp(CLIENT, SERVER))
    (key,) = [key for key, _ in lab.datapath.endpoints.items() if str(key.address) == SERVER]
    lab.datapath.endpoints.delete(key)
    assert lab.from_instance(tcp(CLIENT, SERVER, flags="A")).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.FROM_INSTANCE): 1}


def test_an_echo_is_a_flow_by_its_identifier(lab: Lab) -> None:
    request, answer = echo(CLIENT, SERVER), echo(SERVER, CLIENT, "echo-reply")
    assert lab.from_instance(request).data == raw(delivered(request, SERVER))
    result = lab.from_instance(answer, SERVER)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(answer, CLIENT)))
    flow = lab.flow(CLIENT, SERVER, 77, 77, ICMP_NUMBER)
    assert flow is not None
    assert flow.policy_port == 8 << 8
    assert len(lab.events()) == 1


def test_other_ip_protocols_are_flows_without_ports(lab: Lab) -> None:
    packet = HEAD / IP(src=CLIENT, dst=SERVER, proto=GRE_NUMBER) / bytes(range(20))
    result = lab.from_instance(packet)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, SERVER)))
    assert lab.flow(CLIENT, SERVER, 0, 0, GRE_NUMBER) is not None


def test_a_udp_packet_without_checksum_stays_so(lab: Lab) -> None:
    packet = udp(CLIENT, SERVER)
    packet[UDP].chksum = 0
    result = lab.from_instance(packet)
    assert result.action == REDIRECT
    assert result.frame[UDP].chksum == 0
    assert lab.flow(CLIENT, SERVER, 40000, 80, UDP_NUMBER) is not None


def test_an_icmp_query_is_a_flow_without_ports(lab: Lab) -> None:
    packet = HEAD / IP(src=CLIENT, dst=SERVER) / ICMP(type="timestamp-request", id=5)
    assert lab.from_instance(packet).action == REDIRECT
    assert lab.flow(CLIENT, SERVER, 0, 0, ICMP_NUMBER) is not None
