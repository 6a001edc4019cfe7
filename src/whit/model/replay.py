"""Replay: what other policies would have done to the flows that were recorded."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from whit.model.base import Observed
from whit.model.flow import Verdict


class Change(Observed):
    """Flows of one kind, of which the verdict would be another."""

    source: str = Field(description="app/service, host, or an address of the world.")
    destination: str
    protocol: str
    port: int = Field(description="Of ICMP, type * 256 + code.")
    now: Verdict = Field(description="What is said of it as things are.")
    then: Verdict = Field(description="What would be said.")
    now_rule: str = ""
    then_rule: str = ""
    count: int = Field(description="How often it was seen.")
    first: datetime
    last: datetime
    recorded: dict[Verdict, int] = Field(description="The verdicts as they were recorded, each with how often.")


class Replay(Observed):
    changes: tuple[Change, ...]
    flows: int = Field(description="Records that were looked at.")
    distinct: int = Field(description="Kinds of flows: who, whom, protocol and port.")
    gone: int = Field(description="Kinds that were not judged: one end would be no service of any app.")
    skipped: int = Field(
        default=0, description="Records left out: dropped for another reason than policy, or too many."
    )
    since: datetime | None = Field(default=None, description="Of the oldest record that was looked at.")
