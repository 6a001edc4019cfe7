"""Instances that sleep: user space is told of what comes for them, and gets what nobody could take."""

from __future__ import annotations

import select
import time
from dataclasses import replace
from typing import Any

import pytest
from support.packet_lab import (
    CLIENT,
    IPV6_OF,
    NODE,
    REDIRECT,
    SERVER,
    SERVER6,
    SERVER_ID,
    SHOT,
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

from whit.datapath.abi import HELD_BYTES, Direction, DropReason, EndpointFlags, EndpointKey, Hook, Verdict
from whit.datapath.address import Address
from whit.datapath.knocks import packet_of

pytestmark = pytest.mark.root
GONE = REDIRECT
"""To a link that there is not: a sender on the node would hear of a drop, and give up early."""
WARM, ASLEEP, HELD = EndpointFlags.WARM, EndpointFlags.ASLEEP, EndpointFlags.HELD
CLIENT6 = IPV6_OF[CLIENT]


def put_to_sleep(lab: Lab, flags: int) -> None:
    for address in (SERVER, SERVER6):
        value = lab.endpoint(address, SERVER_ID)
        lab.datapath.endpoints.put(EndpointKey(Address.from_ip(address)), replace(value, flags=WARM | flags))
    lab.datapath.activity.put(lab.links[SERVER], 1)


def flags_of(lab: Lab, address: str = SERVER) -> int:
    value = lab.datapath.endpoints.get(EndpointKey(Address.from_ip(address)))
    assert value is not None
    return value.flags


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
@pytest.mark.parametrize("make", [tcp, udp])
def test_of_a_frozen_one_user_space_is_told_once(lab: Lab, make: Any, client: str, server: str) -> None:
    put_to_sleep(lab, ASLEEP)
    result = lab.from_instance(make(client, server))
    assert (result.action, result.data) == (REDIRECT, raw(delivered(make(client, server), server)))
    (told,) = lab.datapath.control.take()
    assert (told.ifindex, told.hook, packet_of(told)) == (lab.links[SERVER], Hook.FROM_INSTANCE, b"")
    assert flags_of(lab, server) == WARM
    assert lab.from_instance(make(client, server)).action == REDIRECT
    assert lab.datapath.control.take() == []


def test_who_waits_for_the_ring_is_woken(lab: Lab) -> None:
    put_to_sleep(lab, ASLEEP)
    waiting = select.epoll()
    waiting.register(lab.datapath.control.fileno(), select.EPOLLIN)
    assert not waiting.poll(0)
    lab.from_instance(tcp(CLIENT, SERVER))
    assert waiting.poll(20)
    lab.datapath.control.take()
    assert not waiting.poll(0)


def test_what_policy_denies_wakes_nobody(lab: Lab) -> None:
    put_to_sleep(lab, HELD)
    lab.rule(SERVER_ID, Direction.INGRESS, Verdict.DENY)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == SHOT
    assert lab.datapath.control.take() == []
    assert lab.datapath.activity.get(lab.links[SERVER]) == 1


@pytest.mark.parametrize("flags", [ASLEEP, HELD])
def test_the_kernel_answers_pings_in_its_sleep(lab: Lab, flags: int) -> None:
    put_to_sleep(lab, flags)
    assert lab.from_instance(echo(CLIENT, SERVER)).action == REDIRECT
    assert lab.datapath.control.take() == []


@pytest.mark.parametrize("make", [tcp, udp])
def test_what_is_held_is_the_packet_as_it_would_have_been_delivered(lab: Lab, make: Any) -> None:
    lab.serve((SERVER, 8080), protocol=6 if make is tcp else UDP_NUMBER)
    put_to_sleep(lab, HELD)
    for port in (40000, 40001):
        assert lab.from_instance(make(CLIENT, VIP, port, 80)).action == GONE
    told = lab.datapath.control.take()
    assert [packet_of(one) for one in told] == [
        raw(delivered(make(CLIENT, SERVER, port, 8080), SERVER)) for port in (40000, 40001)
    ]
    assert lab.drops() == {(DropReason.HELD, Hook.FROM_INSTANCE): 2}
    # One event for each flow, and it was let through.
    assert [event.reason for event in lab.events()] == [0, 0]
    assert flags_of(lab) == WARM | HELD


def test_the_answer_of_the_one_that_was_woken_goes_back(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    put_to_sleep(lab, HELD)
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    put_to_sleep(lab, 0)
    result = lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, flags="SA"), SERVER)
    expected = renewed(delivered(tcp(VIP, CLIENT, 80, 40000, flags="SA"), CLIENT))
    assert (result.action, result.data) == (REDIRECT, raw(expected))


def test_what_comes_by_the_stack_is_held_too(lab: Lab) -> None:
    put_to_sleep(lab, HELD)
    packet = tcp(NODE, SERVER)
    assert lab.to_instance(packet, SERVER).action == GONE
    (told,) = lab.datapath.control.take()
    assert packet_of(told) == raw(packet)


def test_a_connection_that_was_is_for_the_kernel_to_reset(lab: Lab) -> None:
    put_to_sleep(lab, HELD)
    assert lab.from_instance(tcp(CLIENT, SERVER, flags="A")).action == REDIRECT
    assert lab.datapath.control.take() == []


def test_what_is_too_long_to_be_held_is_lost_but_wakes(lab: Lab) -> None:
    put_to_sleep(lab, HELD)
    head = len(raw(udp(CLIENT, SERVER, load=b"")))
    fits, longer = b"x" * (HELD_BYTES - head), b"x" * (HELD_BYTES - head + 1)
    assert lab.from_instance(udp(CLIENT, SERVER, load=fits)).action == GONE
    assert lab.from_instance(udp(CLIENT, SERVER, load=longer)).action == GONE
    assert [len(packet_of(one)) for one in lab.datapath.control.take()] == [HELD_BYTES, 0]


def test_a_full_ring_is_told_by_the_next_packet(lab: Lab) -> None:
    put_to_sleep(lab, HELD)
    for port in range(1000):
        assert lab.from_instance(tcp(CLIENT, SERVER, 10000 + port)).action == GONE
    put_to_sleep(lab, ASLEEP)
    lab.from_instance(tcp(CLIENT, SERVER, 20000))
    assert flags_of(lab) == WARM | ASLEEP
    assert lab.drops()[DropReason.NONE, Hook.LOST_EVENTS] > 1
    lab.datapath.control.take()
    lab.from_instance(tcp(CLIENT, SERVER, 20000))
    assert len(lab.datapath.control.take()) == 1


def test_activity_is_noted_of_who_may_sleep_alone(lab: Lab) -> None:
    put_to_sleep(lab, 0)
    before = time.monotonic_ns()
    lab.from_instance(tcp(CLIENT, SERVER))
    noted = lab.datapath.activity.get(lab.links[SERVER])
    assert noted is not None
    assert before < noted < time.monotonic_ns()
    lab.from_instance(tcp(SERVER, CLIENT, 80, 40000, flags="SA"), SERVER)
    assert lab.datapath.activity.get(lab.links[CLIENT]) is None
