"""From services and their instances to the entries of the three service maps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from whit.datapath.abi import BackendState, BackendValue, FrontendKey, FrontendValue, SlotKey
from whit.datapath.address import Address
from whit.mesh.rules import PROTOCOLS
from whit.model.service import PortSpec


@dataclass(frozen=True)
class Backend:
    """An instance, as its service sees it."""

    number: int
    """Endpoint number on this node."""
    address: str
    draining: bool = False
    """Keeps the flows that it has, and takes no new ones."""


@dataclass(frozen=True)
class Service:
    """A service with its virtual address, its published ports and the instances that are ready or draining."""

    number: int
    """Offset of its virtual address in the pool: unique on the node."""
    address: str
    ports: Sequence[PortSpec] = ()
    backends: Sequence[Backend] = ()


@dataclass(frozen=True)
class ServiceTables:
    """What the maps should hold."""

    backends: dict[int, BackendValue] = field(default_factory=dict)
    slots: dict[SlotKey, int] = field(default_factory=dict)
    frontends: dict[FrontendKey, FrontendValue] = field(default_factory=dict)


def service_tables(services: Iterable[Service]) -> ServiceTables:
    """A service's own address stands for every port of it; a published port leads to its target port."""
    tables = ServiceTables()
    for service in services:
        _add(tables, service, FrontendKey(Address.from_ip(service.address), 0, 0), target=0)
        for port in service.ports:
            key = FrontendKey(Address.from_ip(port.host_ip), port.published, PROTOCOLS[port.protocol])
            _add(tables, service, key, target=port.target)
    return tables


def _add(tables: ServiceTables, service: Service, key: FrontendKey, target: int) -> None:
    """`target` is the backends' port, 0 the one that was asked for. Numbers follow from what they stand for, so that
    a new agent finds the entries of the old one as they should be."""
    number = _number(service.number, target)
    state = {False: BackendState.ACTIVE, True: BackendState.DRAINING}
    for slot, backend in enumerate(sorted(service.backends, key=lambda one: one.number)):
        backend_number = _number(backend.number, target)
        tables.backends[backend_number] = BackendValue(
            address=Address.from_ip(backend.address), port=target, state=state[backend.draining]
        )
        tables.slots[SlotKey(service=number, slot=slot)] = backend_number
    tables.frontends[key] = FrontendValue(service=number, backends=len(service.backends), flags=0, affinity_seconds=0)


def _number(offset: int, target: int) -> int:
    """Offsets have 16 bits, ports too."""
    return offset << 16 | target
