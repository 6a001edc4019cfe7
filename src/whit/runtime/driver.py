"""The container driver: the plans that start, stop and remove an instance, and what a new agent finds.

Planners are pure; `Driver` binds them to one agent's settings and machine. Nothing is remembered here: the instance's
directory, the monitor's exit file, the runtime and the kernel say what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from whit.base.settings import Settings
from whit.model.instance import InstanceSpec
from whit.model.operation import Operation
from whit.runtime import rootfs
from whit.runtime.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.operations import (
    ClaimName,
    CreateContainer,
    NetworkFiles,
    StartContainer,
    WriteBundle,
    WriteNetworkFiles,
    remove_container,
)


def plan_start(spec: InstanceSpec, settings: Settings, host: HostFacts, files: NetworkFiles) -> list[Operation]:
    """From nothing to a running container. Its network namespace must exist."""
    layout = Layout(settings, spec.name)
    return [
        ClaimName(layout, spec),
        rootfs.MakeWritableLayer(layout),
        rootfs.MountRoot(layout, spec.image.layers),
        WriteNetworkFiles(layout, spec, files),
        WriteBundle(layout, spec, host),
        CreateContainer(layout, host),
        StartContainer(layout, host),
    ]


def plan_remove(name: str, settings: Settings, host: HostFacts) -> list[Operation]:
    """Take away whatever there is of the instance, also if it never started or was removed in part already."""
    layout = Layout(settings, name)
    return [
        Removal(f"remove container {name}", lambda: remove_container(layout, host)),
        Removal(f"unmount {layout.rootfs}", lambda: rootfs.unmount(layout)),
        Removal(f"remove {layout.disk}", lambda: asyncio.to_thread(rootfs.remove_tree, layout.disk)),
        Removal(f"remove {layout.logs}", lambda: asyncio.to_thread(rootfs.remove_tree, layout.logs)),
        Removal(f"remove {layout.bundle}", lambda: asyncio.to_thread(rootfs.remove_tree, layout.bundle)),
    ]


@dataclass(frozen=True)
class Removal:
    """A step that takes something away, and is content if it has gone. It cannot be undone, only done again."""

    text: str
    action: Callable[[], Awaitable[None]]

    def describe(self) -> str:
        return self.text

    async def do(self) -> None:
        await self.action()

    async def undo(self) -> None:
        return
