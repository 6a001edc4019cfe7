"""Learned: what services of an app were seen to use, as they could declare it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from whit.model.base import Observed
from whit.model.service import UseSpec


class LearnedUse(Observed):
    """One line of `uses`."""

    use: UseSpec
    count: int = Field(description="How often it was seen.")
    last: datetime
    declared: bool = Field(description="Something that is declared covers it.")
    addresses: int = Field(default=1, description="Of the world: how many addresses it stands for.")


class LearnedService(Observed):
    uses: tuple[LearnedUse, ...] = ()
    unseen: tuple[UseSpec, ...] = Field(default=(), description="Declared, and never seen.")
    others: tuple[str, ...] = Field(default=(), description="What was seen, and `uses` cannot say.")


class Learned(Observed):
    app: str
    services: dict[str, LearnedService]
    flows: int = Field(description="Records that were looked at, of all apps.")
    since: datetime | None = Field(default=None, description="Of the oldest of them.")
