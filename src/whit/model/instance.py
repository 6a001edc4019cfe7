"""Instance: one running replica of a service. The spec is fully resolved: nothing in it needs to be looked up."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.model.base import Noun, Observed
from whit.model.image import Image
from whit.model.service import HealthSpec, Isolation, LimitsSpec, RestartSpec

State = Literal[
    "pending",
    "building",
    "running",
    "exited",
    "restarting",
    "failed",
    "frozen",
    "created",
    "snapshot",
    "stopped",
]
REACHABLE: frozenset[State] = frozenset(("running", "frozen", "created", "stopped", "snapshot"))
"""Takes what is sent to it, at once or once it is woken."""
Health = Literal["none", "starting", "healthy", "unhealthy"]


class ResolvedMount(Noun):
    """A mount whose source is a path of the node, or memory."""

    kind: Literal["bind", "tmpfs"]
    source: Path | None = None
    target: str
    read_only: bool = False
    size: int | None = None
    mode: int | None = None


class NetworkSpec(Noun):
    """What the mesh gave the instance."""

    number: int = Field(description="Endpoint number on this node; names the link.")
    address: str = Field(description="IPv4 address, without prefix length.")
    identity: int = Field(description="The service's identity.")
    service_address: str = Field(description="Virtual address of its service.")
    address6: str = Field(default="", description="IPv6 address; empty where the machine had no IPv6.")
    service_address6: str = Field(default="", description="Virtual IPv6 address of its service.")

    link: Literal["veth", "tap"] = Field(default="veth", description="tap: the instance is a guest with a kernel.")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of both families, IPv4 first."""
        return (self.address, self.address6) if self.address6 else (self.address,)


class InstanceSpec(Noun):
    """Everything needed to start one instance."""

    app: str
    service: str
    index: int = Field(ge=1, description="Replica, counted from 1.")
    image: Image
    args: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str]
    working_dir: str = "/"
    user: str = Field(default="", description="user[:group], names of the image or numbers; empty is root.")
    mounts: tuple[ResolvedMount, ...] = ()
    limits: LimitsSpec = LimitsSpec()
    read_only: bool = False
    capabilities: tuple[str, ...] = Field(default=(), description="The whole set, as CAP_CHOWN.")
    stop_signal: str = "SIGTERM"
    stop_grace_period: float = 10.0
    drain: float = 0.0
    healthcheck: HealthSpec | None = None
    restart: RestartSpec = RestartSpec()
    isolation: Isolation = "container"
    hostname: str
    labels: dict[str, str] = Field(default_factory=dict)
    listens: tuple[int, ...] = Field(default=(), description="TCP ports that its service is known to have.")
    detached: bool = Field(default=False, description="A microVM whose root is a disk of its own, not of the node.")
    network: NetworkSpec
    revision: str = Field(description="Digest of the wanted state; an instance of another revision is replaced.")

    @property
    def name(self) -> str:
        return f"{self.app}-{self.service}-{self.index}"


class InstanceStatus(Observed):
    """What is seen of an instance."""

    name: str
    app: str
    service: str
    state: State = "pending"
    health: Health = "none"
    isolation: Isolation = "container"
    address: str = ""
    address6: str = ""
    ports: tuple[str, ...] = ()
    pid: int | None = None
    image: str = ""
    started_at: datetime | None = None
    exit_code: int | None = None
    restarts: int = 0
    message: str = ""
    runtime: str = ""
    revision: str = ""


class ExitRecord(Observed):
    """How the main process of an instance ended, as its monitor wrote it down."""

    code: int | None = Field(description="Exit status; 128 + signal if a signal ended it; None if nobody saw it.")
    oom_killed: bool = False
    at: datetime | None = None
    cause: str = ""
