"""The mesh of RandomNode in network namespaces: a node, instances of nine services, and somebody outside with many
addresses. What is decided there is decided about real packets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from random import Random

from support.random_mesh import BOOK, NODE_ADDRESSES, OUTSIDERS, RandomNode, random_mesh
from whit.base.settings import Settings
from whit.control.balancing import Replica
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.kernel import cgroup, sysctl
from whit.kernel.network import addresses, links, netns, routes
from whit.kernel.network.links import End
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.network.routes import Route
from whit.mesh import network, node
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec
from whit.model.operation import Operation, carry_out

COUNTS = {f"{app}/{service}": 1 for app in "xyz" for service in "abc"} | {"x/a": 2, "y/b": 2}
GATEWAYS = IPv4Interface("192.0.2.99/24"), IPv6Interface("2001:db8::99/64")
EVERYWHERE = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
MARK, MARK_MASK = 0x500, 0xF00
IMAGE = Image(name="i", digest="sha256:0", config=ImageConfig(), layers=(Path("/l"),), size=0)


class RandomSite:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.outside, self.node = settings.netns_dir / "outside", settings.netns_dir / "node"
        self.places: dict[str, Path] = {}
        """By address of an instance."""
        for path in (self.outside, self.node):
            netns.create(path)
        self._on_node([node.host_link(settings, BOOK)])
        self._connect_outside()
        config = DatapathConfig(
            BOOK.network, BOOK.mesh6, MARK, MARK_MASK, netns_cookie=netns.call_in(self.node, netns.cookie)
        )
        self.datapath = Datapath.install(settings, config)

    def populate(self) -> None:
        netns.call_in(self.node, lambda: self.datapath.attach_uplink(_index("up0"), "up0"))
        self.datapath.attach_host_sockets(cgroup.find().bpf_root())
        self.mesh = RandomNode(self.settings, self.datapath)
        self.mesh.become(random_mesh(Random(0), [], COUNTS), Random(0))
        for index, replica in enumerate(self.mesh.replicas):
            spec = _spec(replica, index)
            self._on_node(network.plan_connect(spec, self.settings, self.datapath, BOOK.node, BOOK.node6))
            self.places |= dict.fromkeys(spec.network.addresses, self.settings.netns_dir / spec.name)

    def _on_node(self, operations: list[Operation]) -> None:
        netns.call_in(self.node, lambda: asyncio.run(carry_out(operations)))

    def _connect_outside(self) -> None:
        with (
            NetlinkSocket.inside(self.node) as inner,
            NetlinkSocket.inside(self.outside) as outer,
            netns.opened(self.outside) as descriptor,
        ):
            ends = End("up0", "0a:58:00:00:00:01"), End("eth0", "0a:58:00:00:00:02")
            inner.execute([links.create_veth(*ends, mtu=1500, netns=descriptor)])
            own = IPv4Interface(f"{NODE_ADDRESSES[0]}/24"), IPv6Interface(f"{NODE_ADDRESSES[1]}/64")
            others = (ip_interface(address) for family in OUTSIDERS for address in family)
            _set_up(inner, "up0", [*own], [end.ip for end in GATEWAYS])
            _set_up(outer, "eth0", [*GATEWAYS, *others], [end.ip for end in own])
        for setting in ("net/ipv4/conf/up0/forwarding", "net/ipv6/conf/all/forwarding"):
            netns.call_in(self.node, lambda setting=setting: sysctl.write(setting, 1))


def _set_up(
    netlink: NetlinkSocket,
    link: str,
    own: list[IPv4Interface | IPv6Interface],
    gateways: list[IPv4Address | IPv6Address],
) -> None:
    index = links.by_name(netlink, link).index
    netlink.execute([links.set_up(1), links.set_up(index), *(addresses.add(address, index) for address in own)])
    ways = zip(EVERYWHERE, gateways, strict=True)
    netlink.execute([routes.add(Route(network, index, gateway=gateway)) for network, gateway in ways])


def _index(link: str) -> int:
    with NetlinkSocket() as netlink:
        return links.by_name(netlink, link).index


def _spec(replica: Replica, index: int) -> InstanceSpec:
    return InstanceSpec(
        app=replica.app,
        service=replica.service,
        index=index + 1,
        image=IMAGE,
        args=("x",),
        env={},
        hostname=replica.hostname,
        revision="1",
        network=replica.network,
    )


@contextmanager
def random_site(settings: Settings) -> Iterator[RandomSite]:
    """Nothing of it is left."""
    try:
        site = RandomSite(settings)
        with closing(site.datapath):
            site.populate()
            yield site
    finally:
        for path in netns.kept_in(settings.netns_dir):
            netns.remove(path)
        uninstall(settings)
