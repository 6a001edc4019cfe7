"""Answers: which addresses an answer of the DNS gives for a name, for how long. Pure.

Only what the answer's own aliases lead to counts (RFC 1034, 3.6.2): what else is in a message is nobody's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dnslib import QTYPE, RCODE, DNSRecord

MOST_ALIASES = 16


@dataclass(frozen=True)
class Given:
    """What a name stands for."""

    name: str
    """As it was asked for, in lower case and without the dot at its end."""
    addresses: Mapping[str, int] = field(default_factory=dict)
    """Seconds to live by address: the least on the way to it."""
    alias: str = ""
    """The last name on the way, if it is another."""
    alias_ttl: int = 0


def given_by(reply: bytes) -> Given | None:
    """None if it is no answer, or cannot be read."""
    try:
        record = DNSRecord.parse(reply)
        if record.header.rcode != RCODE.NOERROR or len(record.questions) != 1:
            return None
        return _given(record)
    except Exception:  # dnslib raises whatever the broken message made it stumble over
        return None


def _given(record: DNSRecord) -> Given:
    asked = last = plain(str(record.q.qname))
    aliases = {plain(str(one.rname)): (plain(str(one.rdata)), one.ttl) for one in record.rr if one.rtype == QTYPE.CNAME}
    least = 1 << 31
    for _ in range(MOST_ALIASES):
        if last not in aliases:
            break
        last, ttl = aliases[last]
        least = min(least, ttl)
    addresses: dict[str, int] = {}
    for one in record.rr:
        if one.rtype in (QTYPE.A, QTYPE.AAAA) and plain(str(one.rname)) == last:
            addresses[str(one.rdata)] = min(least, one.ttl)
    is_alias = last != asked
    return Given(asked, addresses, last if is_alias else "", least if is_alias else 0)


def plain(name: str) -> str:
    return name.rstrip(".").lower()
