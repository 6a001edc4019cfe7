"""Addresses of a node's mesh: choosing the pools, and giving addresses and numbers out. Pure; control keeps the record.

The IPv4 pool is a /16. Its lower half is for the node and its instances, its upper half for services. What is given
out is an offset: it has an address in the IPv4 pool and, where the machine has IPv6, one in a /64 of the mesh's /48.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from whit.base.errors import Conflict, Unavailable
from whit.model.base import Noun

REST_SECONDS = 60.0
"""An address is not given to another instance before peers and caches have forgotten its last owner."""

CANDIDATES = (
    *(IPv4Network(f"10.{second}.0.0/16") for second in (*range(77, 128), *range(200, 250))),
    *(IPv4Network(f"172.{second}.0.0/16") for second in range(30, 17, -1)),
    IPv4Network("198.18.0.0/16"),
)
"""Private networks (RFC 1918) from those that are seldom taken on, and at last one that nobody routes (RFC 2544)."""

MESH6_PREFIX = 48
NODE6_PREFIX = 64
_UNIQUE_LOCAL = IPv6Network("fd00::/8")

FIRST_INSTANCE = 16
"""Offsets in the pool: 1 is the node, 2 the resolver; those below this one are kept for more of that kind."""


_network4, _network6 = lru_cache(4)(IPv4Network), lru_cache(4)(IPv6Network)
"""Reading the text takes longer than all else that is done with a pool."""


class Lease(Noun):
    """One owner's address (an offset in the pool) and, for instances, its endpoint number."""

    owner: str
    offset: int
    released_at: float | None = None
    """Wall-clock time, so that it also rests while no agent lives."""


class AddressBook(Noun):
    """What is given out, as control stores it."""

    pool: str
    pool6: str = ""
    """The node's /64; empty if the machine never had IPv6."""
    ipv6: bool = False
    """Whether the machine has IPv6 now. Where it is switched off and on again, addresses stay as they were."""
    instances: tuple[Lease, ...] = ()
    services: tuple[Lease, ...] = ()

    @property
    def network(self) -> IPv4Network:
        return _network4(self.pool)

    @property
    def node(self) -> IPv4Address:
        """What the node's own sockets use towards instances."""
        return self.network[1]

    @property
    def resolver(self) -> IPv4Address:
        return self.network[2]

    @property
    def resolver6(self) -> IPv6Address | None:
        return self.address6(2)

    def address(self, offset: int) -> IPv4Address:
        return self.network[offset]

    @property
    def network6(self) -> IPv6Network | None:
        return _network6(self.pool6) if self.ipv6 and self.pool6 else None

    @property
    def mesh6(self) -> IPv6Network | None:
        """The /48 of all nodes."""
        return self.network6.supernet(new_prefix=MESH6_PREFIX) if self.network6 else None

    @property
    def node6(self) -> IPv6Address | None:
        return self.address6(1)

    def address6(self, offset: int) -> IPv6Address | None:
        return self.network6[offset] if self.network6 else None

    @property
    def is_resting(self) -> bool:
        """Whether something was given back that is to be forgotten once it has rested."""
        return any(lease.released_at is not None for lease in (*self.instances, *self.services))

    def by_owner(self, kind: Literal["instances", "services"]) -> dict[str, int]:
        """Offsets of those that have not been given back."""
        leases = self.instances if kind == "instances" else self.services
        return {lease.owner: lease.offset for lease in leases if lease.released_at is None}

    def addresses(self, offset: int) -> tuple[str, ...]:
        """Of both families, IPv4 first."""
        found = (self.address(offset), self.address6(offset))
        return tuple(str(address) for address in found if address is not None)


def choose_pool(taken: Iterable[IPv4Network], candidates: Iterable[IPv4Network] = CANDIDATES) -> IPv4Network:
    """The first candidate that shares no address with a network that the host has a route to.

    Raises:
        Unavailable: all do.
    """
    networks = list(taken)
    for candidate in candidates:
        if not any(candidate.overlaps(network) for network in networks):
            return candidate
    raise Unavailable(
        "every address pool that Whit knows overlaps a route of this machine",
        hint="name a free IPv4 network of 65,536 addresses in WHIT_POOL",
    )


def draw_pool6() -> IPv6Network:
    """Forty random bits below fd00::/8 (RFC 4193, 3.2.2)."""
    return IPv6Network((0xFD << 120 | secrets.randbits(40) << 80, MESH6_PREFIX))


def choose_pool6(taken: Iterable[IPv6Network], draw: Callable[[], IPv6Network] = draw_pool6) -> IPv6Network:
    """A /48 that shares no address with a network that the host has a route to."""
    networks = list(taken)
    while True:
        drawn = draw()
        if not any(drawn.overlaps(network) for network in networks):
            return drawn


def check_pool6(pool: IPv6Network, taken: Iterable[IPv6Network]) -> None:
    """Raises Conflict if the pool is no unique local /48, or overlaps a network that the host has a route to."""
    if pool.prefixlen != MESH6_PREFIX or not pool.subnet_of(_UNIQUE_LOCAL):
        raise Conflict(
            f"the pool {pool} is not a /48 of unique local addresses",
            hint="name one of fd00::/8, as fd12:3456:789a::/48",
        )
    for network in taken:
        if network.overlaps(pool):
            raise Conflict(
                f"the pool {pool} overlaps {network}, which this machine has a route to",
                hint="name another one in WHIT_POOL6, or none to have one drawn",
            )


def check_pool(pool: IPv4Network, taken: Iterable[IPv4Network]) -> None:
    """Raises Conflict if the pool is not a /16 or overlaps a network that the host has a route to."""
    if pool.prefixlen != 16:
        raise Conflict(f"the pool {pool} is not a /16", hint="name 65,536 addresses, as 10.90.0.0/16")
    for network in taken:
        if network.overlaps(pool):
            raise Conflict(
                f"the pool {pool} overlaps {network}, which this machine has a route to",
                hint="name another one in WHIT_POOL, or none to have one chosen",
            )


def assign_instances(book: AddressBook, owners: Iterable[str], now: float) -> AddressBook:
    """With an address for each of these instances, the one it has or a new one. The offset is its endpoint number too.

    Raises:
        Unavailable: there are not enough.
    """
    offsets = range(FIRST_INSTANCE, book.network.num_addresses // 2)
    return book.model_copy(update={"instances": _assign(book.instances, owners, now, offsets)})


def assign_services(book: AddressBook, owners: Iterable[str], now: float) -> AddressBook:
    """With a virtual address for each of these services. Raises Unavailable."""
    half = book.network.num_addresses // 2
    offsets = range(half + 1, 2 * half - 1)
    return book.model_copy(update={"services": _assign(book.services, owners, now, offsets)})


def release(book: AddressBook, keep: Iterable[str], now: float) -> AddressBook:
    """Give back what owners have that are not among those to keep; forget what has rested long enough."""
    kept = frozenset(keep)
    return book.model_copy(
        update={
            "instances": tuple(_released(book.instances, kept, now)),
            "services": tuple(_released(book.services, kept, now)),
        }
    )


def _released(leases: tuple[Lease, ...], kept: frozenset[str], now: float) -> Iterator[Lease]:
    for lease in leases:
        if lease.owner in kept:
            yield lease
        elif lease.released_at is None:
            yield lease.model_copy(update={"released_at": now})
        elif now - lease.released_at < REST_SECONDS:
            yield lease


def _assign(leases: tuple[Lease, ...], owners: Iterable[str], now: float, offsets: range) -> tuple[Lease, ...]:
    """An offset stands in one lease only. Who comes back has his old one, as long as nobody else was given it."""
    known = {lease.owner: lease for lease in leases}
    wanted = list(owners)
    for owner in wanted:
        if owner in known and known[owner].released_at is not None:
            known[owner] = known[owner].model_copy(update={"released_at": None})
    resting = [one for one in known.values() if one.released_at is not None]
    given = {one.offset for one in known.values() if one.released_at is None}
    taken = given | {one.offset for one in resting if now - (one.released_at or 0) < REST_SECONDS}
    free = (offset for offset in offsets if offset not in taken)
    for owner in wanted:
        if owner in known:
            continue
        offset = next(free, None)
        if offset is None:
            raise Unavailable(
                f"all {len(offsets)} addresses of this kind are given out or rest",
                hint=f"wait {REST_SECONDS:g} s after instances have gone, or run fewer",
            )
        known[owner] = Lease(owner=owner, offset=offset)
        given.add(offset)
    return tuple(one for one in known.values() if one.released_at is None or one.offset not in given)
