"""A node with instances and a world outside, all in network namespaces: what packets do, without touching the host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from support.slowness import patient
from whit.base.settings import Settings
from whit.kernel import sysctl
from whit.kernel.network import addresses, instance_link, links, netns, routes
from whit.kernel.network.instance_link import InstanceLink
from whit.kernel.network.links import CreateHostLink, End
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.network.routes import Route

T = TypeVar("T")

POOL = IPv4Network("198.18.77.0/24")
NODE = IPv4Address("198.18.77.1")
UPLINK = IPv4Interface("198.19.1.1/24")
OUTSIDE = IPv4Interface("198.19.1.2/24")
POOL6 = IPv6Network("fd77::/64")
NODE6 = IPv6Address("fd77::1")
UPLINK6 = IPv6Interface("2001:db8:77::1/64")
OUTSIDE6 = IPv6Interface("2001:db8:77::2/64")


@dataclass
class World:
    """`outside` is one hop from the node and knows no route to the pool, as machines of the internet do not."""

    settings: Settings
    instances: dict[int, InstanceLink] = field(default_factory=dict)

    @property
    def node(self) -> Path:
        return self.settings.netns_dir / "node"

    @property
    def outside(self) -> Path:
        return self.settings.netns_dir / "outside"

    def address(self, number: int) -> IPv4Address:
        return self.instances[number].address

    def address6(self, number: int) -> IPv6Address:
        return NODE6 + 9 + number

    def on_node(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine, and the processes that it starts, in the node's namespace."""
        return netns.call_in(self.node, lambda: asyncio.run(function()))

    def set_up(self) -> None:
        for path in (self.node, self.outside):
            netns.create(path)
        host = CreateHostLink(self.settings.host_link, "0e:58:c6:12:4d:01", (IPv4Interface(NODE), IPv6Interface(NODE6)))
        netns.call_in(self.node, lambda: links.create_host_link(host))
        self._connect_outside()
        for number in (1, 2):
            self._add_instance(number)

    def _connect_outside(self) -> None:
        ends = End("up0", "0a:58:00:00:00:01"), End("eth0", "0a:58:00:00:00:02")
        with (
            NetlinkSocket.inside(self.node) as node,
            NetlinkSocket.inside(self.outside) as outside,
            netns.opened(self.outside) as descriptor,
        ):
            node.execute([links.create_veth(*ends, mtu=1500, netns=descriptor)])
            for netlink, name, *own in ((node, "up0", UPLINK, UPLINK6), (outside, "eth0", OUTSIDE, OUTSIDE6)):
                index = links.by_name(netlink, name).index
                given = [addresses.add(address, index) for address in own]
                netlink.execute([links.set_up(1), links.set_up(index), *given])
        for setting in ("net/ipv4/conf/up0/forwarding", "net/ipv6/conf/all/forwarding"):
            netns.call_in(self.node, lambda setting=setting: sysctl.write(setting, 1))

    def _add_instance(self, number: int) -> None:
        path = self.settings.netns_dir / f"instance-{number}"
        wanted = InstanceLink(self.settings.link(number), path, NODE + 9 + number, NODE)
        wanted = replace(wanted, address6=self.address6(number), node_address6=NODE6)
        netns.create(path)
        netns.call_in(self.node, lambda: instance_link.prepare_instance(wanted))
        self.instances[number] = wanted

    def lead_back(self) -> None:
        """Give the outside a route to the pool, so that answers come back without masquerade."""
        with NetlinkSocket.inside(self.outside) as outside:
            index = links.by_name(outside, "eth0").index
            outside.execute([routes.add(Route(POOL, index, gateway=UPLINK.ip))])
            outside.execute([routes.add(Route(POOL6, index, gateway=UPLINK6.ip))])


def exchange(client: Path, server: Path, address: IPv4Address, port: int = 8080, patience: float = 20) -> str:
    """Connect from one namespace to a listener in another. Returns whom the listener saw; TimeoutError if nobody."""
    with netns.call_in(server, lambda: socket.create_server(("0.0.0.0", port))) as listener:
        listener.settimeout(patient(patience))
        with netns.call_in(client, lambda: socket.create_connection((str(address), port), timeout=patience)) as caller:
            accepted, peer = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
            assert caller.recv(16) == b"hello"
            return str(peer[0])


@contextmanager
def world(settings: Settings) -> Iterator[World]:
    made = World(settings)
    try:
        made.set_up()
        yield made
    finally:
        for path in netns.kept_in(settings.netns_dir):
            netns.remove(path)
