"""The seam between instances and what keeps them apart: what every driver offers. drivers.py knows which serves what.

A driver remembers nothing: the instance's directory (layout.py) and the machine say what is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from whit.kernel.network.sockets import Place
from whit.model.instance import ExitRecord, InstanceSpec, InstanceStatus
from whit.model.operation import Operation
from whit.runtime.layout import Layout
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision.channels import Stream
from whit.runtime.supervision.execute import ExecRequest
from whit.runtime.supervision.health import CheckResult


@dataclass(frozen=True)
class Found:
    """An instance that a new agent finds. Without a spec (its start was cut short, or another release wrote it) it can
    only be removed. `ended` says how it ended, if it has."""

    status: InstanceStatus
    spec: InstanceSpec | None
    ended: ExitRecord | None


class Session(Protocol):
    """A command that runs in an instance. See execute.Session."""

    async def write(self, data: bytes) -> None: ...

    async def end_input(self) -> None: ...

    def output(self) -> AsyncIterator[tuple[Stream, bytes]]: ...

    def resize(self, rows: int, columns: int) -> None: ...

    async def wait(self) -> int: ...

    async def kill(self) -> None: ...


class Snapshots(Protocol):
    """What a driver can do besides whose instances can be written to a file, and go on from there."""

    def plan_save(self, name: str) -> list[Operation]:
        """From one that runs, and is detached, to one in a file."""
        ...

    def plan_restore(self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int) -> list[Operation]:
        """The way back. Raises WhitError when carried out if the file cannot be used: it is to be started anew."""
        ...

    def plan_twin(self, spec: InstanceSpec, files: NetworkFiles, origin: InstanceSpec) -> list[Operation]:
        """From nothing to an instance that goes on where another replica of its service, which sleeps in a file, stood.

        Raises WhitError when carried out if that cannot be had: it is to be started then.
        """
        ...


class Driver(Protocol):
    """What it takes to serve an isolation. Planners are pure; each removal is content with what has gone already."""

    @property
    def runtime(self) -> str:
        """Program and version, as `runc 1.1.5`."""
        ...

    @property
    def has_own_kernel(self) -> bool:
        """Whether an instance has a kernel that is not the node's: then one that is prepared holds that kernel's
        memory, and the node cannot see in its network namespace who listens in it."""
        ...

    @property
    def undisturbed(self) -> float:
        """Seconds in which a program that begins is better not asked who listens: that would keep it from it."""
        ...

    @property
    def shows_all_sockets(self) -> bool:
        """Whether `listening` leaves out none; if it does, those are of UDP."""
        ...

    @property
    def snapshots(self) -> Snapshots | None:
        """None if instances cannot be written to a file."""
        ...

    def plan_start(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        """From nothing to a running instance. Its network namespace and link exist."""
        ...

    def plan_lay_out(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        """The first part of `plan_restart`, which may be done long before: what an end has left of its process goes,
        and what the next one is made of is there. Its files and its log stay."""
        ...

    def plan_restart(
        self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int, laid_out: bool = False
    ) -> list[Operation]:
        """Start one that ended once more, with what it wrote. `restarts` counts this one too. With `laid_out`, the rest
        of it alone."""
        ...

    def plan_prepare(self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int) -> list[Operation]:
        """`plan_restart` up to the moment at which its program runs."""
        ...

    def plan_begin(self, spec: InstanceSpec) -> list[Operation]:
        """Let the program of one that is prepared run."""
        ...

    def plan_stop(self, name: str, signal: str, grace: float) -> list[Operation]:
        """End it; exit status, log and files stay. `grace` in seconds."""
        ...

    def plan_remove(self, name: str, *, keep_log: bool = False) -> list[Operation]:
        """Take away whatever there is of it, in whatever state."""
        ...

    async def pause(self, name: str) -> None:
        """Let nothing of it run until `resume`; it keeps its memory, its files and its connections.

        Raises:
            Unavailable, TimedOut: that cannot be had here, or it did not stand still.
        """
        ...

    def resume(self, name: str) -> None:
        """Let it run. Waits for nobody; content if it was not paused."""
        ...

    async def adopt(self, names: Sequence[str]) -> list[Found]:
        """What became of these while no agent lived."""
        ...

    def leftovers(self) -> set[str]:
        """Names of which there is a trace but no bundle, as after a reboot."""
        ...

    async def exit_of(self, name: str) -> ExitRecord:
        """Wait for its end."""
        ...

    def pid_of(self, name: str) -> int | None:
        """The process of this machine that ends with it, if it lives."""
        ...

    async def listening(self, name: str) -> set[Place]:
        """Where somebody listens in it; nothing while it does not run. Raises WhitError if that cannot be seen."""
        ...

    def execute(self, name: str, request: ExecRequest) -> AbstractAsyncContextManager[Session]:
        """Run a command in it. Raises Conflict if it does not run."""
        ...

    async def check(self, name: str, command: tuple[str, ...], timeout: float) -> CheckResult:
        """One health check, for health.watch."""
        ...


def read_spec(layout: Layout) -> InstanceSpec | None:
    """What the instance was started from, if that can be read."""
    try:
        return InstanceSpec.model_validate_json(layout.spec.read_text())
    except (FileNotFoundError, ValidationError):
        return None
