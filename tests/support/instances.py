"""Instances of a tiny image out of busybox, without a mesh, an app or an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whit.kernel import netns
from whit.model.image import Image, ImageConfig
from whit.model.instance import ExitRecord, InstanceSpec, NetworkSpec
from whit.model.operation import carry_out
from whit.runtime import capabilities, logs
from whit.runtime.driver import Found
from whit.runtime.layout import Layout
from whit.runtime.oci import OciDriver
from whit.runtime.operations import NetworkFiles, WriteNetworkFiles


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

    def __init__(self, driver: OciDriver, rootfs: Path) -> None:
        self.driver, self.rootfs = driver, rootfs

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

    async def run(self, *args: str, **changes: Any) -> tuple[ExitRecord, str]:
        """How it ended and all it printed."""
        spec = await self.start(*args, **changes)
        record = await self.driver.exit_of(spec.name)
        return record, self.printed(spec)

    async def shell(self, script: str, **changes: Any) -> tuple[ExitRecord, str]:
        return await self.run("sh", "-c", script, **changes)

    def printed(self, spec: InstanceSpec) -> str:
        return "\n".join(line.text for line in logs.read(self.layout(spec)))

    async def adopt(self) -> list[Found]:
        """What a new agent finds."""
        return await self.driver.adopt(sorted(path.name for path in self.driver.settings.instances_dir.glob("*")))

    def leftovers(self) -> list[str]:
        return sorted(self.driver.leftovers())

    async def write_network_files(self, spec: InstanceSpec, files: NetworkFiles) -> None:
        await WriteNetworkFiles(self.layout(spec), spec, files).do()

    async def remove(self, name: str) -> None:
        await carry_out(self.driver.plan_remove(name))

    async def clean(self) -> None:
        settings = self.driver.settings
        names = {path.name for path in settings.instances_dir.glob("*")} | self.driver.leftovers()
        for name in names:
            await self.remove(name)
        for path in settings.netns_dir.glob("*"):
            netns.remove(path)
