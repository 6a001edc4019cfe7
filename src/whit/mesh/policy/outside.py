"""Outside: who is beyond the mesh. An address there has the identity of the set of networks and names that policies
speak of and that it belongs to. Pure.

The map of identities takes the longest prefix, so the prefixes of all networks and exceptions cut the address space
into regions, each with one set. What a name stands for is learned later (learned.py), on top of its region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network

from whit.model.app import AppSpec
from whit.model.policy import WORLD, PeerSpec, PolicySpec

Network = IPv4Network | IPv6Network
Set = frozenset[str]


@dataclass(frozen=True)
class Block:
    """A network without its exceptions."""

    network: Network
    excepted: tuple[Network, ...] = ()

    @classmethod
    def of(cls, peer: PeerSpec) -> Block:
        """Raises ValueError."""
        return cls(ip_network(peer.cidr or ""), tuple(sorted(map(ip_network, peer.excepted), key=str)))

    def holds(self, region: Network) -> bool:
        return _within(region, self.network) and not any(_within(region, part) for part in self.excepted)

    def __str__(self) -> str:
        return f"{self.network} except {', '.join(map(str, self.excepted))}" if self.excepted else str(self.network)


@dataclass(frozen=True)
class Outside:
    """What policies speak of, and what follows from it."""

    blocks: tuple[Block, ...] = ()
    names: tuple[str, ...] = ()
    """Of the DNS, and patterns."""
    shared: tuple[Set, ...] = ()
    """What learned addresses belong to beside one name: several, or networks too."""

    @cached_property
    def regions(self) -> Mapping[Network, Set]:
        """By prefix: the blocks that hold it; none is the world."""
        prefixes = {prefix for block in self.blocks for prefix in (block.network, *block.excepted)}
        return {prefix: frozenset(str(block) for block in self.blocks if block.holds(prefix)) for prefix in prefixes}

    @cached_property
    def classes(self) -> Sequence[Set]:
        """The sets of names and patterns that one name can belong to."""
        return tuple(dict.fromkeys(names_matching(self.names, name) for name in self.names))

    @cached_property
    def sets(self) -> Sequence[Set]:
        """Of networks alone."""
        return tuple(sorted({found for found in self.regions.values() if found}, key=title))

    @cached_property
    def named_sets(self) -> Sequence[Set]:
        """Those of addresses that some name leads to. The sets of one name are there before an address has them."""
        return tuple(sorted({*self.classes, *self.shared} - set(self.sets), key=title))


@dataclass(frozen=True)
class Numbers:
    """An Outside whose sets have their identities."""

    outside: Outside = field(default_factory=Outside)
    numbers: Mapping[str, int] = field(default_factory=dict)
    """By title."""

    @cached_property
    def world(self) -> tuple[int, ...]:
        """All that policies gave an identity of its own."""
        return tuple(self.numbers[title(found)] for found in (*self.outside.sets, *self.outside.named_sets))

    @cached_property
    def _by_selector(self) -> Mapping[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for members in (*self.outside.sets, *self.outside.named_sets):
            for selector in members:
                found.setdefault(selector, []).append(self.numbers[title(members)])
        return {selector: tuple(numbers) for selector, numbers in found.items()}

    @cached_property
    def regions(self) -> Mapping[Network, int]:
        """Identity by prefix; what is excepted from all is the world again."""
        return {
            prefix: self.numbers[title(members)] if members else WORLD
            for prefix, members in self.outside.regions.items()
        }

    def number(self, members: Set) -> int:
        """0 if there is none for this set."""
        return self.numbers.get(title(members), 0)

    def of(self, selector: str) -> tuple[int, ...]:
        """The identities whose addresses a block or name means."""
        return self._by_selector.get(selector, ())


def outside_of(apps: Iterable[AppSpec], policies: Iterable[PolicySpec]) -> Outside:
    """What all of these speak of."""
    peers = [peer for policy in policies for rule in policy.rules for peer in rule.peers]
    specs = [use for app in apps for service in app.services.values() for use in service.uses]
    blocks = {Block.of(peer) for peer in peers if peer.cidr} | {
        Block(ip_network(use.cidr)) for use in specs if use.cidr
    }
    names = {peer.dns for peer in peers if peer.dns} | {use.dns for use in specs if use.dns}
    return Outside(tuple(sorted(blocks, key=str)), tuple(sorted(names)))


def title(members: Set) -> str:
    """What people read, and by which the set's number is kept."""
    return " & ".join(sorted(members))


def names_matching(names: Iterable[str], name: str) -> Set:
    """Those names and patterns of policies that a name, or all names of a pattern, belong to."""
    return frozenset(known for known in names if known == name or (known[:2] == "*." and name.endswith(known[1:])))


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
