"""Real connections between real namespaces: what test runs cannot show, as where redirected packets end and checksums
that the kernel has not finished."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.live import HOST_ID, Live, call, echoing, living
from support.slowness import quick
from support.world import NODE, UPLINK

from whit.base.settings import Settings
from whit.datapath.abi import Hook
from whit.kernel.network import netns

pytestmark = [pytest.mark.root, pytest.mark.machine]

VIP = IPv4Address("198.18.77.200")
BULK = bytes(range(256)) * 4096


@pytest.fixture(
    params=[("tcx", True, False), ("tcx", False, False), ("clsact", True, False), ("tcx", True, True)],
    ids=["tcx", "without peer", "clsact", "tap"],
)
def live(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    form, redirect_peer, tap = request.param
    with living(settings, form, redirect_peer=redirect_peer, tap=tap) as made:
        yield made


@pytest.mark.parametrize("address", [VIP, None], ids=["service", "instance"])
def test_an_instance_reaches_another(live: Live, address: IPv4Address | None) -> None:
    live.serve(VIP, 80, 6, 2)
    target = (address, 80) if address else (live.world.address(2), 8080)
    with echoing(live.place(2), socket.SOCK_STREAM) as seen:
        assert call(live.place(1), *target, BULK) == BULK
    assert seen == [str(live.world.address(1))]
    (event,) = live.events()
    assert (event.hook, event.source_identity, event.destination_identity) == (Hook.FROM_INSTANCE, 101, 102)


def test_datagrams_to_a_service(live: Live) -> None:
    live.serve(VIP, 53, 17, 2)
    with echoing(live.place(2), socket.SOCK_DGRAM) as seen:
        assert call(live.place(1), VIP, 53, b"question", socket.SOCK_DGRAM) == b"question"
    assert seen == [str(live.world.address(1))]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_without_backend_refuses_at_once(live: Live, kind: socket.SocketKind) -> None:
    live.serve(VIP, 80, 6 if kind == socket.SOCK_STREAM else 17, None)

    def refused() -> None:
        with pytest.raises(ConnectionRefusedError):
            call(live.place(1), VIP, 80, b"anybody?", kind)

    quick(refused, 0.9)


def test_a_closed_port_behind_a_service_refuses(live: Live) -> None:
    """The reset, or the ICMP error, of the instance itself comes back as the service's."""
    live.serve(VIP, 80, 6, 2)
    live.serve(VIP, 53, 17, 2)
    with pytest.raises(ConnectionRefusedError):
        call(live.place(1), VIP, 80, b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        call(live.place(1), VIP, 53, b"anybody?", socket.SOCK_DGRAM)


def test_the_outside_reaches_a_published_port(live: Live) -> None:
    """Neither side has a route to the other's: packets of both ways pass beside the node's routing table."""
    live.serve("0.0.0.0", 18080, 6, 1)
    with echoing(live.place(1), socket.SOCK_STREAM) as seen:
        assert call(live.world.outside, UPLINK.ip, 18080, BULK) == BULK
    assert seen == ["198.19.1.2"]
    (event,) = live.events()
    assert (event.hook, event.source_identity, event.destination_identity) == (Hook.FROM_UPLINK, 2, 101)


def test_a_published_port_without_backend_refuses_the_outside(live: Live) -> None:
    live.serve("0.0.0.0", 18080, 6, None)

    def refused() -> None:
        with pytest.raises(ConnectionRefusedError):
            call(live.world.outside, UPLINK.ip, 18080, b"anybody?")

    quick(refused, 0.9)


def test_other_ports_of_the_node_are_its_own(live: Live) -> None:
    live.serve("0.0.0.0", 18080, 6, 1)
    with echoing(live.world.node, socket.SOCK_STREAM):
        assert call(live.world.outside, UPLINK.ip, 8080, BULK) == BULK


def test_the_node_reaches_an_instance_if_policy_lets_it(live: Live) -> None:
    with echoing(live.place(1), socket.SOCK_STREAM) as seen:
        assert call(live.world.node, live.world.address(1), 8080, BULK) == BULK
    assert seen == [str(NODE)]
    live.deny(1, HOST_ID)
    live.events()
    with pytest.raises(OSError) as caught:
        _connect_briefly(live.world.node, live.world.address(1))
    assert caught.value.errno in (None, errno.ETIMEDOUT)
    assert {(event.hook, event.ingress_rule) for event in live.events()} == {(Hook.TO_INSTANCE, 9)}


def _connect_briefly(place: Path, address: IPv4Address) -> None:
    client = netns.call_in(place, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with client:
        client.settimeout(0.5)
        client.connect((str(address), 8080))


def test_an_instance_reaches_the_node(live: Live) -> None:
    with echoing(live.world.node, socket.SOCK_STREAM) as seen:
        assert call(live.place(1), NODE, 8080, BULK) == BULK
    assert seen == [str(live.world.address(1))]


def test_an_instance_reaches_the_outside(live: Live) -> None:
    live.world.lead_back()
    with echoing(live.world.outside, socket.SOCK_STREAM) as seen:
        assert call(live.place(1), IPv4Address("198.19.1.2"), 8080, BULK) == BULK
    assert seen == [str(live.world.address(1))]
