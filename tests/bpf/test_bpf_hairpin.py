"""An instance that asks a service and is given itself: errors about its packets, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    CLIENT_ID,
    REDIRECT,
    SHOT,
    UDP_NUMBER,
    VIP,
    VIP6,
    Lab,
    delivered,
    echo,
    ip,
    is_ipv6,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, EndEvent, HttpEvent

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(("client", "vip"), [(CLIENT, VIP), (CLIENT6, VIP6)], ids=["v4", "v6"])


def complaint(client: str, vip: str, about: bytes) -> Any:
    """Port unreachable, from the instance to whom it saw as the sender."""
    error = ICMPv6DestUnreach(code=4) if is_ipv6(client) else ICMP(type=3, code=3)
    return ip(client, vip) / error / about


@FAMILIES
def test_without_ports_one_entry_serves_question_and_answer(lab: Lab, client: str, vip: str) -> None:
    """Both look alike, and what is to be done with them is the same."""
    lab.serve((client, 0), address=vip, port=0, protocol=0)
    for kind in ("echo-request", "echo-reply"):
        result = lab.from_instance(echo(client, vip, kind))
        assert (result.action, result.data) == (REDIRECT, raw(delivered(echo(vip, client, kind), client)))
    (flow,) = lab.flows().values()
    assert flow.packets == 2
    assert [DropReason(event.reason) for event in lab.events()] == [DropReason.NONE]


def test_from_the_port_that_is_asked_it_is_the_same(lab: Lab) -> None:
    lab.serve((CLIENT, 80), protocol=UDP_NUMBER)
    for _ in range(2):
        result = lab.from_instance(udp(CLIENT, VIP, 80, 80))
        assert (result.action, result.data) == (REDIRECT, raw(delivered(udp(VIP, CLIENT, 80, 80), CLIENT)))
    assert len(lab.flows()) == 1


@FAMILIES
def test_an_error_about_the_question_comes_back_as_the_service_s(lab: Lab, client: str, vip: str) -> None:
    lab.serve((client, 8080), address=vip, protocol=UDP_NUMBER)
    asked = udp(client, vip, 40000, 80)
    arrived = lab.from_instance(asked).data[14:]
    result = lab.from_instance(complaint(client, vip, arrived))
    expected = delivered(complaint(vip, client, raw(asked)[14:]), client)
    assert (result.action, result.data) == (REDIRECT, raw(expected))


@FAMILIES
def test_an_error_about_the_answer_reaches_who_answered(lab: Lab, client: str, vip: str) -> None:
    lab.serve((client, 8080), address=vip, protocol=UDP_NUMBER)
    lab.from_instance(udp(client, vip, 40000, 80))
    answer = udp(client, vip, 8080, 40000)
    arrived = lab.from_instance(answer).data[14:]
    result = lab.from_instance(complaint(client, vip, arrived))
    expected = delivered(complaint(vip, client, raw(answer)[14:]), client)
    assert (result.action, result.data) == (REDIRECT, raw(expected))


@FAMILIES
def test_events_name_the_instance_at_both_ends(lab: Lab, client: str, vip: str) -> None:
    lab.serve((client, 8080), address=vip)
    lab.from_instance(tcp(client, vip, 40000, 80))
    lab.from_instance(tcp(client, vip, 40000, 80, "PA", b"GET /self HTTP/1.1\r\n\r\n"))
    lab.from_instance(tcp(client, vip, 8080, 40000, "PA", b"HTTP/1.1 204 No Content\r\n\r\n"))
    lab.from_instance(tcp(client, vip, 8080, 40000, "R"))
    events = [event for event in lab.datapath.events.every() if isinstance(event, HttpEvent | EndEvent)]
    assert [type(event) for event in events] == [HttpEvent, EndEvent]
    for event in events:
        assert (str(event.source), event.source_port) == (client, 40000)
        assert (str(event.destination), event.destination_port) == (client, 8080)


def test_policy_is_asked_about_the_instance_and_itself(lab: Lab) -> None:
    lab.serve((CLIENT, 8080))
    rule = lab.deny_all(CLIENT_ID, Direction.INGRESS)
    assert lab.from_instance(tcp(CLIENT, VIP, 40000, 80)).action == SHOT
    (event,) = lab.events()
    assert (event.reason, event.ingress_rule, event.source_identity) == (DropReason.POLICY_INGRESS, rule, CLIENT_ID)
