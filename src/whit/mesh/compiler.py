"""From rules to the entries of the policy map. Pure.

The datapath makes two look-ups: longest prefix for the peer, and longest prefix for every peer; the stronger of the two
decides (higher precedence, then deny). So each entry must carry the verdict of the strongest rule that covers its
prefix, also of those written for a shorter prefix: a longer prefix hides the shorter ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PORT,
    POLICY_PREFIX_ANY_PROTOCOL,
    POLICY_PREFIX_EXACT,
    Direction,
    PolicyFlags,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.model.policy import Rule

DIRECTIONS = {"egress": Direction.EGRESS, "ingress": Direction.INGRESS}

Table = dict[PolicyKey, PolicyValue]


@dataclass(frozen=True, order=True)
class Prefix:
    """A set of protocols and ports that one entry can stand for: `bits` of the port are fixed."""

    protocol: int
    port: int
    bits: int

    @property
    def length(self) -> int:
        return POLICY_PREFIX_ANY_PORT + self.bits if self.protocol else POLICY_PREFIX_ANY_PROTOCOL

    def parents(self, lengths: Iterable[int]) -> Iterator[Prefix]:
        """The sets that hold it, with itself, among those that have one of these lengths."""
        for length in lengths:
            if length <= self.length:
                yield self._cut(length)

    def _cut(self, length: int) -> Prefix:
        if length < POLICY_PREFIX_ANY_PORT:
            return Prefix(0, 0, 0)
        free = POLICY_PREFIX_EXACT - length
        return Prefix(self.protocol, self.port >> free << free, length - POLICY_PREFIX_ANY_PORT)


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, bits) that together are the range."""
    while first <= last:
        size = (first & -first) or 1 << 16
        while size > last - first + 1:
            size >>= 1
        yield first, 16 - (size.bit_length() - 1)
        first += size


def prefixes(rule: Rule) -> Iterator[Prefix]:
    if not rule.protocol:
        yield Prefix(0, 0, 0)
        return
    for port, bits in port_prefixes(rule.first_port, rule.last_port):
        yield Prefix(rule.protocol, port, bits)


def strength(rule: Rule) -> tuple[int, bool, int]:
    """Higher precedence first, then deny before allow, then the older rule."""
    return rule.precedence, rule.verdict == "deny", -rule.id


def compile_rules(rules: Iterable[Rule]) -> Table:
    """The whole policy map."""
    groups: dict[tuple[int, Direction, int], dict[Prefix, Rule]] = defaultdict(dict)
    for rule in rules:
        group = groups[rule.subject, DIRECTIONS[rule.direction], rule.peer]
        for prefix in prefixes(rule):
            there = group.get(prefix)
            if there is None or strength(rule) > strength(there):
                group[prefix] = rule
    table: Table = {}
    for (subject, direction, peer), group in groups.items():
        lengths = {prefix.length for prefix in group}
        for prefix in group:
            strongest = max((group[parent] for parent in prefix.parents(lengths) if parent in group), key=strength)
            table[_key(subject, direction, peer, prefix)] = _value(strongest)
    return table


def _key(subject: int, direction: Direction, peer: int, prefix: Prefix) -> PolicyKey:
    return PolicyKey(
        prefix_length=prefix.length,
        subject=subject,
        peer=peer,
        direction=direction,
        protocol=prefix.protocol,
        port=prefix.port,
    )


def _value(rule: Rule) -> PolicyValue:
    return PolicyValue(
        rule=rule.id,
        precedence=rule.precedence,
        verdict=Verdict.ALLOW if rule.verdict == "allow" else Verdict.DENY,
        flags=PolicyFlags.AUDIT if rule.audit else PolicyFlags(0),
        redirect_port=0,
    )


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
    for prefix in own.parents(lengths):
        found = table.get(_key(key.subject, Direction(key.direction), key.peer, prefix))
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
