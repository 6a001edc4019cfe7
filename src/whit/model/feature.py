"""Feature: something that a machine can or cannot do, found by trying it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.base import Observed


class Feature(Observed):
    name: str = Field(description="As `TCX links`.")
    state: Literal["works", "degraded", "missing"]
    detail: str = Field(default="", description="Version, or how it is degraded.")
    hint: str = Field(default="", description="What to do if it is degraded or missing.")
    required: bool = Field(default=False, description="Nothing runs without it.")
