"""From apps and their instances to the services of the maps and the names of the resolver, again after every change.

Works in a thread, one call at a time, and remembers what it made: with ten thousand services, a change of one costs a
look at each and the making of one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whit.base.latest import Latest
from whit.base.settings import Settings
from whit.control.instances import Record
from whit.datapath.abi import IdentityKey, IdentityValue
from whit.datapath.datapath import Datapath
from whit.mesh import node, services, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.dns import names
from whit.mesh.policy.identities import service_name
from whit.model.app import AppSpec
from whit.model.instance import NetworkSpec
from whit.model.service import ServiceSpec


@dataclass(frozen=True)
class Replica:
    """An instance as it was at one moment."""

    app: str
    service: str
    hostname: str
    network: NetworkSpec
    state: services.State | None
    """As its service sees it; None if it is not there to be seen."""

    @classmethod
    def of(cls, record: Record) -> Replica:
        spec = record.spec
        return cls(spec.app, spec.service, spec.hostname, spec.network, record.backend_state)

    def backends(self) -> Iterator[services.Backend]:
        if self.state is not None:
            for address in self.network.addresses:
                number = services.instance_number(self.network.number, address)
                yield services.Backend(number, address, self.state)


@dataclass(frozen=True)
class Made:
    """A service with what it was made from."""

    spec: ServiceSpec
    addresses: AddressBook
    replicas: Sequence[Replica]
    service: services.Service


class Balancing:
    """Services and names of one node."""

    def __init__(self, settings: Settings, datapath: Datapath) -> None:
        self.settings = settings
        self._maps = tables.ServiceMaps(datapath)
        self._outside = services.OutsideNumbers(self._maps.found())
        self._made: dict[int, Made] = {}
        self._replicas: Sequence[Replica] = ()
        self._named: dict[str, AppNames] = {}
        self._written_names: object = None
        self._services_made: Latest[list[services.Service]] = Latest()
        self._headless: Latest[frozenset[str]] = Latest()

    def write(
        self,
        apps: Sequence[AppSpec],
        replicas: Sequence[Replica],
        addresses: AddressBook,
        spoken_of: Sequence[str] = (),
    ) -> None:
        """Bring the service maps and the file of names to this. Raises MapFull when all that has room is done.

        `spoken_of`: names of the DNS that policies speak of.
        """
        is_first = not self._made
        try:
            self._maps.write(self._latest_services(apps, replicas, addresses))
        finally:
            self._write_names(apps, replicas, addresses, spoken_of)
        if is_first and self._made:
            # What is made at the start stays. Searching all of it for garbage would stop everybody for 0.2 s each time.
            gc.freeze()

    def _latest_services(
        self, apps: Sequence[AppSpec], replicas: Sequence[Replica], addresses: AddressBook
    ) -> list[services.Service]:
        if self._replicas != replicas:
            self._replicas = replicas
        sources = (*apps, self._replicas, addresses)
        return self._services_made.get(sources, lambda: self._services(apps, replicas, addresses))

    def _services(
        self, apps: Sequence[AppSpec], replicas: Sequence[Replica], addresses: AddressBook
    ) -> list[services.Service]:
        sorted_out: dict[tuple[str, str], list[Replica]] = {}
        for one in replicas:
            sorted_out.setdefault((one.app, one.service), []).append(one)
        given = addresses.by_owner("services")
        before, self._made = self._made, {}
        for app in apps:
            for name, spec in app.services.items():
                if spec.external_name is None:
                    offset = given[service_name(app.name, name)]
                    own = sorted_out.get((app.name, name), [])
                    self._made[offset] = self._remake(before.get(offset), offset, spec, own, addresses)
        if gone := before.keys() - self._made.keys():
            self._outside.forget(gone)
        return [made.service for made in self._made.values()]

    def _remake(
        self,
        before: Made | None,
        offset: int,
        spec: ServiceSpec,
        replicas: Sequence[Replica],
        addresses: AddressBook,
    ) -> Made:
        if before and before.spec is spec and before.addresses is addresses and before.replicas == replicas:
            return before
        outside = [
            services.Backend(
                self._outside.number(offset, one.address, one.port), one.address, port=one.port, weight=one.weight
            )
            for one in spec.endpoints
        ]
        service = services.Service(
            number=offset,
            addresses=() if spec.headless else addresses.addresses(offset),
            ports=spec.ports,
            backends=(*outside, *(backend for one in replicas for backend in one.backends())),
            algorithm=spec.balance.algorithm,
            affinity=spec.balance.affinity,
        )
        return Made(spec, addresses, replicas, before.service if before and before.service == service else service)

    def _write_names(
        self, apps: Sequence[AppSpec], replicas: Sequence[Replica], addresses: AddressBook, spoken_of: Sequence[str]
    ) -> None:
        """Of an app that is as it was, nothing is made again."""
        instances = {address: (one.app, one.hostname) for one in replicas for address in one.network.addresses}
        given: dict[str, int] = {}
        before, self._named = self._named, {}
        headless = self._headless.get(apps, lambda: frozenset(app.name for app in apps if has_headless(app)))
        for app in apps:
            own = tuple(one for one in replicas if one.app == app.name) if app.name in headless else ()
            kept = before.get(app.name)
            if kept is None or kept.app is not app or kept.addresses is not addresses or kept.replicas != own:
                given = given or addresses.by_owner("services")
                kept = app_names(app, own, addresses, given)
            self._named[app.name] = kept
        cause = ({name: (one.services, one.aliases) for name, one in self._named.items()}, instances, spoken_of)
        if cause != self._written_names:
            table = names.NameTable(
                listen=str(addresses.resolver),
                listen6=str(addresses.resolver6 or ""),
                spoken_of=spoken_of,
                services={name: one.services for name, one in self._named.items()},
                instances=instances,
                aliases={name: one.aliases for name, one in self._named.items()},
            )
            names.write_state(self.settings, table)
            self._written_names = cause


@dataclass(frozen=True)
class AppNames:
    """The names of an app's services, with what they were made from."""

    app: AppSpec
    addresses: AddressBook
    replicas: tuple[Replica, ...]
    """Those that names depend on."""
    services: dict[str, Sequence[str]]
    aliases: dict[str, str]


def has_headless(app: AppSpec) -> bool:
    return any(service.headless for service in app.services.values())


def app_names(
    app: AppSpec, replicas: tuple[Replica, ...], addresses: AddressBook, given: Mapping[str, int]
) -> AppNames:
    """What the resolver answers for the app. `given`: offsets of services."""
    found: dict[str, Sequence[str]] = {}
    aliases: dict[str, str] = {}
    for name, service in app.services.items():
        if service.external_name is not None:
            aliases[name] = service.external_name
        elif service.headless:
            own = [backend for one in replicas if one.service == name for backend in one.backends()]
            found[name] = services.ready_addresses(own)
        else:
            found[name] = addresses.addresses(given[service_name(app.name, name)])
    return AppNames(app, addresses, replicas, found, aliases)


def outside_identities(app: AppSpec, numbers: Mapping[str, int]) -> dict[IdentityKey, IdentityValue]:
    """Endpoints of services have their service's identity, so that who uses the service reaches them. Of two services
    with the same one, the first in the order of their names."""
    found: dict[str, int] = {}
    for name, service in sorted(app.services.items()):
        for one in service.endpoints:
            found.setdefault(one.address, numbers[service_name(app.name, name)])
    return node.service_identities(found)
