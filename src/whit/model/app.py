"""App: one file, named services with what they use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.model.base import Noun
from whit.model.policy import PolicySpec
from whit.model.service import ServiceSpec
from whit.model.trust import TrustRule

NAME = r"^[a-z][a-z0-9-]{0,38}$"
"""Names of apps and services: they become DNS labels and parts of paths."""

Mode = Literal["declared", "open"]
DEFAULT_NETWORK = "default"
"""Of services that name none."""


class VolumeSpec(Noun):
    """A named volume. It survives `whit down`; `whit down --volumes` removes it."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels, kept as they are.")


class AppNetworkSpec(Noun):
    """Services that share one may talk: in an open app without more, in a declared one where one uses the other."""

    internal: bool = Field(default=False, description="It does not lead to the world.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, kept as they are.")


class AppSpec(Noun):
    """What a person wants to run."""

    name: str = Field(pattern=NAME, description="The app's name.")
    mode: Mode = Field(default="declared", description="declared: default-deny both ways. open: as Compose has it.")
    directory: Path = Field(description="Relative paths in the file start here.")
    services: dict[str, ServiceSpec] = Field(min_length=1, description="The services by name.")
    volumes: dict[str, VolumeSpec] = Field(default_factory=dict, description="Named volumes.")
    networks: dict[str, AppNetworkSpec] = Field(default_factory=dict, description="Networks by name.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the app, which policies select.")
    policies: tuple[PolicySpec, ...] = Field(default=(), description="Policies of the app's services.")
    trust: tuple[TrustRule, ...] = Field(default=(), description="Who has to vouch for which images.")

    @cached_property
    def _has_networks(self) -> bool:
        return bool(self.networks) or any(one.networks for one in self.services.values())

    def networks_of(self, service: str) -> tuple[str, ...]:
        """The networks that a service is in; none if the app has none, so that they part nobody."""
        if not self._has_networks:
            return ()
        return self.services[service].networks or (DEFAULT_NETWORK,)

    def is_internal(self, service: str) -> bool:
        """Whether all networks that the service is in are internal."""
        names = self.networks_of(service)
        return bool(names) and all(name in self.networks and self.networks[name].internal for name in names)
