"""Flow: one observed connection, drop, end or HTTP exchange, with the names of what the datapath knows as numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from whit.model.base import Observed

Verdict = Literal["allow", "deny", "audit", "redirect"]
Kind = Literal["flow", "end", "http"]


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
