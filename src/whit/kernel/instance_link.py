"""How an instance is connected: a veth pair, one end on the node, the other alone in the instance's namespace.

The instance has one address with a prefix of /32 and a gateway that is the same for all, 169.254.1.1, whose MAC address
it knows for ever: it never asks by ARP, and no packet reaches a neighbour but through the node. The node has a route to
the address alone. Measured: three batches of messages, 1 to 2 ms with the pair itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from whit.kernel import addresses, links, netns, routes, sysctl
from whit.kernel.links import End, Link
from whit.kernel.netlink import Message, NetlinkSocket
from whit.kernel.routes import Route
from whit.kernel.thread import in_thread

GATEWAY = IPv4Address("169.254.1.1")
_EVERYWHERE = IPv4Network("0.0.0.0/0")
_LOOPBACK = 1
"""Index of `lo` in every namespace."""


@dataclass(frozen=True)
class InstanceLink:
    """A connection as it is wanted."""

    name: str
    """Of the node's end."""
    netns: Path
    address: IPv4Address
    node_address: IPv4Address
    """What the node's own sockets use as their address towards the instance."""
    mtu: int = 1500
    inner_name: str = "eth0"

    @property
    def outer(self) -> End:
        return End(self.name, _mac(0x0E, self.address))

    @property
    def inner(self) -> End:
        return End(self.inner_name, _mac(0x0A, self.address))


def _mac(first: int, address: IPv4Address) -> str:
    """Locally administered, made of the address, so that two instances never share one and captures are readable."""
    return bytes([first, 0x58, *address.packed]).hex(":")


def prepare_instance(wanted: InstanceLink) -> Link:
    """Connect the instance. Both ends are up when it returns. What a failure left is taken away by `remove`.

    Returns:
        The node's end: `index` for what is attached to it, `peer` for the index inside.
    Raises:
        SystemCallError: EEXIST if the link exists.
        NotFound: there is no such namespace.
    """
    with ExitStack() as stack:
        host = stack.enter_context(NetlinkSocket())
        descriptor = stack.enter_context(netns.opened(wanted.netns))
        inside = stack.enter_context(netns.call_in(wanted.netns, _prepare_namespace))
        create = links.create_veth(wanted.outer, wanted.inner, mtu=wanted.mtu, netns=descriptor)
        (reply,) = host.execute([create, links.get(wanted.name)])
        link = links.parse(reply.body)
        _prepare_host_end(wanted.name)
        inside.execute(inside_messages(wanted, link.peer))
        host.execute(outside_messages(wanted, link.index))
    return link


def _prepare_namespace() -> NetlinkSocket:
    """In the namespace, before it has a link: no IPv6 but on the loopback. Programs do expect ::1."""
    _without_ipv6("default")
    return NetlinkSocket()


def _prepare_host_end(name: str) -> None:
    """Before it is up: it forwards whatever the machine's default is, and the node sends nothing there by itself."""
    _without_ipv6(name)
    for setting, value in (("forwarding", 1), ("rp_filter", 0), ("send_redirects", 0)):
        sysctl.write(f"net/ipv4/conf/{name}/{setting}", value)


def _without_ipv6(name: str) -> None:
    setting = f"net/ipv6/conf/{name}/disable_ipv6"
    if sysctl.exists(setting):  # not where the kernel was started with ipv6.disable=1
        sysctl.write(setting, 1)


def inside_messages(wanted: InstanceLink, index: int) -> list[Message]:
    """Loopback, address, gateway and default route. Setting up comes first: routes need a link that is up."""
    return [
        links.set_up(_LOOPBACK),
        links.set_up(index),
        addresses.add(IPv4Interface(wanted.address), index),
        routes.neighbour(GATEWAY, links.mac_bytes(wanted.outer.mac), index),
        routes.add(Route(IPv4Network(GATEWAY), index)),
        routes.add(Route(_EVERYWHERE, index, gateway=GATEWAY, source=wanted.address, on_link=True)),
    ]


def outside_messages(wanted: InstanceLink, index: int) -> list[Message]:
    """The node's way to the instance."""
    return [
        links.set_up(index),
        routes.neighbour(wanted.address, links.mac_bytes(wanted.inner.mac), index),
        routes.add(Route(IPv4Network(wanted.address), index, source=wanted.node_address)),
    ]


def remove(name: str) -> None:
    """Delete the pair and with it all addresses, routes and neighbours. Safe if there is none."""
    links.delete_all([name])


@dataclass(frozen=True)
class CreateInstanceLink:
    wanted: InstanceLink

    def describe(self) -> str:
        return f"create link {self.wanted.name} for {self.wanted.address}"

    async def do(self) -> None:
        await in_thread(prepare_instance, self.wanted)

    async def undo(self) -> None:
        await in_thread(remove, self.wanted.name)
