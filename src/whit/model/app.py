"""App: one file, named services with what they use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.model.base import Noun
from whit.model.policy import PolicySpec
from whit.model.service import ServiceSpec

NAME = r"^[a-z][a-z0-9-]{0,38}$"
"""Names of apps and services: they become DNS labels and parts of paths."""

Mode = Literal["declared", "open"]


class VolumeSpec(Noun):
    """A named volume. It survives `whit down`; `whit down --volumes` removes it."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels, kept as they are.")


class AppSpec(Noun):
    """What a person wants to run."""

    name: str = Field(pattern=NAME, description="The app's name.")
    mode: Mode = Field(default="declared", description="declared: default-deny both ways. open: as Compose has it.")
    directory: Path = Field(description="Relative paths in the file start here.")
    services: dict[str, ServiceSpec] = Field(min_length=1, description="The services by name.")
    volumes: dict[str, VolumeSpec] = Field(default_factory=dict, description="Named volumes.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the app, which policies select.")
    policies: tuple[PolicySpec, ...] = Field(default=(), description="Policies of the app's services.")
