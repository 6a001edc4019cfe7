"""Service: a named, replicated workload of an app, as a person wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from whit.model.base import Noun, Numerous
from whit.model.build import BuildSpec
from whit.model.policy import dns_name, network

Protocol = Literal["tcp", "udp"]
Port = Annotated[int, Field(ge=1, le=65535)]
Isolation = Literal["container", "sandbox", "microvm"]
Idle = Literal["frozen", "created", "snapshot", "stopped"]
Algorithm = Literal["random", "maglev"]


class PortSpec(Numerous):
    """A port of the service, published on the node."""

    target: Port = Field(description="Port inside the instance.")
    published: Port = Field(description="Port on the node.")
    protocol: Protocol = Field(default="tcp", description="tcp or udp.")
    host_ip: str = Field(
        default="0.0.0.0",
        description="Address of the node; 0.0.0.0 is every one of both families, loopback too; :: every IPv6 one.",
    )
    name: str = Field(default="", description="By which policies may speak of the port inside the instance, as http.")


class ExposedPort(Noun):
    """A port that is not published, with the name by which policies may speak of it."""

    name: str = Field(default="", description="As http.")
    port: Port = Field(description="Port inside the instance.")
    protocol: Literal["tcp", "udp", "sctp"] = Field(default="tcp", description="tcp, udp or sctp.")


class MountSpec(Noun):
    """Something put into an instance's file system."""

    kind: Literal["volume", "bind", "tmpfs"] = Field(description="Named volume, path of the node, or memory.")
    source: str = Field(default="", description="Volume name or absolute path; empty for tmpfs.")
    target: str = Field(pattern="^/", description="Absolute path inside the instance.")
    read_only: bool = Field(default=False, description="Mounted read-only.")
    size: int | None = Field(default=None, gt=0, description="tmpfs: limit in bytes.")
    mode: int | None = Field(default=None, description="tmpfs: permission bits.")


class DependencySpec(Noun):
    """What must be true of another service before this one starts."""

    condition: Literal["service_started", "service_healthy", "service_completed_successfully"] = "service_started"


class HealthSpec(Noun):
    """A command run inside the instance; exit status 0 is healthy. Times in seconds."""

    test: tuple[str, ...] = Field(min_length=1, description="The command and its arguments.")
    interval: float = Field(default=30.0, gt=0, description="Between two checks.")
    timeout: float = Field(default=30.0, gt=0, description="A check that takes longer has failed.")
    retries: int = Field(default=3, ge=1, description="Failures in a row that make it unhealthy.")
    start_period: float = Field(default=0.0, ge=0, description="Failures do not count for this long.")
    start_interval: float = Field(default=5.0, gt=0, description="Between two checks within start_period.")


class RestartSpec(Numerous):
    """When an instance that ended is started again. Back-off doubles from 0.1 s to 60 s."""

    policy: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    max_attempts: int = Field(default=0, ge=0, description="on-failure: give up after so many; 0 never.")


class LimitsSpec(Numerous):
    """What an instance may consume."""

    memory: int | None = Field(default=None, ge=6 << 20, description="Bytes; at least 6 MiB.")
    cpus: float | None = Field(default=None, gt=0, description="CPUs, 0.5 is half of one.")
    pids: int | None = Field(default=None, ge=1, description="Processes and threads.")
    egress: int | None = Field(default=None, ge=1000, description="What it sends, in bytes a second.")


class ScaleSpec(Numerous):
    """How instances wait while nobody asks for them. The first packet wakes them; no connection is refused."""

    min: int = Field(default=0, ge=0, description="How many, the first ones, never sleep.")
    idle: Idle = Field(
        default="frozen",
        description="How the others wait. `frozen`: as they are, without running; `created`: ended, and made ready to "
        "start; `snapshot`: a microVM in a file; `stopped`: ended.",
    )
    after: float = Field(default=60.0, ge=0.1, description="Seconds without a packet, and without an open connection.")


class BalanceSpec(Numerous):
    """How a service's instances share what is asked of it."""

    algorithm: Algorithm = Field(
        default="random", description="random, or maglev: the same client port leads to the same instance."
    )
    affinity: int = Field(default=0, ge=0, le=86400 * 7, description="Seconds for which a client keeps its instance.")


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class EndpointSpec:
    """A backend that is no instance: a process of the node, or another machine. No Noun: there may be very many, and
    this takes a sixth of the memory."""

    address: str = Field(description="IPv4 or IPv6 address.")
    port: Port = Field(description="Its port, whatever was asked for.")
    weight: int = Field(default=1, ge=1, le=65535, description="Its share of new connections.")


class UseSpec(Numerous):
    """A peer that the service may reach: exactly one of service, cidr, dns and entity."""

    service: str | None = Field(default=None, description="A service of this app.")
    cidr: str | None = Field(default=None, description="A network, as 203.0.113.0/24 or 2001:db8::/32.")
    dns: str | None = Field(
        default=None, description="A name, as api.example.com, or `*.example.com`: all names that end so."
    )
    entity: Literal["world", "host"] | None = Field(default=None, description="Everything outside, or the node.")
    port: Port | None = Field(default=None, description="Every port if left out.")
    protocol: Protocol | None = Field(default=None, description="Every protocol if left out; tcp with a port.")

    @field_validator("cidr")
    @classmethod
    def _is_network(cls, text: str | None) -> str | None:
        return None if text is None else network(text)

    @field_validator("dns")
    @classmethod
    def _is_name(cls, text: str | None) -> str | None:
        return None if text is None else dns_name(text)

    @model_validator(mode="after")
    def _one_peer(self) -> UseSpec:
        if sum(peer is not None for peer in (self.service, self.cidr, self.dns, self.entity)) != 1:
            raise ValueError("names exactly one of service, cidr, dns and entity")
        return self

    @property
    def is_outside(self) -> bool:
        """Whether it may be beyond the mesh and the node."""
        return self.entity == "world" or self.cidr is not None or self.dns is not None

    def __str__(self) -> str:
        peer = self.service or self.cidr or self.dns or self.entity or ""
        port = f":{self.port}" if self.port else ""
        return f"{peer}{port}" + (f"/{self.protocol or 'tcp'}" if self.port or self.protocol else "")


class ServiceSpec(Numerous):
    """One service of an app. Exactly one of `image` and `build` says what runs."""

    image: str | None = Field(default=None, description="A stored image, oci:PATH, oci-archive:PATH, or a registry's.")
    build: BuildSpec | None = Field(default=None, description="Parts to link.")
    command: tuple[str, ...] | None = Field(default=None, description="Arguments; the image's if left out.")
    entrypoint: tuple[str, ...] | None = Field(default=None, description="Program; the image's if left out.")
    environment: dict[str, str] = Field(default_factory=dict, description="Environment variables.")
    ports: tuple[PortSpec, ...] = Field(default=(), description="Published ports; they admit the world.")
    expose: tuple[ExposedPort, ...] = Field(default=(), description="Ports that are not published, with their names.")
    mounts: tuple[MountSpec, ...] = Field(default=(), description="Volumes, bind mounts and tmpfs.")
    depends_on: dict[str, DependencySpec] = Field(default_factory=dict, description="Started after these.")
    healthcheck: HealthSpec | None = Field(default=None, description="How its health is known.")
    restart: RestartSpec = Field(default=RestartSpec(), description="When it is started again.")
    replicas: int = Field(default=1, ge=0, le=1000, description="How many instances.")
    limits: LimitsSpec = Field(default=LimitsSpec(), description="Memory, CPU and process limits.")
    user: str | None = Field(default=None, description="user[:group], names of the image or numbers.")
    working_dir: str | None = Field(default=None, pattern="^/", description="Absolute path inside the instance.")
    read_only: bool = Field(default=False, description="The root file system is read-only.")
    cap_add: tuple[str, ...] = Field(default=(), description="Capabilities added, as CAP_NET_ADMIN.")
    cap_drop: tuple[str, ...] = Field(default=(), description="Capabilities taken away; ALL takes all.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, kept as they are.")
    stop_signal: str | None = Field(default=None, description="As SIGTERM; the image's if left out.")
    stop_grace_period: float = Field(default=10.0, ge=0, description="Seconds before SIGKILL.")
    uses: tuple[UseSpec, ...] = Field(default=(), description="The declaration: what it may reach.")
    networks: tuple[str, ...] = Field(default=(), description="Networks of the app that it is in; `default` if none.")
    isolation: Isolation = Field(default="container", description="How an instance is kept apart.")
    balance: BalanceSpec = Field(default=BalanceSpec(), description="How its instances share the load.")
    scale: ScaleSpec | None = Field(default=None, description="What its instances do while nobody asks for them.")
    drain: float = Field(default=0.0, ge=0, description="Seconds for which connections may go on before it is stopped.")
    headless: bool = Field(default=False, description="Its name stands for its instances, not for a virtual address.")
    external_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$",
        description="A name elsewhere that its name stands for; nothing runs.",
    )
    endpoints: tuple[EndpointSpec, ...] = Field(default=(), description="Backends that are no instances; nothing runs.")

    @property
    def is_elsewhere(self) -> bool:
        """Nothing of it runs here."""
        return self.external_name is not None or bool(self.endpoints)

    @model_validator(mode="after")
    def _one_image(self) -> ServiceSpec:
        if self.is_elsewhere:
            if self.image is not None or self.build is not None:
                raise ValueError("is elsewhere (external_name, endpoints), so it has neither image nor build")
            if self.external_name is not None and self.endpoints:
                raise ValueError("has either external_name or endpoints")
        elif (self.image is None) == (self.build is None):
            raise ValueError("has exactly one of image and build")
        return self


def bind_directory(base: Path, path: str) -> str:
    """A path of the app file, made absolute from the file's directory."""
    return str((base / Path(path).expanduser()).resolve())
