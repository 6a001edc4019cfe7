"""The driver of OCI runtimes: the plans that start, stop and remove an instance, and what a new agent finds.

Planners are pure; `OciDriver` binds them to one agent's settings and machine. Nothing is remembered here: the
instance's directory, the monitor's exit file, the runtime and the kernel say what is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from whit.base.settings import Settings
from whit.kernel import cgroup, freezer
from whit.kernel.mount import MountOverlay, unmount
from whit.kernel.network import sockets
from whit.kernel.network.sockets import Place
from whit.kernel.thread import in_thread
from whit.model.instance import REACHABLE, ExitRecord, InstanceSpec, InstanceStatus, State
from whit.model.operation import Operation, carry_out
from whit.runtime import programs
from whit.runtime.bundle import rootfs
from whit.runtime.bundle.host import HostFacts
from whit.runtime.bundle.volumes import SeedVolumes, volumes_of
from whit.runtime.driver import Found, read_spec
from whit.runtime.layout import TWIN, Layout
from whit.runtime.operations import (
    ClaimName,
    CreateContainer,
    NetworkFiles,
    Removal,
    StartContainer,
    StopContainer,
    WriteBundle,
    WriteNetworkFiles,
    remove_container,
)
from whit.runtime.sleeping import gate
from whit.runtime.sleeping.lookouts import Lookouts, PlaceLookout
from whit.runtime.sleeping.waiting import GoOn, StandStill
from whit.runtime.supervision import execute, health, logs, monitor
from whit.runtime.supervision.health import CheckResult
from whit.tools import conmon
from whit.tools.oci_runtime import ContainerState
from whit.tools.runsc import Runsc


def plan_start(spec: InstanceSpec, settings: Settings, host: HostFacts, files: NetworkFiles) -> list[Operation]:
    """From nothing to a running container with an empty writable layer. Its network namespace must exist."""
    layout = Layout(settings, spec.name)
    seed = [SeedVolumes(layout, spec)] if volumes_of(spec, layout) else []
    return [
        *host.runtime.preparation(),
        ClaimName(layout, spec),
        rootfs.MakeWritableLayer(layout),
        MountOverlay(layout.rootfs, spec.image.layers, layout.upper, layout.work),
        *seed,
        WriteNetworkFiles(layout, spec, files),
        WriteBundle(layout, spec, host),
        *_own_cgroup(layout, host),
        *_created_and_started(layout, spec, host),
    ]


def _created_and_started(layout: Layout, spec: InstanceSpec, host: HostFacts, restarts: int = 0) -> list[Operation]:
    if host.runtime.begins_at_once:
        return [CreateContainer(layout, spec, host, restarts, creating=lambda: host.runtime.beginning(spec.name))]
    return [CreateContainer(layout, spec, host, restarts), StartContainer(layout, spec, host)]


def _created(layout: Layout, spec: InstanceSpec, host: HostFacts, restarts: int) -> list[Operation]:
    """Of a sandbox all is there but its program, which waits behind a gate: to start it otherwise takes 100 ms."""
    runtime = host.runtime
    if not isinstance(runtime, Runsc) or not runtime.can_wait:
        return [CreateContainer(layout, spec, host, restarts)]

    def waiting() -> list[str]:
        return runtime.waiting(spec.name, programs.path("gate"), layout.gate)

    return [gate.MakeGate(layout.gate), CreateContainer(layout, spec, host, restarts, creating=waiting)]


def _own_cgroup(layout: Layout, host: HostFacts) -> list[Operation]:
    """In all hierarchies, also those that the runtime does not know."""
    if host.runtime.makes_cgroup:
        return [cgroup.KeepCgroup(layout.settings.cgroup)]
    return [cgroup.CreateCgroup(layout.cgroup)]


def plan_forget(layout: Layout, host: HostFacts) -> Operation:
    return Removal(f"forget the ended container {layout.name}", lambda: remove_container(layout, host))


def plan_lay_out(spec: InstanceSpec, settings: Settings, host: HostFacts, files: NetworkFiles) -> list[Operation]:
    """All that a restart is made of, but for its process."""
    layout = Layout(settings, spec.name)
    return [
        plan_forget(layout, host),
        WriteNetworkFiles(layout, spec, files),
        WriteBundle(layout, spec, host),
        *_own_cgroup(layout, host),
    ]


def plan_restart(
    spec: InstanceSpec, settings: Settings, host: HostFacts, files: NetworkFiles, *, restarts: int, laid_out: bool
) -> list[Operation]:
    """Start an instance that ended once more, with the writable layer and the log that it has. `restarts` counts this
    time too."""
    before = [] if laid_out else plan_lay_out(spec, settings, host, files)
    started = _created_and_started(Layout(settings, spec.name), spec, host, restarts)
    return [*host.runtime.preparation(), *before, *started]


def plan_prepare(
    spec: InstanceSpec, settings: Settings, host: HostFacts, files: NetworkFiles, *, restarts: int
) -> list[Operation]:
    """`plan_restart` up to the moment at which its program runs."""
    created = _created(Layout(settings, spec.name), spec, host, restarts)
    return [*host.runtime.preparation(), *plan_lay_out(spec, settings, host, files), *created]


def plan_stop(name: str, settings: Settings, host: HostFacts, signal: str, grace: float) -> list[Operation]:
    """End the instance; its exit status, log and files stay. `grace` in seconds."""
    return [StopContainer(Layout(settings, name), host, signal, grace)]


def plan_remove(name: str, settings: Settings, host: HostFacts, *, keep_log: bool = False) -> list[Operation]:
    """Take away whatever there is of the instance, also if it never started or was removed in part already."""
    layout = Layout(settings, name)
    log = [] if keep_log else [_remove_directory(layout.logs)]
    return [
        Removal(f"remove container {name}", lambda: remove_container(layout, host)),
        Removal(f"unmount {layout.rootfs}", lambda: in_thread(unmount, layout.rootfs)),
        _remove_directory(layout.disk),
        *log,
        _remove_directory(layout.bundle),
    ]


def _remove_directory(path: Path) -> Removal:
    return Removal(f"remove {path}", lambda: in_thread(rootfs.remove_tree, path))


async def adopt(settings: Settings, host: HostFacts, names: Sequence[str]) -> list[Found]:
    """What runs or ended of these while no agent lived.

    Commands that an earlier agent ran in instances are ended: nobody listens to them any more.
    """
    layouts = [Layout(settings, name) for name in names]
    if not host.runtime.answers_for_frozen:
        for layout in layouts:
            freezer.thaw(host.hierarchies, layout.cgroup)
    containers = await host.runtime.containers()
    found = [await _find(layout, host, containers.get(layout.name)) for layout in layouts]
    for layout in layouts:
        await execute.end_all(layout, host)
        for path in layout.execs.glob("*"):
            path.unlink(missing_ok=True)
    return found


def leftovers(settings: Settings, host: HostFacts) -> set[str]:
    """Names of which there is a trace but no bundle, as after a reboot: `plan_remove` takes the traces away."""
    places = [settings.state_dir / "instances", settings.logs_dir]
    places += [root / settings.cgroup.lstrip("/") for root in host.hierarchies.roots]
    names = {path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()}
    names |= host.runtime.names()
    return {name for name in names if not Layout(settings, name).bundle.exists()}


async def _find(layout: Layout, host: HostFacts, container: ContainerState | None) -> Found:
    spec = read_spec(layout)
    level = layout.sleeps_as() if spec is not None and spec.isolation == "microvm" else ""
    state, message, ended = await _condition(layout, host, container, level)
    if spec is None:
        message = f"what it was started from cannot be read; {message}".rstrip("; ")
    start = _start(layout)
    status = InstanceStatus(
        name=layout.name,
        app=spec.app if spec else "",
        service=spec.service if spec else "",
        isolation=spec.isolation if spec else "container",
        state=state if spec else "failed",
        health="starting" if spec and spec.healthcheck and state in REACHABLE else "none",
        address=spec.network.address if spec else "",
        address6=spec.network.address6 if spec else "",
        pid=container.pid if container and state in REACHABLE else None,
        image=spec.image.name if spec else "",
        started_at=datetime.fromisoformat(start["started_at"]) if "started_at" in start else None,
        exit_code=ended.code if ended else None,
        restarts=start.get("restarts", 0),
        message=message,
        runtime=start.get("runtime", ""),
        revision=spec.revision if spec else "",
    )
    return Found(status, spec, ended)


async def _condition(
    layout: Layout, host: HostFacts, container: ContainerState | None, level: str
) -> tuple[State, str, ExitRecord | None]:
    """Its state, why, and how it ended. `level`: of a machine that sleeps."""
    if level == TWIN:
        return "failed", "its start was cut short", None
    if level == "snapshot":
        # One that still runs was cut short over it, and stands still.
        return ("snapshot" if layout.snapshot_facts.exists() else "stopped"), "", None
    asleep = layout.asleep.exists()
    if logs.has_ended(layout):
        record = monitor.record(layout)
        return ("stopped" if asleep else "exited"), record.cause, record
    if container is None:
        return ("stopped", "", None) if asleep else ("failed", "its start was cut short", None)
    monitored = conmon.monitor_pid(layout.monitored) is not None
    if gate.is_shut(layout.gate):
        return ("created" if monitored else "stopped"), "", None
    if container.status in ("running", "paused") and monitored:
        if level == "created":
            return "created", "", None
        stands = container.status == "paused" or await in_thread(freezer.is_frozen, host.hierarchies, layout.cgroup)
        return ("frozen" if stands else "running"), "", None
    if container.status in ("creating", "created"):
        if not asleep:
            return "failed", "its start was cut short", None
        return ("created" if monitored and container.status == "created" else "stopped"), "", None
    # It ended a moment ago, or its monitor was killed: either way this does not take long.
    record = await monitor.exit_of(layout, host)
    return ("stopped" if asleep else "exited"), record.cause, record


def _start(layout: Layout) -> Mapping[str, Any]:
    try:
        document = json.loads(layout.start.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


@dataclass(frozen=True)
class OciDriver:
    """One OCI runtime of one agent on this machine."""

    settings: Settings
    host: HostFacts
    lookouts: Lookouts = field(default_factory=Lookouts, compare=False)

    @classmethod
    async def open(cls, settings: Settings) -> OciDriver:
        """The driver of containers. Raises Unavailable if no runtime works here."""
        return cls(settings, await HostFacts.read(settings))

    @property
    def runtime(self) -> str:
        return self.host.runtime.label

    @property
    def has_own_kernel(self) -> bool:
        return self.host.runtime.has_own_kernel

    @property
    def undisturbed(self) -> float:
        return self.host.runtime.undisturbed

    @property
    def shows_all_sockets(self) -> bool:
        """gVisor does not: see Runsc.listening."""
        return not isinstance(self.host.runtime, Runsc)

    @property
    def snapshots(self) -> None:
        return None

    def plan_start(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        return plan_start(spec, self.settings, self.host, files)

    def plan_lay_out(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        return plan_lay_out(spec, self.settings, self.host, files)

    def plan_restart(
        self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int, laid_out: bool = False
    ) -> list[Operation]:
        return plan_restart(spec, self.settings, self.host, files, restarts=restarts, laid_out=laid_out)

    def plan_prepare(self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int) -> list[Operation]:
        return [
            *plan_prepare(spec, self.settings, self.host, files, restarts=restarts),
            *self._plan_rest(spec.name),
        ]

    def _plan_rest(self, name: str) -> list[Operation]:
        """What is left to do about one that is prepared, by whichever agent comes."""
        runtime = self.host.runtime
        if not isinstance(runtime, Runsc) or not runtime.can_wait:
            return []
        return [PlaceLookout(self.lookouts, runtime, name), StandStill(self.layout(name), self.host.hierarchies)]

    def plan_forget(self, name: str) -> list[Operation]:
        return [plan_forget(self.layout(name), self.host)]

    def plan_begin(self, spec: InstanceSpec) -> list[Operation]:
        layout = self.layout(spec.name)
        begin: list[Operation] = [StartContainer(layout, spec, self.host)]
        return [GoOn(layout, self.host.hierarchies), *begin] if isinstance(self.host.runtime, Runsc) else begin

    def plan_stop(self, name: str, signal: str, grace: float) -> list[Operation]:
        return plan_stop(name, self.settings, self.host, signal, grace)

    def plan_remove(self, name: str, *, keep_log: bool = False) -> list[Operation]:
        return plan_remove(name, self.settings, self.host, keep_log=keep_log)

    async def pause(self, name: str) -> None:
        await in_thread(freezer.freeze, self.host.hierarchies, self.layout(name).cgroup)

    def resume(self, name: str) -> None:
        freezer.thaw(self.host.hierarchies, self.layout(name).cgroup)

    async def adopt(self, names: Sequence[str]) -> list[Found]:
        found = await adopt(self.settings, self.host, names)
        for one in found:
            if one.status.state == "created":
                await carry_out(self._plan_rest(one.status.name))
        return found

    def leftovers(self) -> set[str]:
        return leftovers(self.settings, self.host)

    async def exit_of(self, name: str) -> ExitRecord:
        return await monitor.exit_of(self.layout(name), self.host)

    def pid_of(self, name: str) -> int | None:
        return monitor.main_process(self.layout(name))

    async def listening(self, name: str) -> set[Place]:
        runtime = self.host.runtime
        if gate.is_shut(self.layout(name).gate):
            return set()
        if isinstance(runtime, Runsc):
            return await self.lookouts.listening(name, runtime)
        return sockets.listening(self.layout(name).netns)

    def execute(self, name: str, request: execute.ExecRequest) -> AbstractAsyncContextManager[execute.Session]:
        return execute.session(self.layout(name), self.host, request)

    async def check(self, name: str, command: tuple[str, ...], timeout: float) -> CheckResult:
        result = await execute.run(self.layout(name), self.host, execute.ExecRequest(command), timeout=timeout)
        return health.finding(result.code, result.output, timeout)

    def layout(self, name: str) -> Layout:
        return Layout(self.settings, name)
