"""The mesh of this node: its addresses and identities in the store, its set-up on the machine, its maps in the kernel.

Level-triggered: each call looks at what is there and does what is missing, so that a new agent, a link that appears, or
a firewall that was loaded anew need nothing special.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from whit.base.errors import InputError, MapFull, NotFound
from whit.base.latest import Latest
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.control import pools
from whit.control.balancing import Balancing, Replica, outside_identities
from whit.control.host_network import MARK_MASK, HostNetwork, all_links, mark_of
from whit.control.instances import Record
from whit.datapath.abi import IdentityKey, IdentityValue
from whit.datapath.datapath import Datapath
from whit.datapath.install import DatapathConfig
from whit.kernel.thread import in_thread
from whit.mesh import addresses, network, node, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.dns import names
from whit.mesh.dns.learned import with_learned
from whit.mesh.dns.named import NamedAddresses
from whit.mesh.policy import identities
from whit.mesh.policy.compiler import ordered
from whit.mesh.policy.engine import Engine, Situation
from whit.mesh.policy.identities import IdentityBook, service_name
from whit.mesh.policy.lines import Line
from whit.mesh.policy.outside import Network, Numbers, Outside, Set, names_matching, outside_of
from whit.mesh.policy.policies import Addresses
from whit.mesh.policy.rulebook import RuleBook, RuleHead, RuleSegment
from whit.mesh.policy.rules import Side
from whit.model.app import AppSpec
from whit.model.instance import InstanceSpec, NetworkSpec
from whit.model.operation import Operation
from whit.model.policy import PolicySpec
from whit.model.release import Release
from whit.runtime.operations import NetworkFiles

log = logging.getLogger(__name__)


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
        self.host = HostNetwork(settings, datapath)
        self.policies: tuple[PolicySpec, ...] = ()
        """Those that were applied by themselves."""
        self._engine = Engine(books.rules)
        self._policy_map = tables.PolicyMap(datapath)
        self._addresses: Addresses = {}
        self._spoken_of: Latest[Outside] = Latest()
        self._outside_learned: tuple[int, Outside, Outside] = (-1, Outside(), Outside())
        self._named_by: Latest[tuple[frozenset[str], frozenset[str]]] = Latest()
        self._is_resting: Latest[bool] = Latest()
        self._reaches: Latest[bool] = Latest()
        self._numbers = Numbers()
        self._identity_map = tables.IdentityMap(datapath)
        self.named = NamedAddresses(self._identity_map)
        self._balancing = Balancing(settings, datapath)
        self._outside: dict[str, tuple[AppSpec, dict[IdentityKey, IdentityValue]]] = {}
        self._assigned: tuple[object, ...] = ()
        self._nameless: frozenset[str] = frozenset()
        """Services whose names stand for something else than an address of their own."""
        self._writing = asyncio.Lock()
        self.written = asyncio.Event()
        """Set once the maps hold what is wanted."""
        self._no_room = ""
        self._guarded = False
        self._keeping = asyncio.Lock()

    @classmethod
    async def open(cls, settings: Settings, documents: Documents) -> NodeNetwork:
        """Load what is stored, choose a pool if there is none yet, and have the datapath in the kernel.

        Raises:
            Unavailable, Conflict: no pool is free, or the one that was asked for is not.
        """
        known = await documents.get(AddressBook, "addresses") or AddressBook(pool=str(pools.choose(settings)))
        books = Books(
            pools.with_ipv6(known),
            await documents.get(IdentityBook, "identities") or IdentityBook(),
            RuleBook(await documents.get(RuleHead, "rulebook"), await documents.list(RuleSegment, "rules")),
        )
        await documents.put(books.addresses, "addresses")
        datapath = await asyncio.to_thread(Datapath.install, settings, config_of(settings, books.addresses))
        return cls(settings, documents, books, datapath)

    # ---- names, numbers and addresses ----

    async def assign(self, releases: Iterable[Release], instances: Mapping[str, tuple[str, str]]) -> None:
        """Numbers and addresses for every service and instance; those of others are given back.

        `instances`: app and service by instance name.
        """
        specs = [release.spec for release in releases]
        named, self._nameless = self._names_of(specs)
        cause = (named, self._outside_of(specs), dict(instances))
        book = self.books.addresses
        if cause != self._assigned or self._is_resting.get([book], lambda: book.is_resting):
            async with self._keeping:
                await self._keep(await in_thread(self.assigned, specs, dict(instances), cause[1]))
            self._assigned = cause

    def _names_of(self, apps: Sequence[AppSpec]) -> tuple[frozenset[str], frozenset[str]]:
        """All services, and those whose names stand for something else than an address of their own."""
        return self._named_by.get(apps, lambda: (frozenset(_full_names(apps)), frozenset(_nameless(apps))))

    def assigned(
        self, apps: Sequence[AppSpec], instances: Mapping[str, tuple[str, str]], outside: Outside | None = None
    ) -> Books:
        """What `assign` would write down. In a thread `outside` is what was spoken of when it began."""
        owned = set(_full_names(apps))
        owned |= {service_name(*where) for where in instances.values()}
        now = time.time()
        book = addresses.release(self.books.addresses, [*owned, *instances], now)
        book = addresses.assign_services(book, sorted(owned), now)
        book = addresses.assign_instances(book, instances, now)
        spoken_of = self._outside_of(apps) if outside is None else outside
        found = identities.assign(self.books.identities, sorted(owned), spoken_of)
        return Books(book, found, self.books.rules)

    async def _keep(self, books: Books) -> None:
        """Those that are as they were stay the same objects: what follows from them need not be made again."""
        changed = {
            kind: getattr(books, kind)
            for kind in ("addresses", "identities")
            if getattr(books, kind) != getattr(self.books, kind)
        }
        for kind, book in changed.items():
            await self.documents.put(book, kind)
        if changed:
            self.books = replace(self.books, **changed)

    async def _keep_rules(self) -> None:
        head, segments = self.books.rules.unwritten()
        if segments:
            # The head first: an id that was seen is never given out again, also if nobody wrote what it stood for.
            await self.documents.put(head, "rulebook")
        for segment in segments:
            if segment.rules:
                await self.documents.put(segment, "rules", str(segment.number))
            else:
                await self.documents.delete("rules", str(segment.number))

    def _outside_of(self, apps: Sequence[AppSpec]) -> Outside:
        """The same object while it is the same: what follows from it need not be made again."""
        spoken_of = self._spoken_of_by(apps)
        version, base, found = self._outside_learned
        if version != self.named.learned.version or base is not spoken_of:
            fresh = with_learned(spoken_of, self.named.learned)
            self._outside_learned = self.named.learned.version, spoken_of, found if found == fresh else fresh
        return self._outside_learned[2]

    def _spoken_of_by(self, apps: Sequence[AppSpec]) -> Outside:
        policies = self.policies
        return self._spoken_of.get(
            (*apps, None, *policies),
            lambda: outside_of(apps, [*policies, *(policy for app in apps for policy in app.policies)]),
        )

    def spec_of(self, name: str, app: str, service: str, books: Books | None = None) -> NetworkSpec:
        """What an instance was given."""
        known = books or self.books
        offset = next(lease.offset for lease in known.addresses.instances if lease.owner == name)
        own, virtual = known.addresses.addresses(offset), self.service_addresses(app, service, known)
        return NetworkSpec(
            number=offset,
            address=own[0],
            identity=known.identities.number(service_name(app, service)),
            service_address=virtual[0],
            address6="".join(own[1:]),
            service_address6="".join(virtual[1:]),
        )

    def service_address(self, app: str, service: str, books: Books | None = None) -> str:
        return self.service_addresses(app, service, books)[0]

    def service_addresses(self, app: str, service: str, books: Books | None = None) -> tuple[str, ...]:
        """Of both families, IPv4 first."""
        known = (books or self.books).addresses
        owner = service_name(app, service)
        return known.addresses(next(lease.offset for lease in known.services if lease.owner == owner))

    @property
    def instance_addresses(self) -> Addresses:
        """By identity, as they were when the maps were written."""
        return self._addresses

    # ---- instances ----

    def plan_connect(self, spec: InstanceSpec) -> Sequence[Operation]:
        book = self.books.addresses
        return network.plan_connect(spec, self.settings, self.datapath, book.node, book.node6)

    def plan_reconnect(self, spec: InstanceSpec) -> Sequence[Operation]:
        return network.plan_reconnect(spec, self.settings)

    def plan_disconnect(self, spec: InstanceSpec) -> Sequence[Operation]:
        return network.plan_disconnect(spec, self.settings, self.datapath)

    def files(self, spec: InstanceSpec) -> NetworkFiles:
        """Names of the app's services stand in the instance's own files, so that they resolve without any process."""
        prefix = service_name(spec.app, "")
        services_of_app = {
            lease.owner.removeprefix(prefix): self.books.addresses.addresses(lease.offset)
            for lease in self.books.addresses.services
            if lease.owner.startswith(prefix) and lease.owner not in self._nameless and lease.released_at is None
        }
        return NetworkFiles(
            hosts=names.hosts_entries(services_of_app, spec.app),
            nameservers=self._nameservers(spec),
            search=(f"{spec.app}.{names.DOMAIN}",),
        )

    def _nameservers(self, spec: InstanceSpec) -> tuple[str, ...]:
        """Of the families that the instance has. It asks the next one if the first does not answer."""
        book = self.books.addresses
        ipv6 = [str(book.resolver6)] if book.resolver6 and spec.network.address6 else []
        return (str(book.resolver), *ipv6)

    async def has_connections(self, spec: InstanceSpec) -> bool:
        """Whether somebody is connected to the instance by way of its service."""
        return await in_thread(network.has_connections, self.datapath, spec)

    # ---- the node ----

    async def prepare(self, apps: Sequence[AppSpec]) -> None:
        """Links, settings and filters of the node itself, and what of the datapath has to be mended."""
        await self.host.prepare(self.books.addresses, self._reach_outside(apps))

    async def plan_node(self, apps: Sequence[AppSpec]) -> list[Operation]:
        """What is missing on this node for these apps."""
        return await self.host.plan(self.books.addresses, self._reach_outside(apps))

    def _reach_outside(self, apps: Sequence[AppSpec]) -> bool:
        reaches = self._reaches.get(apps, lambda: any(reaches_outside(app) for app in apps))
        return reaches or bool(self._spoken_of_by(apps).names)

    # ---- the maps ----

    async def write(self, releases: Sequence[Release], records: Iterable[Record]) -> None:
        """Bring the maps to what these apps and instances need: identities, policy, then services.

        One at a time, and `records` is looked at when its turn has come: an older view must not overwrite a newer one.
        """
        async with self._writing:
            await self._write(releases, list(records))

    async def set_tracing(self, tuples: int) -> None:
        """How many tuples the datapath looks out for. In one value with the generation, so never while that changes."""
        async with self._writing:
            self.datapath.state.put(0, replace(self.datapath.state.get(0), tracing=tuples))

    async def _write(self, releases: Sequence[Release], present: Sequence[Record]) -> None:
        apps = [release.spec for release in releases]
        self.named.learned.forget_unless(self._spoken_of_by(apps).names)
        async with self._keeping:
            # One for all of it: an answer may be learned at any time meanwhile.
            outside = self._outside_of(apps)
            found = identities.assign(self.books.identities, (), outside)
            await self._keep(replace(self.books, identities=found))
        situation = self._situation(apps, present, outside)
        touched = await in_thread(self._engine.compile, situation, time.time())
        await self._keep_rules()
        replicas = [Replica.of(record) for record in present]
        books = self.books
        # With thousands of services each of these takes longer than the event loop may wait.
        await in_thread(self._write_identities, apps, replicas, books, situation.outside)
        await in_thread(self._policy_map.write, self._engine.tables, touched)
        self.named.write(situation.outside)
        self.written.set()
        await self._guard_again(present)
        try:
            names_ = situation.outside.outside.names
            await in_thread(self._balancing.write, apps, replicas, books.addresses, names_)
            self._no_room = ""
        except MapFull as error:
            # Who is left out has no address; nobody is unguarded by it, so all else goes on.
            if str(error) != self._no_room:
                log.error("services: %s", error)
            self._no_room = str(error)

    async def lines(self) -> dict[Side, list[Line]]:
        """What policy is made of now: lines in their order, by subject and direction."""
        async with self._writing:
            found = [(side, list(lines)) for side, lines in self._engine.lines()]
        return {side: ordered(lines) for side, lines in found}

    @property
    def names_spoken_of(self) -> tuple[str, ...]:
        """By the policies that hold."""
        return self._numbers.outside.names

    def addresses_of_name(self, name: str) -> list[str]:
        """What policy knows that a name of the DNS stands for. Raises NotFound if it should know, and does not."""
        plain = name.rstrip(".").lower()
        found = self.named.learned.addresses_of(plain)
        if not found and names_matching(self.names_spoken_of, plain):
            raise NotFound(
                f"nobody has asked for {name} lately, so policy knows no address of it",
                hint="every connection begins with a question to the resolver: let an instance ask, then try again",
            )
        return found

    def shared_sets(self) -> Sequence[Set]:
        """Those of learned addresses that are of several names or in networks, as policy has to know them."""
        return with_learned(self._numbers.outside, self.named.learned).shared

    async def name_addresses(self, addresses: Iterable[str]) -> bool:
        """Let policy know what these are now. Returns whether it can: else all has to be written. Raises MapFull."""
        async with self._writing:
            return self.named.add(addresses)

    async def _guard_again(self, present: Sequence[Record]) -> None:
        """Once: what an agent before this one attached may be gone with its bpffs, and instances still run."""
        if self._guarded:
            return
        attached = {one.pin.name for one in await in_thread(self.datapath.attachments) if one.ifindex}
        there = {link.name for link in await in_thread(all_links)}
        for record in present:
            number = record.spec.network.number
            pin = self.datapath.pins.instance(number, "ingress")
            if pin.name not in attached and self.settings.link(number) in there:
                log.warning("datapath: %s was not guarded any more, and is again", record.spec.name)
                await self.plan_connect(record.spec)[-1].do()
        self._guarded = True

    def _write_identities(
        self, apps: Sequence[AppSpec], replicas: Sequence[Replica], books: Books, spoken_of: Numbers
    ) -> None:
        before, self._outside = self._outside, {}
        numbers: dict[str, int] = {}
        for app in apps:
            kept = before.get(app.name)
            if kept is None or kept[0] is not app:
                numbers = numbers or {name: number for number, name in books.identities.names.items()}
                kept = (app, outside_identities(app, numbers))
            self._outside[app.name] = kept
        known = node.node_identities(books.addresses, all_links(), spoken_of.regions)
        known |= node.service_identities(
            {address: one.network.identity for one in replicas for address in one.network.addresses}
        )
        self._identity_map.write(known, {name: found for name, (_, found) in self._outside.items()})

    def _situation(self, apps: Sequence[AppSpec], records: Sequence[Record], outside: Outside) -> Situation:
        leaving = {service_name(r.spec.app, r.spec.service) for r in records} - self._names_of(apps)[0]
        if outside is not self._numbers.outside:
            self._numbers = identities.numbers_of(self.books.identities, outside)
        known = self.books.identities.numbers
        found: dict[int, list[Network]] = defaultdict(list)
        for record in records:
            found[record.spec.network.identity] += map(ip_network, record.spec.network.addresses)
        addresses = {identity: tuple(own) for identity, own in found.items()}
        if addresses != self._addresses:
            self._addresses = addresses
        return Situation(apps, self.policies, sorted(leaving), known, self._numbers, self._addresses)


def config_of(settings: Settings, book: AddressBook) -> DatapathConfig:
    """Of IPv6 all of the mesh, as `node_identities` has it: what nobody has leads nowhere, and not to the world."""
    mark = mark_of(settings.id)
    return DatapathConfig(book.network, book.mesh6, mark=mark, mark_mask=MARK_MASK, sizes=_map_sizes())


def _full_names(apps: Iterable[AppSpec]) -> Iterator[str]:
    return (service_name(app.name, name) for app in apps for name in app.services)


def _nameless(apps: Iterable[AppSpec]) -> Iterator[str]:
    for app in apps:
        for name, service in app.services.items():
            if service.headless or service.external_name is not None:
                yield service_name(app.name, name)


def reaches_outside(app: AppSpec) -> bool:
    """Whether masquerade is declared: an open app, a service that uses the world or a network, published endpoints."""
    services = app.services.values()
    published = any(service.endpoints and service.ports for service in services)
    return app.mode == "open" or published or any(use.is_outside for service in services for use in service.uses)


def _map_sizes() -> dict[str, int]:
    asked = os.environ.get("WHIT_MAP_ENTRIES")
    if asked is not None and not asked.isdecimal():
        raise InputError(f"WHIT_MAP_ENTRIES: {asked!r} is not a number", hint="as 262144, or leave it out")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return node.map_sizes(memory, int(asked) if asked else None)
