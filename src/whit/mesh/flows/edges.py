"""Edges as the datapath counts them, with names instead of numbers, and with the rule that decides each of them now."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from whit.datapath import abi
from whit.datapath.datapath import Datapath
from whit.datapath.policy_entries import PolicyEntries
from whit.mesh.flows.naming import PROTOCOLS, Dictionary
from whit.mesh.policy.rules import UNDECLARED
from whit.model.edge import COUNTERS, Edge

Dump = Sequence[tuple[bytes, bytes]]
"""The map as it lay in the kernel at one moment: cheap to take, and to keep."""


def take(datapath: Datapath) -> Dump:
    """Some 2 us for each edge; belongs into a thread where there are thousands."""
    return datapath.edges.dump()


def named(dump: Dump, datapath: Datapath, words: Dictionary) -> list[Edge]:
    """Some 60 us for each edge."""
    return [_edge(key, value, datapath.policies, words) for key, value in datapath.edges.decoded(dump)]


def _edge(
    key: abi.EdgeKey,
    value: abi.EdgeValue,
    policies: PolicyEntries,
    words: Dictionary,
) -> Edge:
    rule = deciding_rule(key, policies)
    text = words.rule(rule)
    return Edge.model_construct(
        source=words.identities.name(key.source),
        destination=words.identities.name(key.destination),
        port=key.port,
        protocol=PROTOCOLS.get(key.protocol, str(key.protocol)),
        verdict="deny" if key.verdict == abi.Verdict.DENY else "allow",
        rule=rule,
        rule_text=text,
        undeclared=key.verdict != abi.Verdict.DENY and UNDECLARED in text,
        latency=latency_of(value.latency),
        **{name: getattr(value, name) for name in COUNTERS},
    )


def latency_of(histogram: bytes) -> tuple[int, ...]:
    """The buckets of all processors, which stand one after the other, added up."""
    counts = struct.unpack(f"<{len(histogram) // 4}I", histogram)
    return tuple(sum(counts[bucket :: abi.LATENCY_BUCKETS]) for bucket in range(abi.LATENCY_BUCKETS))


def deciding_rule(key: abi.EdgeKey, policies: PolicyEntries) -> int:
    """The rule that lets the edge through now, the source's first, or that denies it. 0: none does any more."""
    sides = (
        _outcome(policies, key.source, key.destination, abi.Direction.EGRESS, key),
        _outcome(policies, key.destination, key.source, abi.Direction.INGRESS, key),
    )
    wanted_deny = key.verdict == abi.Verdict.DENY
    found = [value.rule for value in sides if value and (value.verdict == abi.Verdict.DENY) == wanted_deny]
    return found[0] if found else 0


def _outcome(
    policies: PolicyEntries, subject: int, peer: int, direction: int, key: abi.EdgeKey
) -> abi.PolicyValue | None:
    """As the datapath asks: the entry for the peer and the one for every peer, the stronger of the two."""
    asked = [
        policies.get(abi.PolicyKey(abi.POLICY_PREFIX_EXACT, subject, who, direction, key.protocol, key.port))
        for who in (peer, 0)
    ]
    found = [value for value in asked if value]
    return max(found, key=lambda value: (value.precedence, value.verdict == abi.Verdict.DENY), default=None)
