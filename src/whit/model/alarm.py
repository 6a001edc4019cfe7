"""Alarm: something about the node that a person should look at before it hurts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.base import Observed


class Alarm(Observed):
    name: str = Field(description="Stable, as `map-full:policies`.")
    severity: Literal["warning", "critical"]
    text: str
    hint: str = ""
    users: tuple[str, ...] = Field(default=(), description="Who takes most, as `shop/web: 12000`.")


class Fill(Observed):
    """How full a map of the datapath is."""

    map: str
    entries: int
    room: int

    @property
    def share(self) -> float:
        return self.entries / self.room if self.room else 0.0
