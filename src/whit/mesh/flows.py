"""Flows: what the datapath tells of connections, with names instead of numbers, kept in a ring in memory.

The datapath never wakes anybody for a flow event; `pump` looks every 25 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from whit.datapath import abi
from whit.datapath.events import FlowEvents
from whit.mesh.identities import IdentityBook
from whit.mesh.rules import UNDECLARED
from whit.model.flow import Flow, Party

CAPACITY = 65_536
POLL_SECONDS = 0.025
_REASONS = {reason.value: reason for reason in abi.DropReason if reason}
_HOOKS = {hook.value: hook.name.lower().replace("_", "-") for hook in abi.Hook}
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


@dataclass
class Dictionary:
    """What numbers mean. Control replaces the fields as they change."""

    identities: IdentityBook = field(default_factory=IdentityBook)
    rules: dict[int, str] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)

    def rule(self, number: int) -> str:
        return self.rules.get(number, "") if number else ""


def flow_of(event: abi.FlowEvent, words: Dictionary, boot: datetime) -> Flow:
    """`boot`: the wall-clock time at which the monotonic clock was 0."""
    reason = _REASONS.get(event.reason)
    rule = deciding_rule(event)
    text = words.rule(rule)
    return Flow(
        time=boot + timedelta(microseconds=event.time_ns / 1000),
        source=_party(str(event.source), event.source_port, event.source_identity, words),
        destination=_party(str(event.destination), event.destination_port, event.destination_identity, words),
        service="" if event.service == event.destination else f"{event.service}:{event.service_port}",
        protocol=PROTOCOLS.get(event.protocol, str(event.protocol)),
        verdict=_verdict(event),
        reason=reason.name if reason else "",
        reason_text=abi.DROP_TEXTS[reason] if reason else "",
        rule=rule,
        rule_text=text,
        hook=_HOOKS.get(event.hook, str(event.hook)),
        link=words.links.get(event.ifindex, str(event.ifindex)),
        undeclared=event.verdict == abi.Verdict.ALLOW and UNDECLARED in text,
    )


def deciding_rule(event: abi.FlowEvent) -> int:
    """The one that denied; of a flow that both ends let through, the source's, or the destination's if it has none."""
    if event.reason == abi.DropReason.POLICY_INGRESS:
        return event.ingress_rule
    if event.reason == abi.DropReason.POLICY_EGRESS:
        return event.egress_rule
    return event.egress_rule or event.ingress_rule


def _verdict(event: abi.FlowEvent) -> str:
    if event.verdict == abi.Verdict.DENY:
        return "deny"
    if event.flags & abi.PolicyFlags.AUDIT:
        return "audit"
    return "redirect" if event.verdict == abi.Verdict.REDIRECT else "allow"


def _party(address: str, port: int, identity: int, words: Dictionary) -> Party:
    return Party(
        address=address, port=port, identity=identity, name=words.identities.name(identity) if identity else ""
    )


class FlowLog:
    """The last flows, and those to come."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.flows: deque[Flow] = deque(maxlen=capacity)
        self.words = Dictionary()
        self.boot = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        self._followers: set[asyncio.Queue[Flow]] = set()

    def collect(self, events: FlowEvents) -> int:
        """Take what the ring holds. Returns how many."""
        count = 0
        for event in events.poll():
            self.add(flow_of(event, self.words, self.boot))
            count += 1
        return count

    def add(self, flow: Flow) -> None:
        self.flows.append(flow)
        for follower in self._followers:
            if not follower.full():
                follower.put_nowait(flow)

    async def pump(self, events: FlowEvents) -> None:
        """Collect for ever."""
        while True:
            self.collect(events)
            await asyncio.sleep(POLL_SECONDS)

    def past(self, wanted: Callable[[Flow], bool]) -> Iterator[Flow]:
        return (flow for flow in list(self.flows) if wanted(flow))

    async def follow(self, wanted: Callable[[Flow], bool]) -> AsyncIterator[Flow]:
        """Those to come, until closed. A reader that is too slow misses some."""
        queue: asyncio.Queue[Flow] = asyncio.Queue(maxsize=4096)
        self._followers.add(queue)
        try:
            while True:
                flow = await queue.get()
                if wanted(flow):
                    yield flow
        finally:
            self._followers.discard(queue)
