"""From a service's address to a backend and back, with every byte of the packets compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT,
    CLIENT_ID,
    HOST_MACS,
    ICMP_NUMBER,
    MACS,
    OUTSIDE,
    REDIRECT,
    SECOND,
    SERVER,
    SERVER_ID,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    VIP,
    Lab,
    delivered,
    echo,
    raw,
    renewed,
    tcp,
    udp,
)

from whit.datapath.abi import BackendState, Direction, DropReason, FlowFlags, Hook, Verdict
from whit.datapath.address import Address

pytestmark = pytest.mark.root


@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("load", [b"", b"odd", b"evenly"])
def test_there_and_back_again(lab: Lab, make, load: bytes) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER, 8080), protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    asked = make(CLIENT, VIP, 40000, 80, load=load)
    result = lab.from_instance(asked)
    assert (result.action, result.data) == (
        REDIRECT,
        raw(delivered(make(CLIENT, SERVER, 40000, 8080, load=load), SERVER)),
    )
    answer = make(SERVER, CLIENT, 8080, 40000, load=load)
    result = lab.from_instance(answer, SERVER)
    expected = answer.copy()
    expected[IP].src, expected.getlayer(2).sport = VIP, 80
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, CLIENT)))


def test_the_event_and_the_entries_name_service_and_backend(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    (event,) = lab.events()
    assert (str(event.service), event.service_port) == (VIP, 80)
    assert (str(event.destination), event.destination_port) == (SERVER, 8080)
    assert (event.source_identity, event.destination_identity) == (CLIENT_ID, SERVER_ID)
    there, back = lab.flow(CLIENT, VIP, 40000, 80), lab.flow(SERVER, CLIENT, 8080, 40000)
    assert there is not None
    assert back is not None
    assert (there.translation, there.translation_port, there.backend) == (Address.from_ip(SERVER), 8080, 1)
    assert (back.translation, back.translation_port, back.backend) == (Address.from_ip(VIP), 80, 1)
    assert (there.flags, back.flags) == (FlowFlags.TRANSLATED, FlowFlags.TRANSLATED | FlowFlags.REPLY)
    assert there.policy_port == back.policy_port == 8080


def test_policy_is_asked_about_the_backend(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    lab.deny_all(CLIENT_ID, Direction.EGRESS)
    assert lab.from_instance(tcp(CLIENT, VIP)).action == SHOT
    lab.rule(CLIENT_ID, Direction.EGRESS, Verdict.ALLOW, peer=SERVER_ID, protocol=TCP_NUMBER, port=8080)
    assert lab.from_instance(tcp(CLIENT, VIP)).action == REDIRECT


def test_a_udp_packet_without_checksum_is_translated_without(lab: Lab) -> None:
    lab.serve((SERVER, 5353), protocol=UDP_NUMBER)
    asked = udp(CLIENT, VIP)
    asked[UDP].chksum = 0
    expected = delivered(udp(CLIENT, SERVER, 40000, 5353), SERVER)
    expected[UDP].chksum = 0
    assert lab.from_instance(asked).data == raw(expected)


def test_a_udp_checksum_never_becomes_none(lab: Lab) -> None:
    """0 would say that there is no checksum: RFC 768 has 0xffff then. One of 65536 payloads leads there."""
    lab.serve((SERVER, 8080), protocol=UDP_NUMBER)
    plain = Ether(raw(udp(CLIENT, SERVER, 40000, 8080, load=b"\0\0")))[UDP].chksum
    load = plain.to_bytes(2, "big")
    assert Ether(raw(udp(CLIENT, SERVER, 40000, 8080, load=load)))[UDP].chksum == 0xFFFF
    result = lab.from_instance(udp(CLIENT, VIP, 40000, 80, load=load))
    assert result.frame[UDP].chksum == 0xFFFF


def test_a_backend_without_port_keeps_that_of_the_client(lab: Lab) -> None:
    lab.serve((SERVER, 0), port=0, protocol=0)
    for packet, expected in (
        (tcp(CLIENT, VIP, 40000, 1234), tcp(CLIENT, SERVER, 40000, 1234)),
        (udp(CLIENT, VIP, 40000, 99), udp(CLIENT, SERVER, 40000, 99)),
        (echo(CLIENT, VIP), echo(CLIENT, SERVER)),
    ):
        assert lab.from_instance(packet).data == raw(delivered(expected, SERVER))
    answer = echo(SERVER, CLIENT, "echo-reply")
    assert lab.from_instance(answer, SERVER).data == raw(delivered(echo(VIP, CLIENT, "echo-reply"), CLIENT))
    assert lab.flow(CLIENT, VIP, 77, 77, ICMP_NUMBER) is not None


def test_a_port_of_its_own_goes_before_every_port(lab: Lab) -> None:
    lab.serve((SECOND, 0), port=0, protocol=0)
    lab.datapath.frontends.clear()
    lab.serve((SERVER, 8080))
    assert lab.from_instance(tcp(CLIENT, VIP, dport=80)).frame[IP].dst == SERVER
    assert lab.from_instance(tcp(CLIENT, VIP, dport=81)).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.FROM_INSTANCE): 1}


def test_new_flows_are_spread_and_known_ones_stay(lab: Lab) -> None:
    lab.serve((SERVER, 8080), (SECOND, 8080))
    chosen = {port: lab.from_instance(tcp(CLIENT, VIP, port)).frame[IP].dst for port in range(40000, 40200)}
    counts = Counter(chosen.values())
    assert set(counts) == {SERVER, SECOND}
    assert min(counts.values()) > 50, "one in 10^13 by chance"
    for port in range(40000, 40200):
        assert lab.from_instance(tcp(CLIENT, VIP, port, flags="A")).frame[IP].dst == chosen[port]


def test_a_draining_backend_keeps_its_flows_and_takes_no_new_ones(lab: Lab) -> None:
    lab.serve((SERVER, 8080), (SECOND, 8080))
    lab.set_backend(2, SECOND, 8080, BackendState.DOWN)
    lab.from_instance(tcp(CLIENT, VIP, 40000))
    lab.set_backend(2, SECOND, 8080)
    lab.set_backend(1, SERVER, 8080, BackendState.DRAINING)
    assert lab.from_instance(tcp(CLIENT, VIP, 40000, flags="A")).frame[IP].dst == SERVER
    for port in range(41000, 41030):
        assert lab.from_instance(tcp(CLIENT, VIP, port)).frame[IP].dst == SECOND


def test_a_slot_without_backend_is_passed_over(lab: Lab) -> None:
    lab.serve((SERVER, 8080), (SECOND, 8080))
    lab.datapath.backends.delete(2)
    for port in range(41000, 41030):
        assert lab.from_instance(tcp(CLIENT, VIP, port)).frame[IP].dst == SERVER


def reset(asked: Ether, **fields: Any) -> Any:
    """What RFC 9293, 3.10.7.1 has for a segment that nobody expects."""
    head = Ether(src=HOST_MACS[CLIENT], dst=MACS[CLIENT]) / IP(src=VIP, dst=CLIENT, id=0, ttl=64)
    return head / TCP(sport=asked[TCP].dport, dport=asked[TCP].sport, window=0, **fields)


@pytest.mark.parametrize("state", [BackendState.DRAINING, BackendState.DOWN, None])
def test_tcp_without_backend_is_reset_at_once(lab: Lab, state: BackendState | None) -> None:
    lab.serve(*([] if state is None else [(SERVER, 8080)]))
    if state is not None:
        lab.set_backend(1, SERVER, 8080, state)
    asked = tcp(CLIENT, VIP, load=b"")
    result = lab.from_instance(asked)
    assert (result.action, result.data) == (REDIRECT, raw(reset(asked, seq=0, ack=8, flags="RA")))
    (event,) = lab.events()
    assert (event.verdict, event.reason) == (Verdict.DENY, DropReason.NO_BACKEND)
    assert (str(event.service), event.service_port) == (VIP, 80)
    assert lab.drops() == {(DropReason.NO_BACKEND, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == {}


@pytest.mark.parametrize(
    ("flags", "load", "fields"),
    [
        ("A", b"", {"seq": 55, "ack": 0, "flags": "R"}),
        ("PA", bytes(1000), {"seq": 55, "ack": 0, "flags": "R"}),
        ("S", b"early", {"seq": 0, "ack": 7 + 5 + 1, "flags": "RA"}),
        ("F", b"", {"seq": 0, "ack": 8, "flags": "RA"}),
        ("SA", b"", {"seq": 55, "ack": 0, "flags": "R"}),
    ],
)
def test_a_reset_fits_what_it_answers(lab: Lab, flags: str, load: bytes, fields: dict[str, object]) -> None:
    lab.serve()
    asked = tcp(CLIENT, VIP, flags=flags, load=load)
    asked[TCP].ack = 55 if "A" in flags else 0
    assert lab.from_instance(asked).data == raw(reset(asked, **fields))


def test_a_reset_is_not_answered_with_one(lab: Lab) -> None:
    lab.serve()
    assert lab.from_instance(tcp(CLIENT, VIP, flags="R")).action == SHOT


def test_a_segment_with_tcp_options_is_answered_without(lab: Lab) -> None:
    lab.serve()
    asked = tcp(CLIENT, VIP)
    asked[TCP].options = [("MSS", 1460), ("WScale", 7)]
    assert lab.from_instance(asked).data == raw(reset(asked, seq=0, ack=8, flags="RA"))


def test_ip_options_get_no_answer(lab: Lab) -> None:
    lab.serve()
    head = Ether(src=MACS[CLIENT], dst=HOST_MACS[CLIENT])
    packet = head / IP(src=CLIENT, dst=VIP, options=[b"\x01\x01\x01\x00"]) / TCP(dport=80, flags="S")
    assert lab.from_instance(packet).action == SHOT


@pytest.mark.parametrize("load", [b"", b"x" * 500])
def test_udp_without_backend_is_told_unreachable(lab: Lab, load: bytes) -> None:
    lab.serve(protocol=UDP_NUMBER)
    asked = udp(CLIENT, VIP, load=load)
    result = lab.from_instance(asked)
    head = Ether(src=HOST_MACS[CLIENT], dst=MACS[CLIENT]) / IP(src=VIP, dst=CLIENT, id=0, ttl=64)
    expected = head / ICMP(type="dest-unreach", code="port-unreachable") / raw(asked)[14:42]
    assert (result.action, result.data) == (REDIRECT, raw(expected))


def test_others_without_backend_are_dropped(lab: Lab) -> None:
    lab.serve(port=0, protocol=0)
    assert lab.from_instance(echo(CLIENT, VIP)).action == SHOT
    assert lab.drops() == {(DropReason.NO_BACKEND, Hook.FROM_INSTANCE): 1}


def test_a_backend_outside_is_reached_through_the_stack(lab: Lab) -> None:
    lab.serve((OUTSIDE, 443))
    expected = renewed(tcp(CLIENT, OUTSIDE, 40000, 443))
    assert lab.from_instance(tcp(CLIENT, VIP, 40000, 80)).data == raw(expected)
    answer = tcp(OUTSIDE, CLIENT, 443, 40000, "SA")
    result = lab.to_instance(answer)
    answer[IP].src, answer[TCP].sport = VIP, 80
    assert result.data == raw(renewed(answer))


def test_a_service_of_a_thousand_backends(lab: Lab) -> None:
    """Only the slots that are tried are looked at; the last is as good as the first."""
    lab.serve(*[(SERVER, 1000 + number) for number in range(1000)])
    ports = {lab.from_instance(tcp(CLIENT, VIP, port)).frame[TCP].dport for port in range(20000, 20500)}
    assert len(ports) > 300
    assert ports <= set(range(1000, 2000))
