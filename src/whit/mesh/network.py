"""The network of one instance: its namespace, its link, its place in the datapath, as operations.

The process inside starts after all of them: it never sends a packet that the datapath does not know whose it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from whit.base.settings import Settings
from whit.datapath.abi import (
    EndpointFlags,
    EndpointKey,
    EndpointValue,
    FlowFlags,
    IdentityKey,
    IdentityValue,
    LimitValue,
)
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.kernel.network import links
from whit.kernel.network.instance_link import CreateInstanceLink, InstanceLink, RestoreInstanceLink
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.network.netns import CreateNetns
from whit.kernel.thread import in_thread
from whit.model.instance import InstanceSpec
from whit.model.operation import Operation

_TCP = 6
BURST_NS = 100_000_000
"""How far what an instance sends may be ahead of its limit: a tenth of a second, as queues of links have it."""


def plan_connect(
    spec: InstanceSpec,
    settings: Settings,
    datapath: Datapath,
    node: IPv4Address,
    node6: IPv6Address | None = None,
) -> list[Operation]:
    """From nothing to a link that carries exactly what policy lets through."""
    link = _link_of(spec, settings, node, node6)
    # The monitor of a guest, too, runs in a namespace without any other network; its tap is the node's.
    return [CreateNetns(link.netns), NameAddress(datapath, spec), CreateInstanceLink(link), Guard(datapath, spec, link)]


def plan_reconnect(spec: InstanceSpec, settings: Settings) -> list[Operation]:
    """What an instance needs of its link before it is started once more."""
    node = IPv4Address(spec.network.address)  # not looked at from within
    return [RestoreInstanceLink(_link_of(spec, settings, node))]


def _link_of(
    spec: InstanceSpec, settings: Settings, node: IPv4Address, node6: IPv6Address | None = None
) -> InstanceLink:
    return InstanceLink(
        name=settings.link(spec.network.number),
        netns=settings.netns_dir / spec.name,
        address=IPv4Address(spec.network.address),
        node_address=node,
        address6=IPv6Address(spec.network.address6) if spec.network.address6 else None,
        node_address6=node6,
        tap=spec.network.link == "tap",
    )


def plan_disconnect(spec: InstanceSpec, settings: Settings, datapath: Datapath) -> Sequence[Operation]:
    """The undoing of all that, as operations in their own right: it also takes away what is there in part."""
    node = IPv4Address(spec.network.address)  # not looked at when a link is removed
    undone = [Undone(operation) for operation in reversed(plan_connect(spec, settings, datapath, node))]
    return [*undone, ForgetFlows(datapath, spec.network.addresses)]


@dataclass(frozen=True)
class Undone:
    """The undoing of an operation that was done earlier, maybe by another agent."""

    operation: Operation

    def describe(self) -> str:
        return f"undo: {self.operation.describe()}"

    async def do(self) -> None:
        await self.operation.undo()

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class NameAddress:
    """Say whose the address is, before anybody can send from it."""

    datapath: Datapath
    spec: InstanceSpec

    def describe(self) -> str:
        addresses = " and ".join(self.spec.network.addresses)
        return f"give {addresses} the identity {self.spec.network.identity} of {self._service}"

    async def do(self) -> None:
        for key in identity_keys(self.spec):
            self.datapath.identities.put(key, IdentityValue(self.spec.network.identity))

    async def undo(self) -> None:
        for key in identity_keys(self.spec):
            self.datapath.identities.delete(key)

    @property
    def _service(self) -> str:
        return f"{self.spec.app}/{self.spec.service}"


@dataclass(frozen=True)
class Guard:
    """Put the datapath on the link, then make the instance known as an endpoint."""

    datapath: Datapath
    spec: InstanceSpec
    link: InstanceLink

    def describe(self) -> str:
        return f"attach the datapath to {self.link.name}"

    async def do(self) -> None:
        number = self.spec.network.number
        found = await in_thread(_link, self.link.name)
        self.datapath.attach_instance(found.index, number)
        rate = self.spec.limits.egress
        if rate is not None:
            self.datapath.limits.put(found.index, LimitValue(rate, BURST_NS, busy_until_ns=0))
        value = EndpointValue(
            ifindex=found.index,
            identity=self.spec.network.identity,
            flags=(EndpointFlags.LIMITED if rate is not None else 0) | (EndpointFlags.TAP if self.link.tap else 0),
            mac=links.mac_bytes(self.link.inner.mac),
            host_mac=links.mac_bytes(self.link.outer.mac),
        )
        for key in endpoint_keys(self.spec):
            self.datapath.endpoints.put(key, value)

    async def undo(self) -> None:
        for key in endpoint_keys(self.spec):
            there = self.datapath.endpoints.get(key)
            if there is not None:
                self.datapath.limits.delete(there.ifindex)
                self.datapath.activity.delete(there.ifindex)
            self.datapath.endpoints.delete(key)
        self.datapath.detach_instance(self.spec.network.number)


@dataclass(frozen=True)
class ForgetFlows:
    """Who still sends to the addresses starts anew: at another backend of the service, or under the policy that holds
    for the next owner. Otherwise a client that keeps its port, as of syslog, would send to the dead one for ever."""

    datapath: Datapath
    addresses: Sequence[str]

    def describe(self) -> str:
        return f"forget the flows of {' and '.join(self.addresses)}"

    async def do(self) -> None:
        await in_thread(forget_flows, self.datapath, *map(Address.from_ip, self.addresses))

    async def undo(self) -> None:
        return


def forget_flows(datapath: Datapath, *addresses: Address) -> int:
    """Looks at every flow, some 5 µs each: not for the event loop. Returns how many entries went."""
    gone = frozenset(addresses)
    stale = [
        key
        for key, value in datapath.flows.items()
        if key.source in gone
        or key.destination in gone
        or (value.flags & FlowFlags.TRANSLATED and value.translation in gone)
    ]
    datapath.flows.delete_many(stale)
    return len(stale)


def has_connections(datapath: Datapath, spec: InstanceSpec) -> bool:
    """Whether a TCP connection that began at a service's address leads to the instance. Looks at every flow."""
    own = frozenset(map(Address.from_ip, spec.network.addresses))
    wanted, unwanted = FlowFlags.TRANSLATED | FlowFlags.ESTABLISHED, FlowFlags.REPLY | FlowFlags.CLOSING
    return any(
        key.protocol == _TCP and value.translation in own and value.flags & (wanted | unwanted) == wanted
        for key, value in datapath.flows.items()
    )


def identity_keys(spec: InstanceSpec) -> list[IdentityKey]:
    return [IdentityKey(prefix_length=128, address=Address.from_ip(address)) for address in spec.network.addresses]


def endpoint_keys(spec: InstanceSpec) -> list[EndpointKey]:
    return [EndpointKey(address=Address.from_ip(address)) for address in spec.network.addresses]


def _link(name: str) -> links.Link:
    with NetlinkSocket() as netlink:
        return links.by_name(netlink, name)
