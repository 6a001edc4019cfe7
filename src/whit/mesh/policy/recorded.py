"""Recorded flows put together by who reached whom at what port, whatever the source's port and the replica. Pure.

Reading a full log takes seconds: the records are put together as they lie there, and only what is left is named.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows.naming import Context, said
from whit.mesh.policy.identities import SERVICE_SCOPE, scope_of
from whit.model.flow import Verdict

_RECORD = struct.Struct(abi.FlowEvent.FORMAT)
_KIND = next(offset for name, offset, _ in abi.LAYOUT["flow_event"][1] if name == "kind")
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
    """How often, with what verdicts, and from when to when, in seconds since 1970. `dns` is a name by which the
    destination was asked for."""

    began: float
    ended: float
    count: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    dns: str = ""

    @property
    def first(self) -> datetime:
        return datetime.fromtimestamp(self.began, UTC)

    @property
    def last(self) -> datetime:
        return datetime.fromtimestamp(self.ended, UTC)


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
    start = since.timestamp() if since else 0.0
    context, boot = None, 0.0
    for record, own in records:
        if len(record) != _RECORD.size or record[_KIND] != abi.EventKind.FLOW:
            continue
        if own is not context:
            context, boot = own, own.boot.timestamp()
        fields = _RECORD.unpack(record)
        at = boot + fields[0] / 1e9
        if at >= start:
            _take(found, fields, at, own)
    return found


def _take(found: Recorded, fields: tuple[Any, ...], at: float, context: Context) -> None:
    """One record, as struct flow_event has its fields. It is not made an event: there may be 650,000 of them."""
    (_, _, _, reason, _, source, destination, _, _, port, _, protocol) = fields[:12]
    (verdict, own, peer, _, _, _, flags, kind, code) = fields[12:]
    way = Way(
        own,
        peer,
        b"" if scope_of(own) == SERVICE_SCOPE else source,
        b"" if scope_of(peer) == SERVICE_SCOPE else destination,
        protocol,
        _asked(protocol, int.from_bytes(port, "big"), kind, code),
    )
    seen = found.ways.get(way)
    if reason not in OF_POLICY or (seen is None and len(found.ways) >= MOST_KINDS):
        found.skipped += 1
        return
    if seen is None:
        seen = found.ways[way] = Seen(at, at)
    found.flows += 1
    seen.count += 1
    seen.began, seen.ended = min(seen.began, at), max(seen.ended, at)
    seen.verdicts[said(verdict, flags)] += 1
    if way.destination_address and not seen.dns:
        seen.dns = context.asked.get(source + destination, "")


def _asked(protocol: int, port: int, kind: int, code: int) -> int:
    """What policy is asked about, as bpf/lib/event.h has it."""
    if protocol in ICMP:
        return kind << 8 | code
    return port if protocol in WITH_PORTS else 0


def address_of(packed: bytes) -> IPv4Address | IPv6Address:
    return Address(packed).ip
