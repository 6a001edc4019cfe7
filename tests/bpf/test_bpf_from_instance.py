"""What an instance sends: who it may be, whom it may reach, how it is balanced, and that the whole packet is right."""

from __future__ import annotations

import pytest
from bpf.conftest import (
    API,
    API_ID,
    API_MAC,
    DROP,
    HOST_MAC,
    MARK,
    PASS,
    REDIRECT,
    RESOLVER,
    STRANGER,
    VIP,
    WEB,
    WEB_ID,
    WEB_MAC,
    WORLD,
    Kernel,
    datagram,
    echo,
    frame,
    rebuilt,
    syn,
)
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from whit.datapath import abi
from whit.datapath.abi import DropReason, Hook
from whit.datapath.address import Address

pytestmark = pytest.mark.root


def test_declared_edge_is_translated_and_delivered(kernel: Kernel) -> None:
    verdict, out = kernel.run("from_instance", syn())
    assert verdict == REDIRECT
    assert out == rebuilt(syn(target=API, mac=HOST_MAC, to=API_MAC))
    (event,) = kernel.events()
    assert (event.verdict, event.reason, event.egress_rule, event.ingress_rule) == (abi.Verdict.ALLOW, 0, 30, 31)
    assert (str(event.service), event.service_port, str(event.destination)) == (VIP, 8000, API)
    assert (event.source_identity, event.destination_identity) == (WEB_ID, API_ID)


def test_reply_comes_from_the_service(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    reply = frame(API, WEB, mac=API_MAC) / TCP(sport=8000, dport=40000, flags="SA", seq=5, ack=2)
    verdict, out = kernel.run("from_instance", reply)
    expected = frame(VIP, WEB, mac=HOST_MAC, to=WEB_MAC) / TCP(sport=8000, dport=40000, flags="SA", seq=5, ack=2)
    assert (verdict, out) == (REDIRECT, rebuilt(expected))
    assert len(kernel.events()) == 1, "one event a connection"


def test_a_flow_is_two_entries(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    way = {str(key.source): value for key, value in kernel.flows.items()}
    assert set(way) == {WEB, API}
    assert str(way[WEB].translation) == API
    assert str(way[API].translation) == VIP
    assert way[API].flags & abi.FlowFlags.REPLY


def test_later_packets_are_counted_and_tell_nothing(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    kernel.events()
    data = frame(WEB, VIP) / TCP(sport=40000, dport=8000, flags="A", seq=2, ack=6) / b"GET /"
    verdict, out = kernel.run("from_instance", data)
    expected = frame(WEB, API, mac=HOST_MAC, to=API_MAC) / TCP(sport=40000, dport=8000, flags="A", seq=2, ack=6)
    assert (verdict, out) == (REDIRECT, rebuilt(expected / b"GET /"))
    assert kernel.events() == []
    (value,) = [value for key, value in kernel.flows.items() if str(key.source) == WEB]
    assert value.packets >= 1
    assert value.flags & abi.FlowFlags.ESTABLISHED


@pytest.mark.parametrize(
    ("packet", "reason", "egress", "ingress"),
    [
        (syn(dport=8001), DropReason.POLICY_EGRESS, 10, 0),
        (datagram(), DropReason.POLICY_EGRESS, 10, 0),
        (syn(target=WORLD, dport=443), DropReason.POLICY_EGRESS, 10, 0),
        (echo(), DropReason.POLICY_EGRESS, 10, 0),
    ],
)
def test_default_deny_names_its_rule(
    kernel: Kernel, packet: Ether, reason: DropReason, egress: int, ingress: int
) -> None:
    verdict, _ = kernel.run("from_instance", packet)
    assert verdict == DROP
    (event,) = kernel.events()
    assert (event.verdict, event.reason) == (abi.Verdict.DENY, reason)
    assert (event.egress_rule, event.ingress_rule) == (egress, ingress)
    assert kernel.dropped(reason, Hook.FROM_INSTANCE) == 1
    assert kernel.flows.count() == 0


def test_the_destination_has_its_say_at_the_source(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 40)  # web may reach anybody now
    verdict, _ = kernel.run("from_instance", syn(dport=8001))
    (event,) = kernel.events()
    assert (verdict, event.reason) == (DROP, DropReason.POLICY_INGRESS)
    assert (event.egress_rule, event.ingress_rule) == (40, 21)


def test_audit_lets_through_and_says_so(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 10, allow=False, precedence=0, audit=True)
    kernel.rule(API_ID, abi.Direction.INGRESS, 21, allow=False, precedence=0, audit=True)
    verdict, _ = kernel.run("from_instance", syn(dport=8001))
    (event,) = kernel.events()
    assert verdict == REDIRECT
    assert event.flags & abi.PolicyFlags.AUDIT
    assert (event.verdict, event.egress_rule) == (abi.Verdict.ALLOW, 10)


def test_higher_precedence_wins_over_a_longer_prefix(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 50, allow=False, precedence=9)
    assert kernel.run("from_instance", syn())[0] == DROP
    assert kernel.events()[0].egress_rule == 50


@pytest.mark.parametrize(("port", "open_"), [(1023, False), (1024, True), (1535, True), (1536, False)])
def test_a_port_prefix_is_a_range(kernel: Kernel, port: int, open_: bool) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 60, peer=API_ID, protocol=6, port=1024, bits=7)
    kernel.rule(API_ID, abi.Direction.INGRESS, 61, peer=WEB_ID, protocol=6, port=1024, bits=7)
    assert (kernel.run("from_instance", syn(dport=port))[0] == REDIRECT) is open_


@pytest.mark.parametrize("source", [API, STRANGER, WORLD, VIP])
def test_a_foreign_source_address_is_dropped(kernel: Kernel, source: str) -> None:
    if source == API:
        key = abi.EndpointKey(Address.from_ip(API))
        kernel.endpoints.put(key, abi.EndpointValue(999, API_ID, b"\x0a\x58\0\0\0\x11", b"\x0e\x58\0\0\0\x01"))
    verdict, _ = kernel.run("from_instance", syn(source=source))
    assert verdict == DROP
    assert kernel.dropped(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE) == 1


def test_a_foreign_mac_is_dropped(kernel: Kernel) -> None:
    assert kernel.run("from_instance", syn(mac=API_MAC))[0] == DROP
    assert kernel.events()[0].reason == DropReason.SPOOFED_ADDRESS


@pytest.mark.parametrize(("mac", "address"), [(API_MAC, WEB), (WEB_MAC, API), (WEB_MAC, STRANGER)])
def test_forged_arp_is_dropped(kernel: Kernel, mac: str, address: str) -> None:
    packet = Ether(src=WEB_MAC, dst=HOST_MAC) / ARP(op=2, hwsrc=mac, psrc=address, pdst="169.254.1.1")
    assert kernel.run("from_instance", packet)[0] == DROP
    assert kernel.dropped(DropReason.SPOOFED_ADDRESS, Hook.FROM_INSTANCE) == 1


def test_ipv6_is_dropped_and_only_counted(kernel: Kernel) -> None:
    packet = Ether(src=WEB_MAC, dst=HOST_MAC) / IPv6(src="fe80::1", dst="ff02::2")
    assert kernel.run("from_instance", packet)[0] == DROP
    assert kernel.dropped(DropReason.UNSUPPORTED_PROTOCOL, Hook.FROM_INSTANCE) == 1
    assert kernel.events() == []


def test_own_arp_passes(kernel: Kernel) -> None:
    packet = Ether(src=WEB_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=WEB_MAC, psrc=WEB, pdst="169.254.1.1")
    assert kernel.run("from_instance", packet)[0] == PASS


# The kernel itself refuses to run a program on IPv4 packets of less than 34 bytes.
@pytest.mark.parametrize("length", [34, 35, 40, 50, 53])
def test_truncated_packets_are_malformed(kernel: Kernel, length: int) -> None:
    assert kernel.run("from_instance", bytes(syn())[:length])[0] == DROP
    assert kernel.dropped(DropReason.MALFORMED, Hook.FROM_INSTANCE) == 1


@pytest.mark.parametrize(("flags", "offset"), [("MF", 0), (0, 100)])
def test_fragments_are_dropped(kernel: Kernel, flags: str | int, offset: int) -> None:
    packet = syn()
    packet[IP].flags, packet[IP].frag = flags, offset
    assert kernel.run("from_instance", packet)[0] == DROP
    assert kernel.dropped(DropReason.FRAGMENT, Hook.FROM_INSTANCE) == 1


def test_an_address_that_nobody_has(kernel: Kernel) -> None:
    assert kernel.run("from_instance", syn(target=STRANGER))[0] == DROP
    assert kernel.events()[0].reason == DropReason.UNKNOWN_ENDPOINT


def test_no_backend(kernel: Kernel) -> None:
    kernel.set_backend(7 * 16, abi.BackendState.DOWN)
    assert kernel.run("from_instance", syn())[0] == DROP
    assert kernel.events()[0].reason == DropReason.NO_BACKEND


def test_a_draining_backend_keeps_its_flows_and_takes_no_new_ones(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    kernel.set_backend(7 * 16, abi.BackendState.DRAINING)
    ack = frame(WEB, VIP) / TCP(sport=40000, dport=8000, flags="A", seq=2)
    assert kernel.run("from_instance", ack)[0] == REDIRECT
    assert kernel.run("from_instance", syn(sport=40001))[0] == DROP


def test_backends_share_new_flows(kernel: Kernel) -> None:
    kernel.endpoint("10.77.0.18", "0a:58:00:00:00:12", API_ID)
    kernel.service(VIP, [(API, 0), ("10.77.0.18", 0)])
    chosen = {str(IP(kernel.run("from_instance", syn(sport=sport))[1][14:]).dst) for sport in range(40000, 40040)}
    assert chosen == {API, "10.77.0.18"}


def test_a_changed_policy_reaches_known_flows(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    kernel.events()
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 70, peer=API_ID, protocol=6, port=8000, allow=False, precedence=5)
    kernel.state.put(0, abi.DatapathState(1))
    ack = frame(WEB, VIP) / TCP(sport=40000, dport=8000, flags="A", seq=2)
    assert kernel.run("from_instance", ack)[0] == DROP
    (event,) = kernel.events()
    assert (event.reason, event.egress_rule) == (DropReason.POLICY_EGRESS, 70)


def test_a_changed_policy_that_still_allows_changes_the_rule(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 71, peer=API_ID, protocol=6, port=8000, precedence=5)
    kernel.state.put(0, abi.DatapathState(1))
    ack = frame(WEB, VIP) / TCP(sport=40000, dport=8000, flags="A", seq=2)
    assert kernel.run("from_instance", ack)[0] == REDIRECT
    (value,) = [value for key, value in kernel.flows.items() if str(key.source) == WEB]
    assert (value.egress_rule, value.generation) == (71, 1)


def test_a_syn_on_a_closing_flow_opens_a_new_one(kernel: Kernel) -> None:
    kernel.run("from_instance", syn())
    fin = frame(WEB, VIP) / TCP(sport=40000, dport=8000, flags="FA", seq=3)
    kernel.run("from_instance", fin)
    kernel.events()
    assert kernel.run("from_instance", syn())[0] == REDIRECT
    assert len(kernel.events()) == 1


def test_the_resolver_is_in_the_hosts_stack(kernel: Kernel) -> None:
    packet = datagram(target=RESOLVER, dport=53)
    verdict, out = kernel.run("from_instance", packet)
    assert (verdict, out) == (PASS, bytes(packet))
    assert kernel.mark_after("from_instance", packet) == MARK


def test_udp_without_checksum_stays_without(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 80, peer=API_ID, protocol=17, port=8000)
    kernel.rule(API_ID, abi.Direction.INGRESS, 81, peer=WEB_ID, protocol=17, port=8000)
    packet = datagram()
    packet[UDP].chksum = 0
    _, out = kernel.run("from_instance", packet)
    expected = datagram(target=API, mac=HOST_MAC, to=API_MAC)
    expected[UDP].chksum = 0
    assert out == bytes(expected)


def test_udp_is_translated_with_its_checksum(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 80, peer=API_ID, protocol=17, port=8000)
    kernel.rule(API_ID, abi.Direction.INGRESS, 81, peer=WEB_ID, protocol=17, port=8000)
    assert kernel.run("from_instance", datagram())[1] == rebuilt(datagram(target=API, mac=HOST_MAC, to=API_MAC))


def test_a_full_ring_is_counted(kernel: Kernel) -> None:
    for sport in range(1024, 1024 + 700):
        kernel.run("from_instance", syn(sport=sport, dport=9))
    assert kernel.dropped(DropReason.NONE, Hook.LOST_EVENTS) > 0
    assert kernel.dropped(DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE) == 700
