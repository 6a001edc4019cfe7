"""ICMP errors find the flow that they are about, and are translated as its packets are."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT,
    CLIENT_ID,
    HOST_MACS,
    MACS,
    NODE,
    OK,
    OUTSIDE,
    REDIRECT,
    SERVER,
    SHOT,
    UDP_NUMBER,
    VIP,
    Lab,
    delivered,
    echo,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, Hook

pytestmark = pytest.mark.root

KINDS = [(3, 3), (3, 4), (11, 0), (12, 0)]


def error(source: str, about: Ether, kind: tuple[int, int] = (3, 4), carried: int | None = None, to: str = "") -> Ether:
    """As `source` sends it about a packet that it got; of that, `carried` bytes from the IP header on."""
    head = Ether(src=MACS.get(source, MACS[CLIENT]), dst=HOST_MACS.get(source, HOST_MACS[CLIENT]))
    packet = head / IP(src=source, dst=to or about[IP].src) / ICMP(type=kind[0], code=kind[1], nexthopmtu=1400)
    return packet / raw(about)[14 : None if carried is None else 14 + carried]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_about_a_plain_flow_passes_as_it_is(lab: Lab, kind: tuple[int, int]) -> None:
    asked = udp(CLIENT, SERVER)
    lab.from_instance(asked)
    lab.events()
    lab.deny_all(CLIENT_ID, Direction.INGRESS)
    packet = error(SERVER, asked, kind)
    result = lab.from_instance(packet, SERVER)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(packet, CLIENT)))
    assert lab.events() == []


def test_of_a_flow_that_is_denied_now_nobody_speaks_either(lab: Lab) -> None:
    """An error may carry what its sender likes, and policy is not asked about it."""
    asked = tcp(CLIENT, SERVER)
    lab.from_instance(asked)
    lab.deny_all(CLIENT_ID, Direction.EGRESS)
    lab.policy_changed()
    assert lab.from_instance(tcp(CLIENT, SERVER, flags="A")).action == SHOT
    assert lab.from_instance(error(SERVER, asked), SERVER).action == SHOT
    assert lab.drops()[DropReason.UNRELATED_ERROR, Hook.FROM_INSTANCE] == 1


@pytest.mark.parametrize("carried", [28, None], ids=["8 bytes", "all"])
@pytest.mark.parametrize("make", [tcp, udp])
def test_the_backend_complains_to_the_client_as_the_service(lab: Lab, make, carried: int | None) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER, 8080), protocol=6 if make is tcp else 17)
    load = b"some more"
    lab.from_instance(make(CLIENT, VIP, 40000, 80, load=load))
    complaint = error(SERVER, make(CLIENT, SERVER, 40000, 8080, load=load), carried=carried)
    expected = error(VIP, make(CLIENT, VIP, 40000, 80, load=load), carried=carried)
    result = lab.from_instance(complaint, SERVER)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, CLIENT)))


@pytest.mark.parametrize("carried", [28, None], ids=["8 bytes", "all"])
@pytest.mark.parametrize("make", [tcp, udp])
def test_the_client_complains_to_the_backend_behind_the_service(lab: Lab, make, carried: int | None) -> None:  # type: ignore[no-untyped-def]
    lab.serve((SERVER, 8080), protocol=6 if make is tcp else 17)
    lab.from_instance(make(CLIENT, VIP, 40000, 80))
    complaint = error(CLIENT, make(VIP, CLIENT, 80, 40000), carried=carried)
    expected = error(CLIENT, make(SERVER, CLIENT, 8080, 40000), carried=carried)
    result = lab.from_instance(complaint)
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, SERVER)))


def test_a_udp_packet_without_checksum_is_carried_without(lab: Lab) -> None:
    lab.serve((SERVER, 8080), protocol=UDP_NUMBER)
    lab.from_instance(udp(CLIENT, VIP, 40000, 80))
    inner, outer = udp(CLIENT, SERVER, 40000, 8080), udp(CLIENT, VIP, 40000, 80)
    inner[UDP].chksum = outer[UDP].chksum = 0
    result = lab.from_instance(error(SERVER, inner), SERVER)
    assert result.data == raw(delivered(error(VIP, outer), CLIENT))


def test_a_router_keeps_its_own_address(lab: Lab) -> None:
    """On the way to a backend outside, somebody else complains."""
    lab.serve((OUTSIDE, 443))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    router = "203.0.113.254"
    result = lab.to_instance(error(router, tcp(CLIENT, OUTSIDE, 40000, 443)))
    assert (result.action, result.data) == (OK, raw(error(router, tcp(CLIENT, VIP, 40000, 80))))


def test_an_error_about_an_echo(lab: Lab) -> None:
    lab.serve((SERVER, 0), port=0, protocol=0)
    lab.from_instance(echo(CLIENT, VIP))
    result = lab.from_instance(error(SERVER, echo(CLIENT, SERVER), (11, 0)), SERVER)
    assert result.data == raw(delivered(error(VIP, echo(CLIENT, VIP), (11, 0)), CLIENT))


def test_path_mtu_from_the_world(lab: Lab) -> None:
    asked = tcp(CLIENT, OUTSIDE, 40000, 443)
    lab.from_instance(asked)
    packet = error("203.0.113.254", asked)
    result = lab.to_instance(packet)
    assert (result.action, result.data) == (OK, raw(packet))


@pytest.mark.parametrize("hook", [Hook.FROM_INSTANCE, Hook.TO_INSTANCE])
def test_an_error_about_no_flow_is_dropped(lab: Lab, hook: Hook) -> None:
    if hook == Hook.FROM_INSTANCE:
        result = lab.from_instance(error(SERVER, udp(CLIENT, SERVER)), SERVER)
    else:
        result = lab.to_instance(error(NODE, udp(CLIENT, NODE)))
    assert result.action == SHOT
    assert lab.drops() == {(DropReason.UNRELATED_ERROR, hook): 1}


def test_an_instance_cannot_complain_about_flows_of_others(lab: Lab) -> None:
    asked = tcp(CLIENT, OUTSIDE, 40000, 443)
    lab.from_instance(asked)
    assert lab.from_instance(error(SERVER, asked), SERVER).action == SHOT


def test_an_error_is_for_who_sent_what_it_carries(lab: Lab) -> None:
    asked = tcp(CLIENT, SERVER, 40000, 8080)
    lab.from_instance(asked)
    assert lab.from_instance(error(SERVER, asked, to=OUTSIDE), SERVER).action == SHOT


@pytest.mark.parametrize("carried", [0, 19, 20, 23])
def test_an_error_that_carries_too_little_is_dropped(lab: Lab, carried: int) -> None:
    asked = tcp(CLIENT, SERVER, 40000, 8080)
    lab.from_instance(asked)
    assert lab.from_instance(error(SERVER, asked, carried=carried), SERVER).action == SHOT


def test_an_error_with_a_carried_header_that_lies_is_dropped(lab: Lab) -> None:
    for lie in ({"ihl": 4}, {"version": 6}, {"ihl": 15}):
        asked = tcp(CLIENT, SERVER, 40000, 8080)
        lab.from_instance(asked)
        for name, value in lie.items():
            setattr(asked[IP], name, value)
        asked[TCP].dport = 8080
        assert lab.from_instance(error(SERVER, asked), SERVER).action == SHOT
