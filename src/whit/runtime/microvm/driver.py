"""The driver of microVMs: what is an instance's container elsewhere is the container of its virtual machine here.

So monitor, log, exit status, signals, limits, adoption and removal are those of every container: conmon keeps `machine`
(init/host/machine.c), which prints what the guest's process prints and ends as it does. A command is added by adding a
process to that container which talks to `machine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from whit.base.errors import NotFound
from whit.base.settings import Settings
from whit.kernel import cgroup
from whit.kernel.mount import MountOverlay
from whit.kernel.network import sockets
from whit.kernel.network.sockets import Place
from whit.model.instance import ExitRecord, InstanceSpec
from whit.model.operation import Operation
from whit.runtime import oci
from whit.runtime.bundle import oci_config, rootfs, users
from whit.runtime.bundle.host import HostFacts
from whit.runtime.bundle.volumes import SeedVolumes, volumes_of
from whit.runtime.driver import Found
from whit.runtime.layout import Layout
from whit.runtime.microvm import bundle as machine_bundle
from whit.runtime.microvm import records
from whit.runtime.microvm.control import Frame
from whit.runtime.microvm.operations import (
    BeginProcess,
    ConnectTap,
    GuestSource,
    MakeDisk,
    WaitForGuest,
    WriteMachine,
    line_to,
)
from whit.runtime.microvm.places import placed
from whit.runtime.microvm.snapshot import Restore, Save
from whit.runtime.microvm.twin import CopyMachine, Settle
from whit.runtime.oci import OciDriver
from whit.runtime.operations import (
    ClaimName,
    CreateContainer,
    NetworkFiles,
    WriteNetworkFiles,
)
from whit.runtime.supervision import execute, health
from whit.runtime.supervision.health import CheckResult
from whit.tools import qemu, virtiofsd


@dataclass(frozen=True)
class MicrovmDriver:
    """Virtual machines of one agent on this machine."""

    containers: OciDriver
    guests: GuestSource
    runtime: str

    @classmethod
    async def open(cls, containers: OciDriver, guests: GuestSource) -> MicrovmDriver:
        """Raises Unavailable if QEMU or virtiofsd is not installed."""
        virtiofsd.binary()
        return cls(containers, guests, f"qemu {'.'.join(map(str, await qemu.version()))}")

    @property
    def has_own_kernel(self) -> bool:
        return True

    @property
    def undisturbed(self) -> float:
        return 0.0

    @property
    def shows_all_sockets(self) -> bool:
        return True

    @property
    def snapshots(self) -> MicrovmDriver:
        return self

    @property
    def settings(self) -> Settings:
        return self.containers.settings

    @property
    def host(self) -> HostFacts:
        return self.containers.host

    def plan_start(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        layout = self.layout(spec.name)
        seed = [SeedVolumes(layout, spec)] if volumes_of(spec, layout) else []
        return [
            ClaimName(layout, spec),
            rootfs.MakeWritableLayer(layout),
            MountOverlay(layout.rootfs, spec.image.layers, layout.upper, layout.work),
            *seed,
            *([MakeDisk(layout, spec)] if spec.detached else []),
            ConnectTap(layout, spec),
            WriteNetworkFiles(layout, spec, files),
            *self._create(spec, restarts=0),
            *self.containers.plan_begin(spec),
        ]

    def plan_lay_out(self, spec: InstanceSpec, files: NetworkFiles) -> list[Operation]:
        return [*self.containers.plan_forget(spec.name), WriteNetworkFiles(self.layout(spec.name), spec, files)]

    def plan_restart(
        self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int, laid_out: bool = False
    ) -> list[Operation]:
        before = [] if laid_out else self.plan_lay_out(spec, files)
        return [*before, *self._create(spec, restarts=restarts), *self.containers.plan_begin(spec)]

    def plan_prepare(self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int) -> list[Operation]:
        """The guest boots: that is what takes long, and it holds as much memory as one that stands still."""
        return [
            *self.plan_lay_out(spec, files),
            *self._create(spec, restarts=restarts, how="wait"),
            *self.containers.plan_begin(spec),
            WaitForGuest(self.containers, spec.name),
        ]

    def plan_save(self, name: str) -> list[Operation]:
        """From one that runs, and is detached, to one in a file."""
        return [Save(self.layout(name), self.containers, self.runtime), *self.containers.plan_forget(name)]

    def plan_restore(self, spec: InstanceSpec, files: NetworkFiles, *, restarts: int) -> list[Operation]:
        """The way back. Raises WhitError when carried out if the file cannot be used: it is to be started anew."""
        layout = self.layout(spec.name)
        return [
            *self.plan_lay_out(spec, files),
            *self._create(spec, restarts=restarts, how="resume"),
            *self.containers.plan_begin(spec),
            Restore(layout, self.containers, self.runtime),
        ]

    def plan_twin(self, spec: InstanceSpec, files: NetworkFiles, origin: InstanceSpec) -> list[Operation]:
        """From nothing to an instance that goes on where another replica of its service, which sleeps in a file, stood.

        Raises WhitError when carried out if that cannot be had: it is to be started then.
        """
        layout = self.layout(spec.name)

        def identity() -> list[str]:
            mounts = placed(layout.rootfs, oci_config.mounts(spec, layout))
            return records.of_twin(spec, layout, origin, mounts)

        return [
            ClaimName(layout, spec),
            rootfs.MakeWritableLayer(layout),
            MountOverlay(layout.rootfs, spec.image.layers, layout.upper, layout.work),
            CopyMachine(layout, spec, self.layout(origin.name)),
            ConnectTap(layout, spec),
            WriteNetworkFiles(layout, spec, files),
            *self._create(spec, restarts=0, how="resume"),
            *self.containers.plan_begin(spec),
            Restore(layout, self.containers, self.runtime, identity),
            Settle(layout),
        ]

    def plan_begin(self, spec: InstanceSpec) -> list[Operation]:
        return [BeginProcess(self.containers, spec.name)]

    def _create(self, spec: InstanceSpec, *, restarts: int, how: machine_bundle.How = "run") -> list[Operation]:
        layout = self.layout(spec.name)
        return [
            WriteMachine(layout, spec, self.host, self.guests, how),
            cgroup.CreateCgroup(layout.cgroup),
            CreateContainer(layout, spec, self.host, restarts, self.runtime),
        ]

    def plan_stop(self, name: str, signal: str, grace: float) -> list[Operation]:
        return self.containers.plan_stop(name, signal, grace)

    def plan_remove(self, name: str, *, keep_log: bool = False) -> list[Operation]:
        return self.containers.plan_remove(name, keep_log=keep_log)

    async def pause(self, name: str) -> None:
        """The machine, and all that serves it."""
        await self.containers.pause(name)

    def resume(self, name: str) -> None:
        self.containers.resume(name)

    async def adopt(self, names: Sequence[str]) -> list[Found]:
        return await oci.adopt(self.settings, self.host, names)

    def leftovers(self) -> set[str]:
        """What a container leaves is all that there is."""
        return set()

    async def exit_of(self, name: str) -> ExitRecord:
        return await self.containers.exit_of(name)

    def pid_of(self, name: str) -> int | None:
        return self.containers.pid_of(name)

    async def listening(self, name: str) -> set[Place]:
        try:
            async with line_to(self.containers, name) as line:
                return sockets.shown((await line.ask(Frame.LISTENERS)).decode(errors="replace"))
        except NotFound:
            return set()

    def execute(self, name: str, request: execute.ExecRequest) -> AbstractAsyncContextManager[execute.Session]:
        return execute.session(self.layout(name), self.host, request, described)

    async def check(self, name: str, command: tuple[str, ...], timeout: float) -> CheckResult:
        request = execute.ExecRequest(command)
        result = await execute.run(self.layout(name), self.host, request, timeout=timeout, described=described)
        return health.finding(result.code, result.output, timeout)

    def layout(self, name: str) -> Layout:
        return self.containers.layout(name)


def described(layout: Layout, host: HostFacts, request: execute.ExecRequest, identity: str) -> dict[str, Any]:
    """A process beside the machine, which has the command run in the guest. The mark stands in its environment."""
    spec = execute.read_spec(layout)
    owner = users.find(request.user or spec.user, layout.rootfs, spec.service)
    changed = spec.model_copy(
        update={"env": {**spec.env, **request.env}, "working_dir": request.cwd or spec.working_dir}
    )
    terminal = request.terminal is not None
    inside = oci_config.process(changed, host, owner, args=request.args, terminal=terminal)
    size = [f"terminal={request.terminal[0]}:{request.terminal[1]}"] if request.terminal else []
    words = ["/machine", "exec", *records.of_process(inside), *size]
    return machine_bundle.process(host, words, env=[f"{execute.MARK}={identity}"], terminal=terminal)
