"""The datapath on all links of a world's node, and servers and clients in its namespaces."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType

from support.slowness import patient
from support.world import NODE, NODE6, POOL, POOL6, UPLINK, UPLINK6, World, world
from whit.base.settings import Settings
from whit.datapath.abi import (
    BackendValue,
    Direction,
    EndpointFlags,
    EndpointKey,
    EndpointValue,
    FlowEvent,
    FrontendKey,
    FrontendValue,
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
from whit.kernel.network import links, netns
from whit.kernel.network.instance_link import GATEWAY6
from whit.kernel.network.netlink import NetlinkSocket

PATIENCE = patient(20)
HOST_ID, FIRST_ID = 1, 100
DEFAULT_SIZES: Mapping[str, int] = MappingProxyType({})


class Live:
    """The datapath on all links of a world's node. Instances 1 and 2 have the identities 101 and 102."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        form: Form,
        *,
        redirect_peer: bool,
        tap: bool = False,
        sizes: Mapping[str, int] = DEFAULT_SIZES,
    ) -> None:
        self.world = world
        self.flags = EndpointFlags.TAP if tap else 0
        config = DatapathConfig(POOL, POOL6, redirect_peer=redirect_peer, sizes=sizes)
        self.datapath = Datapath.install(settings, config, form=form)
        for address in (NODE, UPLINK.ip, NODE6, UPLINK6.ip, GATEWAY6):
            self._identify(address, HOST_ID)
        netns.call_in(world.node, self._attach)

    def _attach(self) -> None:
        with NetlinkSocket() as netlink:
            found = {link.name: link for link in links.all_links(netlink)}
        self.datapath.attach_uplink(found["up0"].index, "up0")
        for number, link in self.world.instances.items():
            index, identity = found[link.name].index, FIRST_ID + number
            macs = links.mac_bytes(link.inner.mac), links.mac_bytes(link.outer.mac)
            for address in (link.address, self.world.address6(number)):
                self._identify(address, identity)
                key = EndpointKey(Address.from_ip(address))
                self.datapath.endpoints.put(key, EndpointValue(index, identity, self.flags, *macs))
            self.datapath.attach_instance(index, number)

    def _identify(self, address: IPv4Address | IPv6Address, identity: int) -> None:
        self.datapath.identities.put(IdentityKey(128, Address.from_ip(address)), IdentityValue(identity))

    def serve(self, address: IPv4Address | IPv6Address | str, port: int, protocol: int, backend: int | None) -> None:
        """A service that leads to port 8080 of an instance at its address of the same family, or to nobody."""
        asked = ip_address(address)
        key = FrontendKey(Address.from_ip(asked), port, protocol)
        self.datapath.frontends.put(key, FrontendValue(port, int(backend is not None), 0, 0))
        if backend is not None:
            self.datapath.slots.put(SlotKey(port, 0), port)
            found = self.world.address6(backend) if asked.version == 6 else self.world.address(backend)
            value = BackendValue(Address.from_ip(found), 8080, 0)
            self.datapath.backends.put(port, value)

    def deny(self, number: int, peer: int) -> None:
        key = PolicyKey(72, FIRST_ID + number, peer, Direction.INGRESS, 0, 0)
        self.datapath.policies.put(key, PolicyValue(9, 1, Verdict.DENY, 0, 0))

    def place(self, number: int) -> Path:
        return self.world.instances[number].netns

    def events(self) -> list[FlowEvent]:
        return list(self.datapath.events.poll())


@contextmanager
def echoing(place: Path, kind: socket.SocketKind, family: int = socket.AF_INET) -> Iterator[list[str]]:
    """A server on port 8080 that sends back what it gets; yields whom it saw."""
    seen: list[str] = []
    server = netns.call_in(place, lambda: socket.socket(family, kind))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("" if family == socket.AF_INET else "::", 8080))
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
        # Nobody may have come: it waits for nobody any more.
        with contextlib.suppress(OSError):  # a datagram socket is not connected, but it wakes up all the same
            server.shutdown(socket.SHUT_RDWR)
        thread.join(2 * PATIENCE)
        server.close()


def _echo_stream(server: socket.socket, seen: list[str]) -> None:
    try:
        connection, peer = server.accept()
    except OSError:
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
    if not data:
        return
    seen.append(peer[0])
    server.sendto(data, peer)


def call(
    place: Path,
    address: IPv4Address | IPv6Address,
    port: int,
    data: bytes,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> bytes:
    """Send, and return as much as was sent."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    client = netns.call_in(place, lambda: socket.socket(family, kind))
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


@contextmanager
def living(
    settings: Settings, form: Form, *, redirect_peer: bool, tap: bool = False, sizes: Mapping[str, int] = DEFAULT_SIZES
) -> Iterator[Live]:
    """A world with the datapath in it; nothing of either is left."""
    with world(settings) as made:
        try:
            live = Live(made, settings, form, redirect_peer=redirect_peer, tap=tap, sizes=sizes)
            with closing(live.datapath):
                yield live
        finally:
            uninstall(settings)
