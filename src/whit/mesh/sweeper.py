"""Deletes flows that are over from the datapath's table, and counts those that are not.

Nothing depends on it: an entry that is over starts a new flow with its next packet, and a full table evicts the oldest.
But what is swept out needs no eviction, which is never quite fair, and the count tells how near to full the table is.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from dataclasses import dataclass, field

from whit.datapath import abi
from whit.datapath.maps import HashMap
from whit.mesh.policy.identities import NAME_SCOPE

_SECOND = 10**9
_TCP, _UDP = 6, 17
_ICMP = (1, 58)
_PIECE = 512
"""Entries between a look at them and their deletion: a tuple that is used again meanwhile loses its new entry."""


@dataclass(frozen=True)
class Timeouts:
    """After how many nanoseconds of silence a flow is over; as bpf/include/config.h has them."""

    tcp_syn: int = 60 * _SECOND
    tcp_established: int = 6 * 3600 * _SECOND
    tcp_closing: int = 10 * _SECOND
    udp: int = 60 * _SECOND
    udp_established: int = 180 * _SECOND
    icmp: int = 30 * _SECOND
    other: int = 180 * _SECOND

    def of(self, protocol: int, flags: int) -> int:
        established = flags & abi.FlowFlags.ESTABLISHED
        if protocol == _TCP:
            if flags & abi.FlowFlags.CLOSING:
                return self.tcp_closing
            return self.tcp_established if established else self.tcp_syn
        if protocol == _UDP:
            return self.udp_established if established else self.udp
        return self.icmp if protocol in _ICMP else self.other

    @property
    def shortest(self) -> int:
        return min(self.tcp_syn, self.tcp_closing, self.udp, self.icmp, self.other)


@dataclass
class Sweep:
    """What one sweep found."""

    entries: int = 0
    """That are left; a flow has two."""
    deleted: int = 0
    seconds: float = 0.0
    initiators: Counter[int] = field(default_factory=Counter)
    """Entries by the identity that began their flow."""
    named: set[int] = field(default_factory=set)
    """Identities of names of the DNS that flows lead to."""
    began: float = 0.0
    """Wall-clock time."""


def _places() -> tuple[struct.Struct, int]:
    """How to read last_seen_ns, flags, initiator and responder of each value; where the protocol stands in a key."""
    size, layout = abi.LAYOUT["flow_value"]
    where = {name: offset for name, offset, _ in layout}
    assert where["last_seen_ns"] == 0
    assert where["responder"] == where["initiator"] + 4
    gap, rest = where["initiator"] - where["flags"] - 2, size - where["initiator"] - 8
    reader = struct.Struct(f"<Q{where['flags'] - 8}xH{gap}xII{rest}x")
    return reader, next(offset for name, offset, _ in abi.LAYOUT["flow_key"][1] if name == "protocol")


_VALUE, _PROTOCOL = _places()


def sweep(flows: HashMap[abi.FlowKey, abi.FlowValue], timeouts: Timeouts) -> Sweep:
    """Some 0.5 us for an entry. For a thread: it gives way between pieces."""
    found, began = Sweep(began=time.time()), time.monotonic()
    for keys, values in flows.batches(_PIECE):
        now = time.monotonic_ns()
        over = [
            place
            for place, (protocol, (seen, flags, *_)) in enumerate(
                zip(keys[_PROTOCOL :: abi.FlowKey.SIZE], _VALUE.iter_unpack(values), strict=True)
            )
            if now - seen > timeouts.shortest and now - seen > timeouts.of(protocol, flags)
        ]
        size = abi.FlowKey.SIZE
        flows.delete_packed(b"".join(keys[place * size : (place + 1) * size] for place in over))
        ends = [(initiator, responder) for _, _, initiator, responder in _VALUE.iter_unpack(values)]
        found.initiators.update(initiator for initiator, _ in ends)
        found.named.update(responder for _, responder in ends if responder & 0xFF000000 == NAME_SCOPE)
        found.entries += len(keys) // size - len(over)
        found.deleted += len(over)
    found.seconds = time.monotonic() - began
    return found
