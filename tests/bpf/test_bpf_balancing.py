"""Which backend a flow gets, and what becomes of it when that backend goes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import TCP
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    HOST_MACS,
    MACS,
    NODE,
    REDIRECT,
    SECOND,
    SECOND6,
    SERVER,
    SERVER6,
    SERVICE,
    TCP_NUMBER,
    UDP_NUMBER,
    VIP,
    VIP6,
    Lab,
    delivered,
    network_layer,
    raw,
    renewed,
    tcp,
    udp,
)

from whit.datapath.abi import (
    MAGLEV_SIZE,
    BackendState,
    DropReason,
    FlowFlags,
    FrontendFlags,
    FrontendKey,
    Hook,
    SlotKey,
)
from whit.datapath.address import Address

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(
    ("client", "vip", "servers"),
    [(CLIENT, VIP, (SERVER, SECOND)), (CLIENT6, VIP6, (SERVER6, SECOND6))],
    ids=["v4", "v6"],
)


def flag(lab: Lab, vip: str, flags: FrontendFlags, seconds: int = 0, protocol: int = TCP_NUMBER) -> None:
    key = FrontendKey(Address.from_ip(vip), 80, protocol)
    found = lab.datapath.frontends.get(key)
    assert found is not None
    lab.datapath.frontends.put(key, replace(found, flags=flags, affinity_seconds=seconds))


def backend_of(lab: Lab, client: str, vip: str, port: int, make: Callable[..., Any] = tcp) -> str:
    result = lab.from_instance(make(client, vip, port, 80))
    assert result.action == REDIRECT
    return str(network_layer(result.frame).dst)


@FAMILIES
def test_a_backend_gets_flows_by_its_slots(lab: Lab, client: str, vip: str, servers: tuple[str, str]) -> None:
    lab.serve((servers[0], 8080), (servers[1], 8080), (servers[1], 8080), (servers[1], 8080), address=vip)
    counts = Counter(backend_of(lab, client, vip, port) for port in range(20000, 20400))
    assert 50 < counts[servers[0]] < 150


@FAMILIES
def test_a_client_keeps_its_backend_for_a_time(lab: Lab, client: str, vip: str, servers: tuple[str, str]) -> None:
    lab.serve((servers[0], 8080), (servers[1], 8080), address=vip)
    flag(lab, vip, FrontendFlags.AFFINITY, seconds=60)
    first = backend_of(lab, client, vip, 20000)
    assert {backend_of(lab, client, vip, port) for port in range(20001, 20050)} == {first}
    flag(lab, vip, FrontendFlags.AFFINITY, seconds=0)
    assert len({backend_of(lab, client, vip, port) for port in range(21000, 21050)}) == 2


def test_affinity_lets_go_of_a_backend_that_takes_nothing_new(lab: Lab) -> None:
    lab.serve((SERVER, 8080), (SECOND, 8080))
    flag(lab, VIP, FrontendFlags.AFFINITY, seconds=60)
    first = backend_of(lab, CLIENT, VIP, 20000)
    other = {SERVER: SECOND, SECOND: SERVER}[first]
    lab.set_backend({SERVER: 1, SECOND: 2}[first], first, 8080, BackendState.DRAINING)
    assert {backend_of(lab, CLIENT, VIP, port) for port in range(20001, 20030)} == {other}


@FAMILIES
def test_maglev_follows_from_the_tuple(lab: Lab, client: str, vip: str, servers: tuple[str, str]) -> None:
    lab.serve((servers[0], 8080), (servers[1], 8080), address=vip)
    flag(lab, vip, FrontendFlags.MAGLEV)
    table = [1, 2] * (MAGLEV_SIZE // 2) + [1]
    random.Random(7).shuffle(table)
    lab.datapath.maglev.put(SERVICE, table)
    given = {port: backend_of(lab, client, vip, port) for port in range(20000, 20200)}
    assert 60 < Counter(given.values())[servers[0]] < 140
    for key in list(lab.flows()):
        lab.datapath.flows.delete(key)
    assert {port: backend_of(lab, client, vip, port) for port in given} == given
    lab.datapath.maglev.put(SERVICE, [2] * MAGLEV_SIZE)
    assert {backend_of(lab, client, vip, port) for port in range(30000, 30020)} == {servers[1]}
    assert lab.datapath.maglev.services() == {SERVICE}
    assert lab.datapath.maglev.delete(SERVICE)
    assert not lab.datapath.maglev.delete(SERVICE)


def test_a_table_of_another_length_is_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match="16381 slots"):
        lab.datapath.maglev.put(SERVICE, [1])


@FAMILIES
@pytest.mark.parametrize("make", [tcp, udp])
def test_a_client_that_is_its_own_backend(
    lab: Lab, client: str, vip: str, servers: tuple[str, str], make: Callable[..., Any]
) -> None:
    lab.serve((client, 8080), address=vip, protocol=TCP_NUMBER if make is tcp else UDP_NUMBER)
    asked = make(client, vip, 40000, 80)
    result = lab.from_instance(asked)
    expected = asked.copy()
    network_layer(expected).src, network_layer(expected).dst = vip, client
    network_layer(expected).payload.dport = 8080
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, client)))
    answer = make(client, vip, 8080, 40000)
    result = lab.from_instance(answer)
    expected = answer.copy()
    network_layer(expected).src, network_layer(expected).dst = vip, client
    network_layer(expected).payload.sport = 80
    assert (result.action, result.data) == (REDIRECT, raw(delivered(expected, client)))
    assert len(lab.flows()) == 2
    assert all(flow.flags & FlowFlags.HAIRPIN for flow in lab.flows().values())


@pytest.mark.parametrize("gone", ["deleted", "down", "another's"])
def test_datagrams_go_to_another_backend_at_once(lab: Lab, gone: str) -> None:
    lab.serve((SERVER, 8080), protocol=UDP_NUMBER)
    assert backend_of(lab, CLIENT, VIP, 40000, udp) == SERVER
    lab.datapath.slots.put(SlotKey(SERVICE, 0), 2)
    lab.set_backend(2, SECOND, 8080)
    lose(lab, gone)
    assert backend_of(lab, CLIENT, VIP, 40000, udp) == SECOND
    answer = lab.from_instance(udp(SECOND, CLIENT, 8080, 40000), SECOND)
    assert (network_layer(answer.frame).src, network_layer(answer.frame).sport) == (VIP, 80)


def lose(lab: Lab, gone: str) -> None:
    if gone == "deleted":
        lab.datapath.backends.delete(1)
    else:
        state = BackendState.DOWN if gone == "down" else BackendState.ACTIVE
        lab.set_backend(1, SERVER if gone == "down" else SECOND, 8080, state)
    lab.policy_changed()


def test_a_connection_whose_backend_is_gone_is_reset(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    backend_of(lab, CLIENT, VIP, 40000)
    lab.events()
    lose(lab, "down")
    asked = tcp(CLIENT, VIP, 40000, 80, "A")
    result = lab.from_instance(asked)
    head = tcp(VIP, CLIENT, 80, 40000, "R")
    head.src, head.dst = HOST_MACS[CLIENT], MACS[CLIENT]
    assert result.action == REDIRECT
    assert (result.frame[TCP].flags, network_layer(result.frame).src, result.frame[TCP].seq) == (
        "R",
        VIP,
        asked[TCP].ack,
    )
    assert raw(renewed(result.frame)) == result.data
    assert lab.drops() == {(DropReason.BACKEND_GONE, Hook.FROM_INSTANCE): 1}
    (event,) = lab.events()
    assert (event.reason, str(event.service), str(event.destination)) == (DropReason.BACKEND_GONE, VIP, SERVER)


def test_a_draining_backend_keeps_its_flows(lab: Lab) -> None:
    lab.serve((SERVER, 8080), (SECOND, 8080))
    port = next(port for port in range(20000, 20100) if backend_of(lab, CLIENT, VIP, port) == SERVER)
    lab.set_backend(1, SERVER, 8080, BackendState.DRAINING)
    lab.policy_changed()
    assert network_layer(lab.from_instance(tcp(CLIENT, VIP, port, 80, "A")).frame).dst == SERVER
    assert {backend_of(lab, CLIENT, VIP, port) for port in range(21000, 21020)} == {SECOND}


def test_an_instance_asks_a_published_port_by_the_address_of_the_node(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address="0.0.0.0", port=8088)
    result = lab.from_instance(tcp(CLIENT, NODE, 40000, 8088))
    assert (result.action, result.data) == (REDIRECT, raw(delivered(tcp(CLIENT, SERVER, 40000, 8080), SERVER)))
    result = lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "SA"), SERVER)
    assert result.data == raw(delivered(rewritten(tcp(SERVER, CLIENT, 8080, 40000, "SA"), NODE, 8088), CLIENT))


def rewritten(packet: Any, source: str, port: int) -> Any:
    network_layer(packet).src, packet[TCP].sport = source, port
    return packet


def test_a_published_port_is_no_port_of_other_addresses(lab: Lab) -> None:
    lab.serve((SERVER, 8080), address="0.0.0.0", port=8088)
    lab.from_instance(tcp(CLIENT, "198.51.100.9", 40000, 8088))
    (event,) = lab.events()
    assert str(event.destination) == "198.51.100.9"


def test_a_backend_may_be_the_node_itself(lab: Lab) -> None:
    lab.serve((NODE, 9000))
    result = lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    assert (result.action, network_layer(result.frame).dst, result.frame[TCP].dport) == (0, NODE, 9000)
