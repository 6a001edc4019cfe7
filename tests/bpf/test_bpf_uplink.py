"""What comes from outside: published ports and their answers; all else is left to the stack."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from support.packet_lab import (
    HOST_MACS,
    MACS,
    NODE,
    OUTSIDE,
    OUTSIDE_MAC,
    REDIRECT,
    SERVER,
    SERVER_ID,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    WORLD_ID,
    Lab,
    delivered,
    raw,
    renewed,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, FlowFlags, Hook, Verdict

pytestmark = pytest.mark.root

ANY = "0.0.0.0"


@pytest.mark.parametrize("address", [ANY, NODE])
@pytest.mark.parametrize("make", [tcp, udp])
def test_a_published_port_is_translated_there_and_back(lab: Lab, make, address: str) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER, 8080), address=address, protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    result = lab.from_uplink(make(OUTSIDE, NODE, 50000, 80))
    assert (result.action, result.data) == (REDIRECT, raw(delivered(make(OUTSIDE, SERVER, 50000, 8080), SERVER)))
    answer = make(SERVER, OUTSIDE, 8080, 50000)
    result = lab.from_instance(answer, SERVER)
    expected = answer.copy()
    expected[IP].src, expected.getlayer(2).sport = NODE, 80
    assert (result.action, result.data) == (REDIRECT, raw(renewed(expected)))
    (event,) = lab.events()
    assert (event.hook, event.source_identity, event.destination_identity) == (Hook.FROM_UPLINK, WORLD_ID, SERVER_ID)
    assert (str(event.service), event.service_port) == (NODE, 80)


def test_the_entries_know_the_link(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address=ANY)
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80))
    there, back = lab.flow(OUTSIDE, NODE, 50000, 80), lab.flow(SERVER, OUTSIDE, 8080, 50000)
    assert there is not None
    assert back is not None
    assert there.ifindex == back.ifindex == lab.links[OUTSIDE]
    assert there.flags == FlowFlags.TRANSLATED | FlowFlags.UPLINK
    assert back.flags == FlowFlags.TRANSLATED | FlowFlags.UPLINK | FlowFlags.REPLY


def test_later_packets_follow(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address=ANY)
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80))
    lab.datapath.frontends.clear()
    packet = tcp(OUTSIDE, NODE, 50000, 80, "PA", b"data")
    result = lab.from_uplink(packet)
    expected = tcp(OUTSIDE, SERVER, 50000, 8080, "PA", b"data")
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, SERVER)))


def test_the_world_needs_a_rule(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address=ANY)
    rule = lab.deny_all(SERVER_ID, Direction.INGRESS)
    assert lab.from_uplink(tcp(OUTSIDE, NODE)).action == SHOT
    (event,) = lab.events()
    assert (event.reason, event.ingress_rule) == (DropReason.POLICY_INGRESS, rule)
    lab.rule(SERVER_ID, Direction.INGRESS, Verdict.ALLOW, peer=WORLD_ID, protocol=TCP_NUMBER, port=8080)
    assert lab.from_uplink(tcp(OUTSIDE, NODE)).action == REDIRECT


HEAD = Ether(src=OUTSIDE_MAC, dst=UPLINK_MAC)


@pytest.mark.parametrize(
    "packet",
    [
        tcp(OUTSIDE, NODE, dport=22),
        tcp(OUTSIDE, NODE, dport=80, flags="A"),
        udp(OUTSIDE, NODE, dport=80),
        tcp(OUTSIDE, "203.0.113.77", dport=80),
        tcp(OUTSIDE, SERVER, dport=8080),
        HEAD / IP(src=OUTSIDE, dst=NODE) / ICMP(),
        HEAD / IP(src=OUTSIDE, dst=NODE, flags="MF") / UDP(dport=80),
        HEAD / IP(src=OUTSIDE, dst=NODE, len=19) / TCP(dport=80),
        HEAD / IP(src=OUTSIDE, dst=NODE) / ICMP(type=3, code=4) / IP(src=NODE, dst=OUTSIDE) / TCP(),
        Ether(src=OUTSIDE_MAC, dst=UPLINK_MAC) / ARP(psrc=OUTSIDE, pdst=NODE),
        Ether(src=OUTSIDE_MAC, dst="02:00:00:00:07:07") / IP(src=OUTSIDE, dst=NODE) / TCP(dport=80, flags="S"),
    ],
    ids=[
        "other port",
        "no SYN",
        "other protocol",
        "other address",
        "an instance",
        "ping",
        "fragment",
        "malformed",
        "unrelated error",
        "ARP",
        "other MAC",
    ],
)
def test_all_else_is_left_untouched_to_others(lab: Lab, packet: Ether) -> None:
    lab.serve((SERVER, 8080), address=ANY)
    result = lab.from_uplink(packet)
    assert (result.action, result.data) == (UNSPEC, raw(packet))
    assert (lab.events(), lab.drops(), lab.flows()) == ([], {}, {})


@pytest.mark.parametrize("source", [SERVER, "10.7.9.9", NODE, "127.0.0.1", "10.7.0.53"])
def test_nobody_outside_has_an_address_of_the_mesh_or_the_node(lab: Lab, source: str) -> None:
    lab.serve((SERVER, 8080), address=ANY)
    packet = HEAD / IP(src=source, dst=NODE) / TCP(dport=80, flags="S")
    assert lab.from_uplink(packet).action == SHOT
    assert lab.drops() == {(DropReason.SPOOFED_ADDRESS, Hook.FROM_UPLINK): 1}


def test_an_address_of_the_pool_is_not_let_to_the_stack_either(lab: Lab) -> None:
    packet = HEAD / IP(src="10.7.0.2", dst=SERVER) / UDP(dport=53)
    assert lab.from_uplink(packet).action == SHOT


def test_a_published_port_without_backend_is_refused(lab: Lab) -> None:
    lab.serve(address=ANY)
    asked = tcp(OUTSIDE, NODE)
    result = lab.from_uplink(asked)
    expected = Ether(src=UPLINK_MAC, dst=OUTSIDE_MAC) / IP(src=NODE, dst=OUTSIDE, id=0, ttl=64)
    expected /= TCP(sport=80, dport=40000, flags="RA", seq=0, ack=8, window=0)
    assert (result.action, result.data) == (REDIRECT, raw(expected))
    assert lab.drops() == {(DropReason.NO_BACKEND, Hook.FROM_UPLINK): 1}


def test_a_backend_that_is_no_instance_leads_nowhere(lab: Lab) -> None:
    lab.serve(("10.7.0.99", 8080), address=ANY)
    assert lab.from_uplink(tcp(OUTSIDE, NODE)).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.FROM_UPLINK): 1}


def test_errors_about_answers_reach_the_backend(lab: Lab) -> None:
    """Path MTU discovery of a published port."""
    lab.serve((SERVER, 8080), address=ANY)
    lab.from_uplink(tcp(OUTSIDE, NODE, 50000, 80))
    router = "203.0.113.254"

    def complaint(to: str, port: int) -> Ether:
        carried = raw(tcp(to, OUTSIDE, port, 50000, "A"))[14:42]
        return HEAD / IP(src=router, dst=to) / ICMP(type=3, code=4, nexthopmtu=1400) / carried

    result = lab.from_uplink(complaint(NODE, 80))
    expected = complaint(SERVER, 8080)
    expected[Ether].src, expected[Ether].dst = HOST_MACS[SERVER], MACS[SERVER]
    assert (result.action, result.data) == (REDIRECT, raw(expected))


def test_errors_of_the_backend_leave_as_those_of_the_node(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address=ANY, protocol=UDP_NUMBER)
    lab.from_uplink(udp(OUTSIDE, NODE, 50000, 80))
    head = Ether(src=MACS[SERVER], dst=HOST_MACS[SERVER])
    inner, outer = raw(udp(OUTSIDE, SERVER, 50000, 8080))[14:], raw(udp(OUTSIDE, NODE, 50000, 80))[14:]
    result = lab.from_instance(head / IP(src=SERVER, dst=OUTSIDE) / ICMP(type=3, code=3) / inner, SERVER)
    expected = head / IP(src=NODE, dst=OUTSIDE) / ICMP(type=3, code=3) / outer
    assert (result.action, result.data) == (REDIRECT, raw(expected))
