"""Finding: what is doubtful about a policy before it is applied. Candidate: what is to be looked at."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.app import AppSpec
from whit.model.base import Noun, Observed
from whit.model.policy import PolicySpec

FindingKind = Literal["shadowed", "redundant", "dns-blocked", "unreachable", "selects-nothing", "no-listener"]
Severity = Literal["problem", "remark"]


class Candidate(Noun):
    """Apps and policies that take the place of those with the same name, or come beside them."""

    apps: tuple[AppSpec, ...] = Field(default=(), description="Whole apps, with their policies.")
    policies: tuple[PolicySpec, ...] = Field(default=(), description="Policies by themselves.")
    places: dict[str, str] = Field(
        default_factory=dict, description="File and line by `shop/web`, `shop/web.uses[0]` and `shop/web.ports[0]`."
    )


class Finding(Observed):
    """One of them."""

    kind: FindingKind
    severity: Severity = Field(description="problem: it does not do what it says; remark: it may be meant so.")
    place: str = Field(description="File and line; empty for what no file says.")
    rule: str = Field(description="The rule, policy or service that it is about.")
    text: str = Field(description="What is found, and by which other rule it is so.")
