"""Flows: what the datapath tells of connections, kept in a ring in memory, and read with names instead of numbers.

The datapath never wakes anybody for a flow event; `pump` looks every 25 ms. What is kept are the events as they came,
130 bytes each: identities and rule ids are never given to others, so they can be named when somebody asks.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.events import RingReader
from whit.mesh.identities import IdentityBook
from whit.mesh.rules import UNDECLARED
from whit.model.flow import Flow, Party, Verdict

CAPACITY = 65_536
POLL_SECONDS = 0.025
FOLLOWER_ROOM = 4096
_REASONS = {reason.value: reason for reason in abi.DropReason if reason}
_HOOKS = {hook.value: hook.name.lower().replace("_", "-") for hook in abi.Hook}
_OWN_LINK = re.compile(r"w-[a-z0-9]+-(\d+)")
_IFINDEX = struct.Struct("=I")
_IFINDEX_OFFSET = next(offset for name, offset, _ in abi.LAYOUT["flow_event"][1] if name == "ifindex")
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


@dataclass
class Dictionary:
    """What numbers mean. Control replaces the fields as they change."""

    identities: IdentityBook = field(default_factory=IdentityBook)
    rules: dict[int, str] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)
    """Instances by endpoint number, which their links are named for."""

    def rule(self, number: int) -> str:
        return self.rules.get(number, "") if number else ""

    def link(self, name: str) -> str:
        """The instance at the end of a link of ours; the link's own name for others."""
        found = _OWN_LINK.fullmatch(name)
        return self.links.get(int(found[1]), name) if found else name


def flow_of(event: abi.FlowEvent, words: Dictionary, boot: datetime, links: Mapping[int, str]) -> Flow:
    """`boot`: the wall-clock time at which the monotonic clock was 0. `links`: names by index."""
    reason = _REASONS.get(event.reason)
    rule = deciding_rule(event)
    text = words.rule(rule)
    # Not validated: these are our own numbers and names, and a person may ask for 65,536 flows at once.
    return Flow.model_construct(
        time=boot + timedelta(microseconds=event.time_ns / 1000),
        source=_party(event.source, event.source_port, event.source_identity, words),
        destination=_party(event.destination, event.destination_port, event.destination_identity, words),
        service="" if event.service == event.destination else f"{event.service}:{event.service_port}",
        protocol=PROTOCOLS.get(event.protocol, str(event.protocol)),
        verdict=_verdict(event),
        reason=reason.name if reason else "" if not event.reason else f"reason {event.reason}",
        reason_text=abi.DROP_TEXTS[reason] if reason else "",
        rule=rule,
        rule_text=text,
        hook=_HOOKS.get(event.hook, str(event.hook)),
        link=words.link(links.get(event.ifindex, str(event.ifindex))),
        undeclared=event.verdict == abi.Verdict.ALLOW and UNDECLARED in text,
    )


def deciding_rule(event: abi.FlowEvent) -> int:
    """The one that denied; of a flow that both ends let through, the source's, or the destination's if it has none."""
    if event.reason == abi.DropReason.POLICY_INGRESS:
        return event.ingress_rule
    if event.reason == abi.DropReason.POLICY_EGRESS:
        return event.egress_rule
    return event.egress_rule or event.ingress_rule


def _verdict(event: abi.FlowEvent) -> Verdict:
    if event.verdict == abi.Verdict.DENY:
        return "deny"
    if event.flags & abi.PolicyFlags.AUDIT:
        return "audit"
    return "redirect" if event.verdict == abi.Verdict.REDIRECT else "allow"


def _party(address: Address, port: int, identity: int, words: Dictionary) -> Party:
    name = words.identities.name(identity) if identity else ""
    return Party.model_construct(address=str(address), port=port, identity=identity, name=name)


class FlowLog:
    """The last flows, and those to come."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.words = Dictionary()
        self.boot = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        self._records: deque[bytes] = deque(maxlen=capacity)
        self._links: dict[int, str] = {}
        self._followers: set[asyncio.Queue[bytes]] = set()

    def __len__(self) -> int:
        return len(self._records)

    def collect(self, events: RingReader) -> int:
        """Take what the ring holds. Returns how many."""
        records = events.read()
        self.add(records)
        return len(records)

    def add(self, records: list[bytes]) -> None:
        """Events as they lie in the ring."""
        self._records.extend(records)
        self._name_links(records)
        for follower in self._followers:
            for record in records[: follower.maxsize - follower.qsize()]:
                follower.put_nowait(record)

    async def pump(self, events: RingReader) -> None:
        """Collect for ever."""
        while True:
            self.collect(events)
            await asyncio.sleep(POLL_SECONDS)

    def past(self, wanted: Callable[[Flow], bool], limit: int = 0) -> list[Flow]:
        """The flows that are wanted, oldest first: all, or the last `limit` of them.

        Takes some 15 µs for each that is looked at: a second for a full ring. May be called in another thread.
        """
        found: deque[Flow] = deque()
        for record in reversed(tuple(self._records)):
            flow = self._flow(record)
            if wanted(flow):
                found.appendleft(flow)
                if len(found) == limit:
                    break
        return list(found)

    async def follow(self, wanted: Callable[[Flow], bool]) -> AsyncIterator[Flow]:
        """Those to come, until closed. A reader that is too slow misses some."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=FOLLOWER_ROOM)
        self._followers.add(queue)
        try:
            while True:
                flow = self._flow(await queue.get())
                if wanted(flow):
                    yield flow
        finally:
            self._followers.discard(queue)

    def _flow(self, record: bytes) -> Flow:
        return flow_of(abi.FlowEvent.unpack(record), self.words, self.boot, self._links)

    def _name_links(self, records: list[bytes]) -> None:
        """While they are there: an index is not given to another link before all others have been used."""
        for index in {_IFINDEX.unpack_from(record, _IFINDEX_OFFSET)[0] for record in records} - self._links.keys():
            try:
                self._links[index] = socket.if_indextoname(index)
            except OSError:
                self._links[index] = str(index)
