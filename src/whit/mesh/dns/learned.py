"""Learned: the addresses that names of policies stand for, as answers of the resolver told them. Does no I/O.

An address is kept for as long as its answer holds and a while longer, because programs go on with what they were told.
The sets of names that addresses had are kept for as long as flows bear their identities: control says when they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from pydantic import Field

from whit.mesh.policy.outside import Network, Outside, Set, names_matching, title
from whit.model.base import Noun

MOST_ADDRESSES = 8192
"""Of all names together; their document stays under the store's limit of 1 MiB."""
MOST_OF_NAME = 256
MOST_SETS = 512
"""That addresses of several names, or in networks of policies, have: each takes entries of policy."""
_LEAST_NAMED = 8
"""Names that this many addresses are kept of, whatever others have."""


@dataclass(frozen=True)
class Timing:
    """Seconds for which an address is kept: its time to live, but at least `minimum`, and `grace`."""

    minimum: float = 60.0
    grace: float = 60.0

    def until(self, ttl: float, now: float) -> float:
        return now + max(ttl, self.minimum) + self.grace


class LearnedNames(Noun):
    """As control stores it."""

    addresses: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By name: until when (wall-clock time), by address."""
    sets: tuple[str, ...] = ()
    """Titles of those that flows may still bear."""


class Learned:
    """What is known. `version` rises when an address or set came or went."""

    def __init__(self, stored: LearnedNames | None = None, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        self.version = 0
        self.dropped = 0
        """Addresses that found no room."""
        self.kept: dict[Set, float] = {}
        """Sets that were given to addresses, and since when none has them; 0 while one has."""
        self._until: dict[str, dict[str, float]] = {}
        self._names: dict[str, set[str]] = {}
        self._sets: dict[str, Set] = {}
        self._sets_under: tuple[object, ...] = ()
        if stored:
            self.kept = {frozenset(one.split(" & ")): 0.0 for one in stored.sets}
            for name, addresses in stored.addresses.items():
                for address, until in addresses.items():
                    self._put(name, address, until)

    def __len__(self) -> int:
        return len(self._names)

    def document(self) -> LearnedNames:
        return LearnedNames(
            addresses={name: dict(found) for name, found in self._until.items()},
            sets=tuple(sorted(title(one) for one in self.kept)),
        )

    def addresses_of(self, name: str) -> list[str]:
        """Those that hold longest first, IPv4 before IPv6."""
        found = self._until.get(name, {})
        return sorted(found, key=lambda address: (":" in address, -found[address]))

    def names_of(self, address: str) -> frozenset[str]:
        return frozenset(self._names.get(address, ()))

    def learn(self, name: str, addresses: Mapping[str, float], now: float) -> list[str]:
        """That a name stands for these, by their times to live. Returns those that are new to it and have room."""
        fresh = []
        for address, ttl in addresses.items():
            until = self.timing.until(ttl, now)
            known = self._until.get(name, {}).get(address)
            if known is not None:
                self._until[name][address] = max(known, until)
            elif self._has_room(name, address):
                self._put(name, address, until)
                fresh.append(address)
            else:
                self.dropped += 1
        self.version += bool(fresh)
        return fresh

    def unlearn(self, name: str, addresses: Iterable[str]) -> None:
        """There is no room for what they need."""
        for address in addresses:
            self._drop(name, address)
            self.dropped += 1
        self.version += 1

    def expire(self, now: float) -> bool:
        """Drop what is over. Returns whether anything was."""
        over = [(name, one) for name, found in self._until.items() for one, until in found.items() if until <= now]
        for name, address in over:
            self._drop(name, address)
        self.version += bool(over)
        return bool(over)

    def forget_unless(self, spoken_of: Iterable[str]) -> None:
        """Names that no policy speaks of any more."""
        known = tuple(spoken_of)
        for name in [name for name in self._until if not names_matching(known, name)]:
            for address in list(self._until[name]):
                self._drop(name, address)
            self.version += 1

    def sets(self, outside: Outside) -> dict[str, Set]:
        """The set of each address: the networks that hold it, and what its names match."""
        self._settle(outside)
        return {address: found for address, found in self._sets.items() if found}

    def sets_of(self, addresses: Iterable[str], outside: Outside) -> dict[str, Set]:
        """As `sets`, of these alone."""
        self._settle(outside)
        return {address: found for address in addresses if (found := self._sets.get(address))}

    def _settle(self, outside: Outside) -> None:
        under = outside.blocks, outside.names
        if under != self._sets_under:
            self._sets, self._sets_under = {}, under
        if missing := self._names.keys() - self._sets.keys():
            regions = _Regions(outside.regions)
            for address in missing:
                matching = (names_matching(outside.names, name) for name in self._names[address])
                members = frozenset[str]().union(*matching)
                self._sets[address] = regions.holding(ip_address(address)) | members if members else members

    def given(self, sets: Iterable[Set], now: float) -> None:
        """These are the sets that addresses have from now on."""
        held = set(sets)
        self.kept = {one: since or now for one, since in self.kept.items()} | dict.fromkeys(held, 0.0)

    def hold(self, sets: Iterable[Set]) -> None:
        """Some address has these now too."""
        self.kept |= dict.fromkeys(sets, 0.0)

    def release(self, borne: Iterable[Set], before: float) -> bool:
        """Drop the sets that no address has since `before`, when a look at all flows began that found only these.
        Returns whether there was one."""
        bearing = set(borne)
        over = [one for one, since in self.kept.items() if since and since < before and one not in bearing]
        for one in over:
            del self.kept[one]
        self.version += bool(over)
        return bool(over)

    def _has_room(self, name: str, address: str) -> bool:
        """Of a name that has all its room, the address that is over first makes way: long lists change all the time."""
        own = self._until.get(name, {})
        if len(own) >= MOST_OF_NAME or (len(self._names) >= MOST_ADDRESSES and len(own) >= _LEAST_NAMED):
            self._drop(name, min(own, key=lambda one: own[one]))
            return True
        return len(self._names) < MOST_ADDRESSES or address in self._names

    def _put(self, name: str, address: str, until: float) -> None:
        self._until.setdefault(name, {})[address] = until
        self._names.setdefault(address, set()).add(name)
        self._sets.pop(address, None)

    def _drop(self, name: str, address: str) -> None:
        del self._until[name][address]
        if not self._until[name]:
            del self._until[name]
        self._names[address].discard(name)
        self._sets.pop(address, None)
        if not self._names[address]:
            del self._names[address]


class _Regions:
    """Finds the longest prefix that holds an address by as many look-ups as there are lengths."""

    def __init__(self, regions: Mapping[Network, Set]) -> None:
        self.regions = regions

    @cached_property
    def lengths(self) -> dict[int, list[int]]:
        found: dict[int, set[int]] = {4: set(), 6: set()}
        for prefix in self.regions:
            found[prefix.version].add(prefix.prefixlen)
        return {version: sorted(lengths, reverse=True) for version, lengths in found.items()}

    def holding(self, address: IPv4Address | IPv6Address) -> Set:
        for prefix in self._prefixes(address):
            if prefix in self.regions:
                return self.regions[prefix]
        return frozenset()

    def _prefixes(self, address: IPv4Address | IPv6Address) -> Iterator[Network]:
        for length in self.lengths[address.version]:
            yield ip_network((address.packed, length), strict=False)


def with_learned(outside: Outside, learned: Learned) -> Outside:
    """What policies speak of, with the sets that this needs beside those of one name."""
    wanted = {*learned.kept, *learned.sets(outside).values()} - set(outside.classes)
    return replace(outside, shared=tuple(sorted(wanted, key=title)))
