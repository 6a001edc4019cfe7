"""Surface: what an instance can get at, and so what whoever takes it over could attack."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.base import Observed
from whit.model.service import Isolation

KernelOwner = Literal["host", "gVisor", "own"]


class Reach(Observed):
    """Peers that a first packet gets to, or that it comes from, as policy stands."""

    peer: str = Field(description="Service, entity, or set of networks or names; `everybody` without exception.")
    ports: tuple[str, ...] = Field(description="As tcp/5432, udp/1000-2000, or any.")


class Surface(Observed):
    """What was given to an instance at its start, and whom policy lets it talk to now."""

    instance: str
    isolation: Isolation
    runtime: str = Field(description="The program that keeps it apart, as `runc 1.1.5`.")
    kernel: KernelOwner = Field(description="Whose kernel answers the system calls of its processes.")
    kernel_version: str
    user: str = Field(description="Of its first process: number, or number:group.")
    capabilities: tuple[str, ...] = Field(description="The most that any of its processes can have, in that kernel.")
    filter: str = Field(description="Before whom the system-call filter stands.")
    system_calls: tuple[str, ...] = Field(
        description="Those that the filter lets through, some of them only with conditions."
    )
    devices: tuple[str, ...] = Field(description="Device nodes that it can open.")
    machine_devices: tuple[str, ...] = Field(
        default=(), description="Devices of the machine that the program which keeps it apart can open."
    )
    writable: tuple[str, ...] = Field(description="Places that it can write to, with what lies behind each.")
    reaches: tuple[Reach, ...] = ()
    reached_by: tuple[Reach, ...] = ()
