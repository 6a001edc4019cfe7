"""Instances of a tiny image out of busybox, without a mesh, an app or an agent."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from support.slowness import patient
from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.control.machines import guests
from whit.kernel import cgroup
from whit.kernel.network import netns
from whit.model.image import Image, ImageConfig
from whit.model.instance import ExitRecord, InstanceSpec, NetworkSpec
from whit.model.operation import carry_out
from whit.model.service import Isolation
from whit.runtime import programs
from whit.runtime.bundle import capabilities
from whit.runtime.bundle.host import HostFacts
from whit.runtime.driver import Found
from whit.runtime.exceptions import excepted
from whit.runtime.layout import Layout
from whit.runtime.microvm.driver import MicrovmDriver
from whit.runtime.oci import OciDriver
from whit.runtime.operations import NetworkFiles, WriteNetworkFiles
from whit.runtime.supervision import execute, logs, processes
from whit.tools import oci_runtime, runsc
from whit.tools.oci_runtime import Runtime

DriverName = Literal["crun", "runc", "runsc", "qemu"]
AnyDriver = OciDriver | MicrovmDriver
ISOLATIONS: dict[DriverName, Isolation] = {
    "crun": "container",
    "runc": "container",
    "runsc": "sandbox",
    "qemu": "microvm",
}
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:An app:/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:app,other\nmore:x:2001:app\nnogroup:x:65534:\n"


def make_rootfs(root: Path) -> Path:
    """busybox with all its names, users and the usual directories."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed; requirements/debian-test.txt names it"
    for name in ("bin", "etc", "home/app", "proc", "sys", "dev", "tmp", "root", "data"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "data" / "seed").write_text("from the image\n")
    shutil.chown(root / "data", 1000, 1000)
    shutil.copy(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


async def open_driver(settings: Settings, name: DriverName) -> AnyDriver:
    """The driver over this program. Raises Unavailable if it does not work here."""
    if name == "qemu":
        programs.build()
        return await MicrovmDriver.open(await OciDriver.open(settings), guests.obtain)
    if name == "runsc":
        host = await HostFacts.read(settings)
        return OciDriver(settings, replace(host, runtime=runsc.of(settings)))
    path = oci_runtime.find(name)
    if path is None:
        raise Unavailable(f"{name} is not installed")
    runtime = Runtime(name, path, await oci_runtime.version(path), settings.run_dir / "runtime")
    if (refusal := await _refusal(runtime, settings)) is not None:
        raise Unavailable(f"{name} does not work here: {refusal}")
    return OciDriver(settings, replace(await HostFacts.read(settings), runtime=runtime))


_refusals: dict[str, str | None] = {}


async def _refusal(runtime: Runtime, settings: Settings) -> str | None:
    if runtime.kind not in _refusals:
        _refusals[runtime.kind] = await oci_runtime.refusal_of(runtime, settings)
    return _refusals[runtime.kind]


def make_spec(rootfs: Path, *args: str, service: str = "web", index: int = 1, **changes: Any) -> InstanceSpec:
    """An instance of the tiny image; the arguments are a command."""
    document: dict[str, Any] = {
        "app": "test",
        "service": service,
        "index": index,
        "image": Image(name="tiny", digest="sha256:0", config=ImageConfig(), layers=(rootfs,), size=1),
        "args": args or ("sleep", "1000"),
        "env": {},
        "hostname": "tiny",
        "capabilities": capabilities.DEFAULT,
        "network": NetworkSpec(number=1, address="10.1.2.3", identity=4096, service_address="10.9.9.9"),
        "revision": "one",
    }
    return InstanceSpec(**(document | changes))


class Machine:
    """Starts instances under one agent id."""

    def __init__(self, driver: AnyDriver, rootfs: Path, name: DriverName = "runc") -> None:
        self.driver, self.rootfs, self.name = driver, rootfs, name

    def spec(self, *args: str, **changes: Any) -> InstanceSpec:
        return make_spec(self.rootfs, *args, **changes)

    def layout(self, spec: InstanceSpec) -> Layout:
        return self.driver.layout(spec.name)

    def network(self, spec: InstanceSpec) -> None:
        """The namespace that the mesh would have made."""
        path = self.layout(spec).netns
        path.parent.mkdir(parents=True, exist_ok=True)
        netns.create(path)

    async def start(self, *args: str, **changes: Any) -> InstanceSpec:
        """A started instance."""
        spec = self.spec(*args, **changes)
        self.network(spec)
        await carry_out(self.driver.plan_start(spec, NetworkFiles()))
        return spec

    def differs(self, key: str) -> bool:
        """Whether the isolation makes an exception of this promise; see whit.runtime.exceptions."""
        return excepted(ISOLATIONS[self.name], key)

    async def command(
        self, spec: InstanceSpec, *args: str, timeout: float = 30, **request: Any
    ) -> tuple[int | None, str]:
        """The status (None: not in time) and both outputs of a command in a running instance."""
        output = bytearray()
        async with self.driver.execute(spec.name, execute.ExecRequest(args, **request)) as session:
            await session.end_input()
            try:
                async with asyncio.timeout(patient(timeout)):
                    async for _, data in session.output():
                        output += data
                    return await session.wait(), output.decode()
            except TimeoutError:
                return None, output.decode()

    async def processes(self, spec: InstanceSpec) -> set[int]:
        """The living processes inside, numbered as the driver sees them."""
        if self.name == "qemu":
            return await self._processes_of_guest(spec)
        runtime = self.driver.host.runtime
        if isinstance(runtime, runsc.Runsc):
            return set(await runtime.processes(spec.name))
        return processes.of(self.layout(spec))

    async def _processes_of_guest(self, spec: InstanceSpec) -> set[int]:
        """Those that have a program, apart from the guest's first and the one that looks."""
        _, text = await self.command(
            spec, "sh", "-c", "for p in /proc/[0-9]*; do readlink $p/exe >&2 && echo ${p#/proc/} $$; done"
        )
        rows = [line.split() for line in text.splitlines() if not line.startswith("/")]
        return {int(pid) for pid, own in rows if pid not in (own, "1")}

    async def run(self, *args: str, **changes: Any) -> tuple[ExitRecord, str]:
        """How it ended and all it printed."""
        spec = await self.start(*args, **changes)
        record = await self.driver.exit_of(spec.name)
        return record, self.printed(spec)

    async def shell(self, script: str, **changes: Any) -> tuple[ExitRecord, str]:
        return await self.run("sh", "-c", script, **changes)

    def printed(self, spec: InstanceSpec) -> str:
        return "\n".join(line.text for line in logs.read(self.layout(spec)))

    @property
    def _containers(self) -> OciDriver:
        """A virtual machine runs in a container, and leaves what that leaves."""
        return self.driver.containers if isinstance(self.driver, MicrovmDriver) else self.driver

    async def adopt(self) -> list[Found]:
        """What a new agent finds."""
        return await self.driver.adopt(sorted(path.name for path in self.driver.settings.instances_dir.glob("*")))

    def leftovers(self) -> list[str]:
        return sorted(self._containers.leftovers())

    async def write_network_files(self, spec: InstanceSpec, files: NetworkFiles) -> None:
        await WriteNetworkFiles(self.layout(spec), spec, files).do()

    async def remove(self, name: str) -> None:
        await carry_out(self.driver.plan_remove(name))

    async def clean(self) -> None:
        settings = self.driver.settings
        names = {path.name for path in settings.instances_dir.glob("*")} | self._containers.leftovers()
        for name in names:
            await self.remove(name)
        cgroup.uproot(cgroup.find(), settings.cgroup)
        for path in settings.netns_dir.glob("*"):
            netns.remove(path)
