"""From services and their backends to the entries of the service maps. Pure.

Numbers follow from what they stand for, so that a new agent finds the entries of the old one as they should be. A
number has 32 bits: the upper half is an offset in the pool (its top bit is set for services), the lower one the port
that is asked for at the backend, 0 for the port that the client asked for. What is at an IPv6 address has the top
bit turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from ipaddress import ip_address
from math import gcd
from typing import Literal

from whit.datapath.abi import BackendState, BackendValue, FrontendFlags, FrontendKey, FrontendValue, SlotKey
from whit.datapath.address import Address
from whit.mesh.policy.rules import PROTOCOLS
from whit.model.service import Algorithm, PortSpec

ANYWHERE = ("0.0.0.0", "::")
"""What a frontend has that stands for every address of the node, by family."""
MAX_SLOTS = 1024
"""Of a service. Weights whose sum is larger lose in precision, but nobody loses all."""
FIRST_INSTANCE_NUMBER = 1 << 20
"""Numbers below are those of backends that are no instances: no instance has an offset below 16."""
_OF_IPV6 = 1 << 31

State = Literal["active", "leaving", "unready", "down"]
"""Takes new flows; keeps its flows, and takes new ones only if all others leave too; only keeps its flows; neither."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One address of a service: that of an instance in one family, or one outside of the mesh."""

    number: int
    """`instance_number`, or the whole number of one outside."""
    address: str
    state: State = "active"
    port: int = 0
    """Its own, whatever was asked for. 0: the target of the port that was asked for."""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its virtual addresses, its published ports and its backends."""

    number: int
    """Offset of its virtual address in the pool: unique on the node."""
    addresses: tuple[str, ...]
    """None of a headless service, whose name stands for its instances."""
    ports: tuple[PortSpec, ...] = ()
    backends: tuple[Backend, ...] = ()
    algorithm: Algorithm = "random"
    affinity: int = 0
    """Seconds for which a client keeps its backend; 0: it does not."""


@dataclass(frozen=True, slots=True)
class ServiceTables:
    """What the maps should hold."""

    backends: dict[int, BackendValue] = field(default_factory=dict)
    slots: dict[SlotKey, int] = field(default_factory=dict)
    frontends: dict[FrontendKey, FrontendValue] = field(default_factory=dict)
    maglev: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """By number of the service: the backends of its table with their weights."""


def instance_number(offset: int, address: str) -> int:
    """The number of an instance's address, before the port is added."""
    return offset << 16 | (_OF_IPV6 if ":" in address else 0)


def service_tables(services: Iterable[Service]) -> ServiceTables:
    """A service's own address stands for every port of it; a published port leads to its target port."""
    tables = ServiceTables()
    for service in services:
        for address in service.addresses:
            key = FrontendKey(Address.from_ip(address), 0, 0)
            _add(tables, service, key, target=0, ipv6=":" in address)
        for port in service.ports:
            for address in ANYWHERE if port.host_ip == ANYWHERE[0] else (port.host_ip,):
                key = FrontendKey(Address.from_ip(address), port.published, PROTOCOLS[port.protocol])
                _add(tables, service, key, target=port.target, ipv6=":" in address)
    return tables


def _add(tables: ServiceTables, service: Service, key: FrontendKey, target: int, *, ipv6: bool) -> None:
    """A frontend of one family, and the backends of that family for this target."""
    number = service.number << 16 | target
    if ipv6:
        number ^= _OF_IPV6
    taking = _of_family(service, tables, target, ipv6=ipv6)
    chosen = _slots(taking)
    for slot, backend in enumerate(chosen):
        tables.slots[SlotKey(service=number, slot=slot)] = backend
    if service.algorithm == "maglev" and taking:
        tables.maglev[number] = tuple(sorted(taking.items()))
    tables.frontends[key] = FrontendValue(
        service=number, backends=len(chosen), flags=_flags(service, taking), affinity_seconds=service.affinity
    )


def _flags(service: Service, taking: Mapping[int, int]) -> int:
    maglev = FrontendFlags.MAGLEV if service.algorithm == "maglev" and taking else 0
    return maglev | (FrontendFlags.AFFINITY if service.affinity else 0)


def _of_family(service: Service, tables: ServiceTables, target: int, *, ipv6: bool) -> dict[int, int]:
    """Enters the backends of a family. Returns the weights, by number, of those that take new flows."""
    there = [one for one in service.backends if (":" in one.address) == ipv6 and one.state != "down"]
    wanted = "active" if any(one.state == "active" for one in there) else "leaving"
    taking: dict[int, int] = {}
    for one in sorted(there, key=lambda each: each.number):
        number = one.number if one.port else one.number | target
        takes = one.state == wanted
        tables.backends[number] = BackendValue(
            address=Address.from_ip(one.address),
            port=one.port or target,
            state=BackendState.ACTIVE if takes else BackendState.DRAINING,
        )
        if takes:
            taking[number] = one.weight
    return taking


def _slots(weights: Mapping[int, int]) -> list[int]:
    """Each backend as often as its weight says, in as few slots as that takes."""
    return [number for number, count in reduced(weights).items() for _ in range(count)]


def reduced(weights: Mapping[int, int], most: int = MAX_SLOTS) -> dict[int, int]:
    """Weights of the same proportions, as small as can be; at most `most` in sum, if there are not more than those."""
    if not weights:
        return {}
    divisor = reduce(gcd, weights.values())
    total = sum(weights.values()) // divisor
    if total <= max(most, len(weights)):
        return {number: weight // divisor for number, weight in weights.items()}
    room = max(most - len(weights), 0)
    return {number: 1 + room * weight // (total * divisor) for number, weight in weights.items()}


class OutsideNumbers:
    """Numbers of backends that are no instances. One is given again only when all have been given."""

    def __init__(self, known: Mapping[int, BackendValue] | None = None) -> None:
        """`known` are the entries of an agent before this one: (service's own order is lost, addresses are not)."""
        found = {number: value for number, value in (known or {}).items() if number < FIRST_INSTANCE_NUMBER}
        self._last = max(found, default=0)
        self._known = {(str(value.address), value.port): number for number, value in found.items()}
        self._given: dict[tuple[int, str, int], int] = {}

    def number(self, service: int, address: str, port: int) -> int:
        """Two services with the same backend have a number each."""
        key = service, address, port
        if key not in self._given:
            before = self._known.pop((str(ip_address(address)), port), 0) if self._known else 0
            self._given[key] = before or self._next()
        return self._given[key]

    def forget(self, services: Iterable[int]) -> None:
        """Services that are no more."""
        gone = frozenset(services)
        self._given = {key: number for key, number in self._given.items() if key[0] not in gone}

    def _next(self) -> int:
        taken = set(self._given.values()) if self._last >= FIRST_INSTANCE_NUMBER - 1 else ()
        candidates: Iterator[int] = iter(range(1, FIRST_INSTANCE_NUMBER)) if taken else iter((self._last + 1,))
        self._last = next(number for number in candidates if number not in taken)
        return self._last


def ready_addresses(backends: Sequence[Backend]) -> tuple[str, ...]:
    """What the name of a headless service stands for."""
    return tuple(one.address for one in backends if one.state == "active")
