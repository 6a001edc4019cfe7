"""Flow: one observed connection, drop, end or HTTP exchange, with the names of what the datapath knows as numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from whit.model.base import Observed

Verdict = Literal["allow", "deny", "audit", "redirect"]
Kind = Literal["flow", "end", "http"]


def _number(asked: object) -> object:
    """In an address of the API numbers are texts, which a Literal does not convert."""
    return int(asked) if isinstance(asked, str) and asked.isdecimal() else asked


Family = Annotated[Literal[0, 4, 6], BeforeValidator(_number)]
"""Of addresses; 0 is either."""


class Party(Observed):
    """One end of a flow."""

    address: str
    port: int
    identity: int
    name: str = Field(default="", description="app/service of the identity, or world, host, resolver.")
    dns: str = Field(default="", description="The name by which the other end had asked for this address.")


class Ended(Observed):
    """What a connection had been when it was over."""

    seconds: float
    packets: int = Field(description="From the source.")
    bytes: int
    reply_packets: int
    reply_bytes: int
    rtt_us: int = Field(default=0, description="Last measured; 0 is never.")
    retransmits: int = Field(default=0, description="Segments that were sent again, both ways.")
    reset: bool = Field(default=False, description="It ended by a reset; otherwise both sides had finished.")


class Exchange(Observed):
    """A request of HTTP/1 and its answer."""

    method: str
    path: str = Field(description="Without the query, and as far as the datapath looks: 64 bytes.")
    status: int
    latency_us: int = Field(description="From the request's first packet to the answer's.")


class Flow(Observed):
    time: datetime
    kind: Kind = Field(default="flow", description="flow: it began, or was dropped; end: it was closed; http.")
    source: Party
    destination: Party
    service: str = Field(default="", description="address:port that was asked for, if it was translated.")
    protocol: str
    verdict: Verdict
    reason: str = Field(default="", description="Name of the drop reason, as POLICY_INGRESS; empty if let through.")
    reason_text: str = ""
    rule: int = Field(default=0, description="The rule that decided.")
    rule_text: str = Field(default="", description="The rule in words, with where it came from.")
    hook: str = ""
    link: str = ""
    undeclared: bool = Field(default=False, description="Let through although nobody declared it.")
    end: Ended | None = Field(default=None, description="Of an end.")
    http: Exchange | None = Field(default=None, description="Of an HTTP exchange.")


class Hop(Observed):
    """One decision on the way of a packet."""

    step: str
    decision: str
    rule: int = 0
    rule_text: str = ""


class Explanation(Observed):
    """What would happen to a first packet, computed from the dumped maps."""

    source: Party
    destination: Party
    protocol: str
    verdict: Verdict
    reason: str = ""
    rule: int = 0
    rule_text: str = ""
    hops: tuple[Hop, ...] = ()


class TracedHop(Hop):
    """A decision that the datapath told of a packet that was sent."""

    back: bool = Field(default=False, description="Of an answer to it.")
    microseconds: float = Field(description="Since the first hop.")
    hook: str
    link: str
    source: str = Field(description="address:port, as the packet has it there.")
    destination: str


class Trace(Observed):
    """What became of a packet that was sent for this purpose."""

    source: Party
    destination: Party
    protocol: str
    outcome: Literal["answered", "delivered", "dropped", "lost"] = Field(
        description="An answer came back; it was handed on; the datapath dropped it; nothing was told of it."
    )
    reason: str = ""
    reason_text: str = ""
    rule: int = Field(default=0, description="Of the drop.")
    rule_text: str = ""
    hops: tuple[TracedHop, ...] = ()
