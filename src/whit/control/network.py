"""The mesh of this node: its addresses and identities in the store, its set-up on the machine, its maps in the kernel.

Level-triggered: each call looks at what is there and does what is missing, so that a new agent, a link that appears, or
a firewall that was loaded anew need nothing special.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.control.instances import Record
from whit.datapath.datapath import Datapath
from whit.datapath.install import DatapathConfig
from whit.kernel import cgroup, links, routes
from whit.kernel.netlink import NetlinkSocket
from whit.kernel.sysctl import WriteSysctl
from whit.mesh import addresses, compiler, identities, names, network, node, rules, services, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.identities import IdentityBook, service_name
from whit.mesh.rules import RuleBook
from whit.model.app import AppSpec
from whit.model.instance import InstanceSpec, NetworkSpec
from whit.model.operation import Operation, carry_out
from whit.model.release import Release
from whit.runtime.operations import NetworkFiles
from whit.tools import iptables
from whit.tools.iptables import Admission, AdmitTraffic
from whit.tools.nft import InstallMasquerade, Masquerade
from whit.tools.nft import tables as nft_tables

log = logging.getLogger(__name__)

MARK_MASK = 0x0FF00000


def mark_of(agent: str) -> int:
    """What packets of this agent's instances carry through the host's stack; never 0."""
    return (zlib.crc32(agent.encode()) % 255 + 1) << 20


@dataclass
class Books:
    """What the mesh keeps in the store."""

    addresses: AddressBook
    identities: IdentityBook
    rules: RuleBook


class NodeNetwork:
    """One node's mesh."""

    def __init__(self, settings: Settings, documents: Documents, books: Books, datapath: Datapath) -> None:
        self.settings = settings
        self.documents = documents
        self.books = books
        self.datapath = datapath
        self._compiled: tuple[object, compiler.Table] | None = None
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, settings: Settings, documents: Documents) -> NodeNetwork:
        """Load what is stored, choose a pool if there is none yet, and have the datapath in the kernel.

        Raises:
            Unavailable, Conflict: no pool is free, or the one that was asked for is not.
        """
        books = Books(
            await documents.get(AddressBook, "addresses") or AddressBook(pool=str(_choose_pool())),
            await documents.get(IdentityBook, "identities") or IdentityBook(),
            await documents.get(RuleBook, "rules") or RuleBook(),
        )
        await documents.put(books.addresses, "addresses")
        pool = books.addresses.network
        config = DatapathConfig(pool, mark=mark_of(settings.id), mark_mask=MARK_MASK)
        datapath = await asyncio.to_thread(Datapath.install, settings, config)
        return cls(settings, documents, books, datapath)

    # ---- names, numbers and addresses ----

    async def assign(self, releases: Iterable[Release], instances: Mapping[str, tuple[str, str]]) -> None:
        """Numbers and addresses for every service and instance; those of others are given back.

        `instances`: app and service by instance name.
        """
        await self._keep(self.assigned(releases, instances))

    def assigned(self, releases: Iterable[Release], instances: Mapping[str, tuple[str, str]]) -> Books:
        """What `assign` would write down."""
        apps = [release.spec for release in releases]
        owned = {service_name(app.name, service) for app in apps for service in app.services}
        owned |= {service_name(*where) for where in instances.values()}
        now = time.time()
        book = addresses.release(self.books.addresses, [*owned, *instances], now)
        for owner in sorted(owned):
            book, _ = addresses.assign_service(book, owner, now)
        for owner in instances:
            book, _ = addresses.assign_instance(book, owner, now)
        found = identities.assign(self.books.identities, sorted(owned), rules.networks_used(apps))
        return Books(book, found, self.books.rules)

    async def _keep(self, books: Books) -> None:
        for kind in ("addresses", "identities", "rules"):
            if getattr(books, kind) != getattr(self.books, kind):
                await self.documents.put(getattr(books, kind), kind)
        self.books = books

    def spec_of(self, name: str, app: str, service: str, books: Books | None = None) -> NetworkSpec:
        """What an instance was given."""
        known = books or self.books
        offset = next(lease.offset for lease in known.addresses.instances if lease.owner == name)
        return NetworkSpec(
            number=offset,
            address=str(known.addresses.address(offset)),
            identity=known.identities.number(service_name(app, service)),
            service_address=self.service_address(app, service, known),
        )

    def service_address(self, app: str, service: str, books: Books | None = None) -> str:
        known = (books or self.books).addresses
        owner = service_name(app, service)
        offset = next(lease.offset for lease in known.services if lease.owner == owner)
        return str(known.address(offset))

    # ---- instances ----

    def plan_connect(self, spec: InstanceSpec) -> Sequence[Operation]:
        return network.plan_connect(spec, self.settings, self.datapath, self.books.addresses.node)

    def plan_disconnect(self, spec: InstanceSpec) -> Sequence[Operation]:
        return network.plan_disconnect(spec, self.settings, self.datapath)

    def files(self, spec: InstanceSpec) -> NetworkFiles:
        """Names of the app's services stand in the instance's own files, so that they resolve without any process."""
        prefix = service_name(spec.app, "")
        services_of_app = {
            lease.owner.removeprefix(prefix): str(self.books.addresses.address(lease.offset))
            for lease in self.books.addresses.services
            if lease.owner.startswith(prefix) and lease.released_at is None
        }
        return NetworkFiles(
            hosts=names.hosts_entries(services_of_app, spec.app),
            nameserver=str(self.books.addresses.resolver),
            search=(f"{spec.app}.{names.DOMAIN}",),
        )

    # ---- the node ----

    async def prepare(self, apps: Sequence[AppSpec]) -> None:
        """Links, settings and filters of the node itself."""
        await carry_out(await self.plan_node(apps))
        self._attach_uplinks(await asyncio.to_thread(_all_links))

    async def plan_node(self, apps: Sequence[AppSpec]) -> list[Operation]:
        """What is missing on this node for these apps."""
        found = await asyncio.to_thread(_all_links)
        operations: list[Operation] = []
        book = self.books.addresses
        if not node.is_host_link_right(found, self.settings, book):
            operations.append(node.host_link(self.settings, book))
        if await iptables.stands_in_the_way(self._admission()):
            operations.append(AdmitTraffic(self._admission()))
        if any(reaches_outside(app) for app in apps):
            operations += [self._forwarding(name) for name in node.uplinks(found, self.settings)]
            if self.settings.nft_table not in await nft_tables():
                operations.append(InstallMasquerade(self._masquerade()))
        return operations

    def _admission(self) -> Admission:
        book = self.books.addresses
        return Admission(
            self.settings.id,
            mark_of(self.settings.id),
            MARK_MASK,
            book.network,
            self.settings.link_prefix,
            book.resolver,
        )

    def _masquerade(self) -> Masquerade:
        pool = self.books.addresses.network
        return Masquerade(self.settings.nft_table, pool, (pool,), self.settings.link_prefix)

    def _forwarding(self, link: str) -> WriteSysctl:
        """Answers to instances come in by an uplink and are forwarded."""
        setting = f"net/ipv4/conf/{link}/forwarding"
        return WriteSysctl(setting, "1", self.settings.run_dir / "sysctl" / setting.replace("/", "%"))

    def _attach_uplinks(self, found: Sequence[links.Link]) -> None:
        attached = {(one.pin.name, one.ifindex) for one in self.datapath.attachments()}
        for name, index in node.uplinks(found, self.settings).items():
            if (self.datapath.pins.uplink(name).name, index) not in attached:
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

    # ---- the maps ----

    async def write(self, releases: Sequence[Release], records: Iterable[Record]) -> None:
        """Bring the maps to what these apps and instances need: identities, policy, then services.

        One at a time, and `records` is looked at when its turn has come: an older view must not overwrite a newer one.
        """
        async with self._writing:
            await self._write(releases, list(records))

    async def _write(self, releases: Sequence[Release], present: Sequence[Record]) -> None:
        apps = [release.spec for release in releases]
        policy = await self._policy(apps, present)
        networks = {net: self.books.identities.number(str(net)) for net in rules.networks_used(apps)}
        known = node.node_identities(self.books.addresses, await asyncio.to_thread(_all_links), networks)
        known |= node.service_identities({r.spec.network.address: r.spec.network.identity for r in present})
        tables.write_identities(self.datapath, known)
        tables.write_policy(self.datapath, policy)
        tables.write_services(self.datapath, services.service_tables(self._services(apps, present)))
        names.write_state(self.settings, self._names(apps, present))

    async def _policy(self, apps: Sequence[AppSpec], records: Sequence[Record]) -> compiler.Table:
        """The policy map as it should be; computed again only if what it follows from has changed."""
        named = {service_name(app.name, service) for app in apps for service in app.services}
        leaving = {service_name(r.spec.app, r.spec.service) for r in records} - named
        cause = (tuple(apps), tuple(sorted(leaving)), self.books.identities)
        if self._compiled is None or self._compiled[0] != cause:
            found, book = rules.rules(apps, self.books.identities, self.books.rules, sorted(leaving))
            await self._keep(Books(self.books.addresses, self.books.identities, book))
            self._compiled = (cause, compiler.compile_rules(found))
        return self._compiled[1]

    def _services(self, apps: Sequence[AppSpec], records: Sequence[Record]) -> list[services.Service]:
        return [
            services.Service(
                number=int(IPv4Address(self.service_address(app.name, name))) & 0xFFFF,
                address=self.service_address(app.name, name),
                ports=service.ports,
                backends=[
                    services.Backend(record.spec.network.number, record.spec.network.address, record.leaving)
                    for record in records
                    if (record.spec.app, record.spec.service) == (app.name, name)
                    and (record.ready or (record.leaving and record.status.state == "running"))
                ],
            )
            for app in apps
            for name, service in app.services.items()
        ]

    def _names(self, apps: Sequence[AppSpec], records: Sequence[Record]) -> names.NameTable:
        return names.NameTable(
            listen=str(self.books.addresses.resolver),
            services={app.name: {name: self.service_address(app.name, name) for name in app.services} for app in apps},
            instances={r.spec.network.address: (r.spec.app, r.spec.hostname) for r in records},
        )


def reaches_outside(app: AppSpec) -> bool:
    """Whether masquerade is declared: an open app, or a service that uses the world or a network."""
    return app.mode == "open" or any(
        use.entity == "world" or use.cidr for service in app.services.values() for use in service.uses
    )


def _all_links() -> list[links.Link]:
    with NetlinkSocket() as netlink:
        return links.all_links(netlink)


def _choose_pool() -> IPv4Network:
    with NetlinkSocket() as netlink:
        taken = [
            route.destination
            for route in routes.main_table(netlink)
            if isinstance(route.destination, IPv4Network) and route.destination.prefixlen
        ]
        # An agent without instances has addresses, but no routes yet.
        taken += [
            IPv4Network(address.ip)
            for link in links.all_links(netlink)
            for address in link.addresses
            if isinstance(address, IPv4Interface)
        ]
    asked = os.environ.get("WHIT_POOL")
    if asked is None:
        return addresses.choose_pool(taken)
    pool = IPv4Network(asked)
    addresses.check_pool(pool, taken)
    return pool
