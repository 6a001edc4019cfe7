"""Statuses of apps and services, as the agent sees them and the API gives them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from whit.model.alarm import Alarm
from whit.model.app import Mode
from whit.model.base import Observed
from whit.model.instance import Health, InstanceStatus, State

AppState = Literal["starting", "running", "degraded", "stopping", "stopped", "failed"]


class ServiceStatus(Observed):
    """A service and the sum of its instances."""

    app: str
    name: str
    state: State
    health: Health = "none"
    wanted: int
    running: int
    address: str = Field(default="", description="Virtual address.")
    address6: str = Field(default="", description="Virtual IPv6 address.")
    ports: tuple[str, ...] = Field(default=(), description="Published, as `0.0.0.0:8080->80/tcp`.")
    image: str = ""
    message: str = ""


class AppStatus(Observed):
    """An app and its services."""

    name: str
    mode: Mode
    state: AppState
    services: tuple[ServiceStatus, ...] = ()
    instances: tuple[InstanceStatus, ...] = ()


class AgentStatus(Observed):
    """Who answers on this socket."""

    id: str
    version: str
    pid: int
    pool: str = Field(default="", description="Addresses of the mesh on this node.")
    pool6: str = Field(default="", description="IPv6 addresses of the mesh on this node; empty without IPv6.")
    runtime: str = ""
    apps: int = 0
    alarms: tuple[Alarm, ...] = Field(default=(), description="What was wrong at the last look, half a minute ago.")
    drops: dict[str, int] = Field(default_factory=dict, description="Packets dropped in the last minute, by reason.")


class LogLine(Observed):
    """One line of an instance's output."""

    instance: str
    time: str = Field(description="RFC 3339, UTC, nanoseconds.")
    stream: Literal["stdout", "stderr"]
    text: str


class Problem(Observed):
    """An error as the API gives it (after RFC 9457)."""

    code: str = Field(description="Stable name, as `conflict`.")
    message: str
    hint: str = ""
    exit_code: int = Field(default=1, description="What the command line ends with.")


class StreamItem(Observed):
    """One line of a streamed answer: exactly one of progress, result and problem; result or problem is the last."""

    subject: str = ""
    step: str = ""
    done: bool = False
    failed: bool = False
    result: dict[str, Any] | None = None
    problem: Problem | None = None
