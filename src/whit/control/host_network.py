"""The host's part in the mesh: its link, settings and filters, and where the datapath is attached to the host itself.

Level-triggered, as network.py, which owns the addresses, the policy and the maps.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Sequence

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.datapath.datapath import Datapath
from whit.datapath.watch import Watch
from whit.kernel import cgroup
from whit.kernel.network import links
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.sysctl import WriteSysctl
from whit.kernel.thread import in_thread
from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.model.operation import Operation, carry_out
from whit.tools import iptables
from whit.tools.iptables import Admission, AdmitTraffic
from whit.tools.nft import InstallMasquerade, Masquerade
from whit.tools.nft import tables as nft_tables

log = logging.getLogger(__name__)

MARK_MASK = 0x0FF00000
FILTERS_STAND = 2.5
"""Seconds for which the host's filters are taken to be as they were seen: to look takes two programs and 10 ms, and
every instance that starts, wakes or ends is a reason to go through all of this."""


def mark_of(agent: str) -> int:
    """What packets of this agent's instances carry through the host's stack; never 0."""
    return (zlib.crc32(agent.encode()) % 255 + 1) << 20


class HostNetwork:
    """Of one node."""

    def __init__(self, settings: Settings, datapath: Datapath) -> None:
        self.settings = settings
        self.datapath = datapath
        self._watch = Watch(datapath)
        self._masqueraded: Masquerade | None = None
        """What stands in the node's table by this agent."""
        self._admitted: tuple[Admission, float] | None = None
        """What was seen to be let through, and when, monotonic."""

    async def prepare(self, book: AddressBook, reaches_outside: bool) -> None:
        """Do what is missing, and mend what of the datapath has to be mended."""
        await in_thread(self._watch.look)
        operations = await self.plan(book, reaches_outside)
        await carry_out(operations)
        self._masqueraded = next(
            (one.wanted for one in operations if isinstance(one, InstallMasquerade)), self._masqueraded
        )
        self._attach_uplinks(await asyncio.to_thread(all_links))

    async def plan(self, book: AddressBook, reaches_outside: bool) -> list[Operation]:
        """What is missing. Forwarding and masquerade are for apps that reach outside, or speak of names there."""
        found = await asyncio.to_thread(all_links)
        operations: list[Operation] = []
        if not node.is_host_link_right(found, self.settings, book):
            operations.append(node.host_link(self.settings, book))
        admission = self._admission(book)
        if not await self._is_admitted(admission):
            operations.append(AdmitTraffic(admission))
        if reaches_outside:
            operations += [one for name in node.uplinks(found, self.settings) for one in self._forwarding(name, book)]
            wanted = self._masquerade(book)
            # Once by each agent: the table of the one before may say something else.
            if self._masqueraded != wanted or wanted.table not in await nft_tables():
                operations.append(InstallMasquerade(wanted))
        return operations

    async def _is_admitted(self, admission: Admission) -> bool:
        if self._admitted is not None:
            before, when = self._admitted
            if before == admission and time.monotonic() < when + FILTERS_STAND:
                return True
        self._admitted = None
        if await iptables.stands_in_the_way(admission):
            return False
        self._admitted = admission, time.monotonic()
        return True

    def _admission(self, book: AddressBook) -> Admission:
        return Admission(
            self.settings.id,
            mark_of(self.settings.id),
            MARK_MASK,
            book.network,
            self.settings.link_prefix,
            book.resolver,
            pool6=book.network6,
            resolver6=book.resolver6,
        )

    def _masquerade(self, book: AddressBook) -> Masquerade:
        pools = book.network, (book.network,)
        mark = mark_of(self.settings.id)
        pools6 = book.network6, book.mesh6
        return Masquerade(self.settings.nft_table, *pools, self.settings.link_prefix, *pools6, mark, MARK_MASK)

    def _forwarding(self, link: str, book: AddressBook) -> list[WriteSysctl]:
        """Answers to instances come in by an uplink and are forwarded."""
        settings = node.forwarding(link) if book.network6 else node.forwarding4(link)
        directory = self.settings.run_dir / "sysctl"
        return [WriteSysctl(name, value, directory / name.replace("/", "%")) for name, value in settings]

    def _attach_uplinks(self, found: Sequence[links.Link]) -> None:
        attached = {(one.pin.name, one.ifindex) for one in self.datapath.attachments()}
        for name, index in node.uplinks(found, self.settings).items():
            pins = [self.datapath.pins.uplink(name, direction) for direction in ("ingress", "egress")]
            if any((pin.name, index) not in attached for pin in pins):
                self.datapath.attach_uplink(index, name)
                log.info("attached to uplink %s", name)

    def attach_host(self) -> None:
        """The host's own processes reach services by connect(), if there is a cgroup2 hierarchy."""
        try:
            root = cgroup.find().bpf_root()
        except Unavailable as error:
            log.warning("processes of this machine cannot reach services and published ports: %s", error)
            return
        self.datapath.attach_host_sockets(root)


def all_links() -> list[links.Link]:
    with NetlinkSocket() as netlink:
        return links.all_links(netlink)
