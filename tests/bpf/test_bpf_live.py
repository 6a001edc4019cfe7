"""Real connections between real namespaces: what test runs cannot show, as where redirected packets end and checksums
that the kernel has not finished."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.world import NODE, POOL, UPLINK, World, world

from whit.base.settings import Settings
from whit.datapath.abi import (
    BackendValue,
    Direction,
    EndpointKey,
    EndpointValue,
    FlowEvent,
    FrontendKey,
    FrontendValue,
    Hook,
    IdentityKey,
    IdentityValue,
    PolicyKey,
    PolicyValue,
    SlotKey,
    Verdict,
)
from whit.datapath.address import Address
from whit.datapath.attach import Form
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.kernel import links, netns
from whit.kernel.netlink import NetlinkSocket

pytestmark = [pytest.mark.root, pytest.mark.machine]

VIP = IPv4Address("198.18.77.200")
BULK = bytes(range(256)) * 4096
PATIENCE = 5
HOST_ID, FIRST_ID = 1, 100


class Live:
    """The datapath on all links of a world's node. Instances 1 and 2 have the identities 101 and 102."""

    def __init__(self, world: World, settings: Settings, form: Form, *, redirect_peer: bool) -> None:
        self.world = world
        self.datapath = Datapath.install(settings, DatapathConfig(POOL, redirect_peer=redirect_peer), form=form)
        for address in (NODE, UPLINK.ip):
            self._identify(address, HOST_ID)
        netns.call_in(world.node, self._attach)

    def _attach(self) -> None:
        with NetlinkSocket() as netlink:
            found = {link.name: link for link in links.all_links(netlink)}
        self.datapath.attach_uplink(found["up0"].index, "up0")
        for number, link in self.world.instances.items():
            index, identity = found[link.name].index, FIRST_ID + number
            self._identify(link.address, identity)
            macs = links.mac_bytes(link.inner.mac), links.mac_bytes(link.outer.mac)
            key = EndpointKey(Address.from_ip(link.address))
            self.datapath.endpoints.put(key, EndpointValue(index, identity, 0, *macs))
            self.datapath.attach_instance(index, number)

    def _identify(self, address: IPv4Address, identity: int) -> None:
        self.datapath.identities.put(IdentityKey(128, Address.from_ip(address)), IdentityValue(identity))

    def serve(self, address: IPv4Address | str, port: int, protocol: int, backend: int | None) -> None:
        """A service that leads to port 8080 of an instance, or to nobody."""
        key = FrontendKey(Address.from_ip(address), port, protocol)
        self.datapath.frontends.put(key, FrontendValue(port, int(backend is not None), 0, 0))
        if backend is not None:
            self.datapath.slots.put(SlotKey(port, 0), port)
            value = BackendValue(Address.from_ip(self.world.address(backend)), 8080, 0)
            self.datapath.backends.put(port, value)

    def deny(self, number: int, peer: int) -> None:
        key = PolicyKey(72, FIRST_ID + number, peer, Direction.INGRESS, 0, 0)
        self.datapath.policies.put(key, PolicyValue(9, 1, Verdict.DENY, 0, 0))

    def place(self, number: int) -> Path:
        return self.world.instances[number].netns

    def events(self) -> list[FlowEvent]:
        return list(self.datapath.events.poll())


@pytest.fixture(params=[("tcx", True), ("tcx", False), ("clsact", True)], ids=["tcx", "without peer", "clsact"])
def live(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    form, redirect_peer = request.param
    with world(settings) as made:
        try:
            live = Live(made, settings, form, redirect_peer=redirect_peer)
            with closing(live.datapath):
                yield live
        finally:
            uninstall(settings)


@contextmanager
def echoing(place: Path, kind: socket.SocketKind) -> Iterator[list[str]]:
    """A server on port 8080 that sends back what it gets; yields whom it saw."""
    seen: list[str] = []
    server = netns.call_in(place, lambda: socket.socket(socket.AF_INET, kind))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", 8080))
    server.settimeout(PATIENCE)
    thread = threading.Thread(
        target=_echo_stream if kind == socket.SOCK_STREAM else _echo_datagram, args=(server, seen)
    )
    if kind == socket.SOCK_STREAM:
        server.listen()
    thread.start()
    try:
        yield seen
    finally:
        thread.join(2 * PATIENCE)
        server.close()


def _echo_stream(server: socket.socket, seen: list[str]) -> None:
    try:
        connection, peer = server.accept()
    except TimeoutError:
        return
    seen.append(peer[0])
    with connection:
        connection.settimeout(PATIENCE)
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def _echo_datagram(server: socket.socket, seen: list[str]) -> None:
    try:
        data, peer = server.recvfrom(1 << 16)
    except TimeoutError:
        return
    seen.append(peer[0])
    server.sendto(data, peer)


def call(
    place: Path, address: IPv4Address, port: int, data: bytes, kind: socket.SocketKind = socket.SOCK_STREAM
) -> bytes:
    """Send, and return as much as was sent."""
    client = netns.call_in(place, lambda: socket.socket(socket.AF_INET, kind))
    with client:
        client.settimeout(PATIENCE)
        client.connect((str(address), port))
        writer = threading.Thread(target=client.sendall, args=(data,))
        writer.start()
        answer = b""
        while len(answer) < len(data) and (part := client.recv(1 << 16)):
            answer += part
        writer.join()
        return answer


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
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        call(live.place(1), VIP, 80, b"anybody?", kind)
    assert time.monotonic() - began < 1


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
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        call(live.world.outside, UPLINK.ip, 18080, b"anybody?")
    assert time.monotonic() - began < 1


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
