"""From lines to the entries of the policy map. Pure.

The datapath makes two look-ups: longest prefix for the peer, and longest prefix for every peer; of the two, the peer's
own decides, for it has the higher precedence. So each entry says what the first line that covers its prefix says, and a
peer that has entries at all has one wherever its answer differs from that of its shorter prefix.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from whit.base.errors import Unavailable
from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PORT,
    POLICY_PREFIX_ANY_PROTOCOL,
    POLICY_PREFIX_EXACT,
    PolicyFlags,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.abi import Direction as Way
from whit.mesh.policy.lines import EVERYTHING, Line
from whit.model.policy import ANY_PEER, Direction

MOST_ENTRIES = 16_384
"""Entries of one subject: a policy that needs more would crowd out the others."""

WAYS: dict[Direction, Way] = {"egress": Way.EGRESS, "ingress": Way.INGRESS}
OF_ALL, OF_PEER = 0, 1
"""Precedences."""

Table = dict[PolicyKey, PolicyValue]
Numbering = Callable[[Direction, str], int]
"""The id of a rule, by direction and text."""


class Prefix(NamedTuple):
    """A set of protocols and ports that one entry can stand for: `bits` of the port are fixed."""

    protocol: int
    port: int
    bits: int

    @property
    def length(self) -> int:
        return POLICY_PREFIX_ANY_PORT + self.bits if self.protocol else POLICY_PREFIX_ANY_PROTOCOL

    @property
    def last(self) -> int:
        return self.port | (1 << 16 - self.bits) - 1


ANYTHING = Prefix(0, 0, 0)


def parents(prefix: Prefix, lengths: Iterable[int]) -> Iterator[Prefix]:
    """The sets that hold it, with itself, among those that have one of these lengths."""
    own = prefix.length
    for length in lengths:
        if length <= own:
            yield _cut(prefix, length)


def _cut(prefix: Prefix, length: int) -> Prefix:
    if length < POLICY_PREFIX_ANY_PORT:
        return ANYTHING
    free = POLICY_PREFIX_EXACT - length
    return Prefix(prefix.protocol, prefix.port >> free << free, length - POLICY_PREFIX_ANY_PORT)


@lru_cache(maxsize=65_536)
def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, bits) that together are the range."""
    found = []
    while first <= last:
        size = (first & -first) or 1 << 16
        while size > last - first + 1:
            size >>= 1
        found.append((first, 16 - (size.bit_length() - 1)))
        first += size
    return tuple(found)


@lru_cache(maxsize=65_536)
def prefixes(protocol: int, first: int, last: int) -> tuple[Prefix, ...]:
    """Of a range of ports of a protocol; protocol 0 is everything."""
    if not protocol:
        return (ANYTHING,)
    return tuple(Prefix(protocol, port, bits) for port, bits in port_prefixes(first, last))


def compile_side(subject: int, direction: Direction, lines: Iterable[Line], number: Numbering) -> Table:
    """The entries of one subject in one direction. Raises Unavailable if they are too many."""
    asked = ordered(lines)
    every = [line for line in asked if line.peers == (ANY_PEER,)]
    by_peer: dict[int, list[Line]] = defaultdict(list)
    for line in asked:
        for peer in line.peers:
            if peer:
                by_peer[peer].append(line)
    side = _Side(subject, WAYS[direction], lambda text: number(direction, text))
    side.add(ANY_PEER, every, [])
    # Peers of whom the same lines speak have the same entries.
    shared: dict[tuple[Line, ...], list[tuple[Prefix, PolicyValue]]] = {}
    for peer, own in by_peer.items():
        known = shared.get(tuple(own))
        if known is None:
            known = shared[tuple(own)] = side.judged(OF_PEER, own, every)
        side.put(peer, known)
        if len(side.table) > MOST_ENTRIES:
            raise Unavailable(
                f"the {direction} policy of identity {subject} needs more than {MOST_ENTRIES:,} entries",
                hint="use wider port ranges, or fewer peers in a rule",
            )
    return side.table


def ordered(lines: Iterable[Line]) -> list[Line]:
    """As they are asked."""
    return sorted(lines, key=_order)


def _order(line: Line) -> tuple[tuple[int | str, ...], bool, str]:
    """Where lines of a stage have no order among them, the one that names the peer is told as the cause."""
    return line.order, line.peers == (ANY_PEER,), line.text


class _Side:
    """A subject's entries in one direction, as they come together."""

    def __init__(self, subject: int, way: Way, number: Callable[[str], int]) -> None:
        self.subject, self.way, self.number = subject, int(way), number
        self.table: Table = {}

    def add(self, peer: int, own: Sequence[Line], every: Sequence[Line]) -> None:
        self.put(peer, self.judged(OF_PEER if peer else OF_ALL, own, every))

    def put(self, peer: int, entries: Iterable[tuple[Prefix, PolicyValue]]) -> None:
        subject, way = self.subject, self.way
        for prefix, value in entries:
            self.table[PolicyKey(prefix.length, subject, peer, way, prefix.protocol, prefix.port)] = value

    def judged(self, precedence: int, own: Sequence[Line], every: Sequence[Line]) -> list[tuple[Prefix, PolicyValue]]:
        """What the first of all these lines says at each prefix that the own ones name."""
        merged = list(own)
        for line in every:
            insort(merged, line, key=_order)
        if len(own) == 1 and all(line.ports is EVERYTHING for line in every):
            # Most peers have one line, which is decided about as a whole.
            first, *others = [prefix for ports in own[0].ports for prefix in prefixes(*ports)]
            value = self._value(precedence, verdict_of(merged, first))
            return [(prefix, value) for prefix in (first, *others)] if value is not None else []
        found: dict[Prefix, PolicyValue] = {}
        lengths: list[int] = []
        for prefix in candidates(own, every):
            value = self._value(precedence, verdict_of(merged, prefix))
            above = next((found[one] for one in parents(prefix, lengths) if one in found), None)
            if value is not None and value != above:
                found[prefix] = value
                if prefix.length not in lengths:
                    lengths.insert(0, prefix.length)
        return list(found.items())

    def _value(self, precedence: int, line: Judged | None) -> PolicyValue | None:
        if line is None:
            return None
        return _value(self.number(line.text), precedence, line.deny, line.audit)


def candidates(own: Sequence[Line], every: Sequence[Line]) -> list[Prefix]:
    """The prefixes at which the answer may change, shorter ones first."""
    wanted = {prefix for line in own for ports in line.ports for prefix in prefixes(*ports)}
    others = {
        prefix for line in every if line.ports != EVERYTHING for ports in line.ports for prefix in prefixes(*ports)
    }
    if others:
        lengths = sorted({prefix.length for prefix in wanted})
        wanted |= {prefix for prefix in others if any(one in wanted for one in parents(prefix, lengths))}
    return sorted(wanted, key=lambda prefix: prefix.length)


class Judged(NamedTuple):
    """The line that decides. `audit`: it would deny, and only reports."""

    text: str
    deny: bool
    audit: bool = False


def verdict_of(lines: Sequence[Line], prefix: Prefix) -> Judged | None:
    """What the lines in their order say of everything in the prefix.

    A policy in audit mode changes no verdict: what the others deny is denied by them; what they let through, and they
    together with it would deny, is reported.
    """
    enforced = _first(lines, prefix, audited=False)
    if (enforced is not None and enforced.action == "deny") or not any(line.audit for line in lines):
        return enforced and Judged(enforced.text, enforced.action == "deny")
    tried = _first(lines, prefix, audited=True)
    if tried is not None and tried.action == "deny":
        return Judged(tried.text, deny=True, audit=True)
    told = enforced or tried
    return told and Judged(told.text, deny=False)


def _first(lines: Sequence[Line], prefix: Prefix, *, audited: bool) -> Line | None:
    passed: int | str | None = None
    for line in lines:
        if line.order[0] == passed or (line.audit and not audited) or not covers(line, prefix):
            continue
        if line.action != "pass":
            return line
        passed = line.order[0]
    return None


def decide(asked: Iterable[Line], peer: int, protocol: int, port: int) -> Judged | None:
    """What ordered lines say of one packet: what an entry of the table, which is made by the same function, says of it.

    None if none speaks of it.
    """
    speaking = [line for line in asked if peer in line.peers or line.peers == (ANY_PEER,)]
    return verdict_of(speaking, Prefix(protocol, port, 16))


def covers(line: Line, prefix: Prefix) -> bool:
    """Whether the line speaks of everything in the prefix."""
    if line.ports is EVERYTHING:
        return True
    for protocol, first, last in line.ports:
        if not protocol or (protocol == prefix.protocol and first <= prefix.port and prefix.last <= last):
            return True
    return False


@lru_cache(maxsize=262_144)
def _value(rule: int, precedence: int, deny: bool, audit: bool) -> PolicyValue:
    return PolicyValue(
        rule=rule,
        precedence=precedence,
        verdict=Verdict.DENY if deny else Verdict.ALLOW,
        flags=PolicyFlags.AUDIT if audit else PolicyFlags(0),
        redirect_port=0,
    )


def _key(subject: int, way: int, peer: int, prefix: Prefix) -> PolicyKey:
    return PolicyKey(prefix.length, subject, peer, way, prefix.protocol, prefix.port)


@dataclass(frozen=True)
class Changes:
    """What makes one table of another, in this order. What both tables deny is denied at every moment between them.

    Tightening makes nothing more open than the old table, the rest is nowhere more open than the new one.
    """

    tightening: Table
    loosening: Table
    removals: tuple[PolicyKey, ...]

    def __bool__(self) -> bool:
        return bool(self.tightening or self.loosening or self.removals)

    def __len__(self) -> int:
        """How many entries are written or removed."""
        return len(self.tightening) + len(self.loosening) + len(self.removals)


def changes(old: Mapping[PolicyKey, PolicyValue], new: Mapping[PolicyKey, PolicyValue]) -> Changes:
    """Each key that differs first gets the narrower of what both tables say there, then what the new one says.

    In whichever order the keys of one phase are written, each write only tightens, or only loosens: a removal in the
    middle never uncovers a shorter prefix that is still the old one's.
    """
    tightening: Table = {}
    loosening: Table = {}
    different = [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]
    lengths = sorted({key.prefix_length for table in (old, new) for key in table}, reverse=True)
    for key in different:
        between = _narrower(_value_at(old, key, lengths), _value_at(new, key, lengths))
        if between != old.get(key):
            tightening[key] = between
        if key in new and between != new[key]:
            loosening[key] = new[key]
    return Changes(tightening, loosening, tuple(key for key in old if key not in new))


def _value_at(table: Mapping[PolicyKey, PolicyValue], key: PolicyKey, lengths: Sequence[int]) -> PolicyValue | None:
    """What the table says of everything that the key stands for: its own value, or that of the longest prefix of it."""
    own = Prefix(key.protocol, key.port, max(0, key.prefix_length - POLICY_PREFIX_ANY_PORT))
    for prefix in parents(own, lengths):
        found = table.get(_key(key.subject, key.direction, key.peer, prefix))
        if found is not None:
            return found
    return None


def _narrower(old: PolicyValue | None, new: PolicyValue | None) -> PolicyValue:
    """Lets through only what both let through, and yields to a denial for the other look-up that either yields to."""
    values = [value for value in (new, old) if value is not None]
    closed = [value for value in values if _is_closed(value)]
    if closed:
        return max(closed, key=lambda value: value.precedence)
    weakest = min(values, key=lambda value: value.precedence)
    audited = len(values) == 2 and all(value.flags & PolicyFlags.AUDIT for value in values)
    return PolicyValue(
        rule=weakest.rule,
        precedence=weakest.precedence if len(values) == 2 else 0,
        verdict=Verdict.DENY if audited else Verdict.ALLOW,
        flags=PolicyFlags.AUDIT if audited else PolicyFlags(0),
        redirect_port=0,
    )


def _is_closed(value: PolicyValue) -> bool:
    return value.verdict == Verdict.DENY and not value.flags & PolicyFlags.AUDIT
