"""Recorded flows put together by who reached whom at what port, whatever the source's port and the replica. Pure.

Reading a full log takes seconds: the records are put together as they lie there, and only what is left is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.events import kind_of
from whit.mesh.identities import SERVICE_SCOPE, scope_of
from whit.mesh.naming import Context, verdict_of
from whit.model.flow import Verdict

MOST_KINDS = 65_536
"""Of different flows: an address of the world is one each."""
ICMP = (1, 58)
WITH_PORTS = (6, 17)
OF_POLICY = {0, abi.DropReason.POLICY_EGRESS, abi.DropReason.POLICY_INGRESS}


class Way(NamedTuple):
    """One kind of flow. Addresses are told of those who are no service: of a service any replica stands for it."""

    source: int
    destination: int
    source_address: bytes
    destination_address: bytes
    protocol: int
    port: int


@dataclass
class Seen:
    """How often, and with what verdicts. `dns` is a name by which the destination was asked for."""

    first: datetime
    last: datetime
    count: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    dns: str = ""


@dataclass
class Recorded:
    ways: dict[Way, Seen] = field(default_factory=dict)
    flows: int = 0
    skipped: int = 0

    @property
    def since(self) -> datetime | None:
        return min((seen.first for seen in self.ways.values()), default=None)


def gather(records: Iterable[tuple[bytes, Context]], since: datetime | None = None) -> Recorded:
    """Of all decisions about first packets since then. What was dropped for another reason than policy is left out."""
    found = Recorded()
    for event, context in _decisions(records):
        at = context.boot + timedelta(microseconds=event.time_ns / 1000)
        if since is not None and at < since:
            continue
        way = _way(event)
        seen = found.ways.get(way)
        if event.reason not in OF_POLICY or (seen is None and len(found.ways) >= MOST_KINDS):
            found.skipped += 1
            continue
        if seen is None:
            seen = found.ways[way] = Seen(at, at)
        found.flows += 1
        _count(seen, event, context, at)
    return found


def _decisions(records: Iterable[tuple[bytes, Context]]) -> Iterator[tuple[abi.FlowEvent, Context]]:
    for record, context in records:
        if kind_of(record) == abi.EventKind.FLOW and len(record) == abi.FlowEvent.SIZE:
            yield abi.FlowEvent.unpack(record), context


def _way(event: abi.FlowEvent) -> Way:
    return Way(
        event.source_identity,
        event.destination_identity,
        _outside(event.source_identity, event.source),
        _outside(event.destination_identity, event.destination),
        event.protocol,
        _policy_port(event),
    )


def _outside(identity: int, address: Address) -> bytes:
    return b"" if scope_of(identity) == SERVICE_SCOPE else address.packed


def _policy_port(event: abi.FlowEvent) -> int:
    """As bpf/lib/event.h has it."""
    if event.protocol in ICMP:
        return event.icmp_type << 8 | event.icmp_code
    return event.destination_port if event.protocol in WITH_PORTS else 0


def _count(seen: Seen, event: abi.FlowEvent, context: Context, at: datetime) -> None:
    seen.count += 1
    seen.first, seen.last = min(seen.first, at), max(seen.last, at)
    seen.verdicts[verdict_of(event)] += 1
    seen.dns = seen.dns or context.name_asked(event.source, event.destination)


def address_of(packed: bytes) -> IPv4Address | IPv6Address:
    return Address(packed).ip
