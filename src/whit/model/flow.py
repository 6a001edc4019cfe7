"""Flow: one observed connection or drop, with the names of what the datapath knows as numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from whit.model.base import Observed

Verdict = Literal["allow", "deny", "audit", "redirect"]


class Party(Observed):
    """One end of a flow."""

    address: str
    port: int
    identity: int
    name: str = Field(default="", description="app/service of the identity, or world, host, resolver.")


class Flow(Observed):
    time: datetime
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
