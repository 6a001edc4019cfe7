"""From rules to the entries of the policy map. Pure.

The datapath makes two look-ups: longest prefix for the peer, and longest prefix for every peer; the stronger of the two
decides (higher precedence, then deny). So each entry must carry the verdict of the strongest rule that covers its
prefix, also of those written for a shorter prefix: a longer prefix hides the shorter ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PORT,
    POLICY_PREFIX_ANY_PROTOCOL,
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

    def parents(self) -> Iterator[Prefix]:
        """Itself, and every larger set that holds it."""
        for bits in range(self.bits, -1, -1):
            yield Prefix(self.protocol, self.port & ~((1 << (16 - bits)) - 1) & 0xFFFF, bits)
        if self.protocol:
            yield Prefix(0, 0, 0)


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
        for prefix in group:
            strongest = max((group[parent] for parent in prefix.parents() if parent in group), key=strength)
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
    """What makes one table of another, in this order: at no moment is more let through than before or after."""

    denials: Table
    removals: tuple[PolicyKey, ...]
    allowances: Table

    def __bool__(self) -> bool:
        return bool(self.denials or self.removals or self.allowances)


def changes(old: Mapping[PolicyKey, PolicyValue], new: Mapping[PolicyKey, PolicyValue]) -> Changes:
    """Denials are written first; what is taken away lies between, because it may have hidden either."""
    written = {key: value for key, value in new.items() if old.get(key) != value}
    return Changes(
        denials={key: value for key, value in written.items() if value.verdict == Verdict.DENY},
        removals=tuple(key for key in old if key not in new),
        allowances={key: value for key, value in written.items() if value.verdict != Verdict.DENY},
    )
