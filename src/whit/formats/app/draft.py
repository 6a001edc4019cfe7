"""Draft: a service while its keys are read, with the place of what other services and the app are checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from whit.base.errors import InputError, Place
from whit.formats.problems import Problems
from whit.model.app import Mode
from whit.model.service import DependencySpec, HealthSpec, MountSpec, PortSpec, UseSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Placed(Generic[T]):
    value: T
    place: Place


@dataclass(frozen=True)
class Source:
    """What the file itself gives to its readers."""

    directory: Path
    mode: Mode
    environment: Mapping[str, str]
    """Variables for interpolation, and for `environment` without a value."""
    problems: Problems
    places: dict[str, str] = field(default_factory=dict)
    """File and line of what has been read."""


@dataclass
class Draft:
    """`fields` are those of ServiceSpec that need no check against the rest of the file."""

    name: str
    place: Place
    source: Source
    fields: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ports: list[Placed[PortSpec]] = field(default_factory=list)
    mounts: list[Placed[MountSpec]] = field(default_factory=list)
    uses: list[Placed[UseSpec]] = field(default_factory=list)
    networks: list[Placed[str]] = field(default_factory=list)
    depends_on: dict[str, Placed[DependencySpec]] = field(default_factory=dict)
    limits: dict[str, Placed[float]] = field(default_factory=dict)
    healthcheck: HealthSpec | None = None

    def set(self, name: str, value: object, place: Place) -> None:
        self.fields[name] = value
        self.places[name] = place

    def limit(self, name: str, value: float, place: Place) -> None:
        """Raises InputError if the limit is given twice and differs."""
        known = self.limits.setdefault(name, Placed(value, place))
        if known.value != value:
            raise InputError(f"differs from {known.place.key}", place=place, hint="keep one of the two")


def places_of(draft: Draft) -> dict[str, str]:
    """File and line of the service, of what it uses and of what it publishes."""
    found = {draft.name: draft.place}
    found |= {f"{draft.name}.uses[{number}]": one.place for number, one in enumerate(draft.uses)}
    found |= {f"{draft.name}.ports[{number}]": one.place for number, one in enumerate(draft.ports)}
    return {key: f"{place.file}:{place.line}" for key, place in found.items()}
