"""The root file system of an instance: the image's layers below, a writable layer of its own on top (overlayfs)."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from whit.runtime.layout import Layout
from whit.tools import process


@dataclass(frozen=True)
class MakeWritableLayer:
    """An empty layer. One that an earlier instance of this name left is thrown away."""

    layout: Layout

    def describe(self) -> str:
        return f"make an empty writable layer in {self.layout.disk}"

    async def do(self) -> None:
        await asyncio.to_thread(self._make)

    def _make(self) -> None:
        remove_tree(self.layout.disk)
        self.layout.upper.mkdir(parents=True, mode=0o755)
        self.layout.work.mkdir(mode=0o700)

    async def undo(self) -> None:
        await asyncio.to_thread(remove_tree, self.layout.disk)


@dataclass(frozen=True)
class MountRoot:
    """The overlay. It has a writable layer also if the service wants a read-only root: the runtime makes the places
    for its mounts there, and then mounts the root read-only itself."""

    layout: Layout
    layers: tuple[Path, ...]
    """Lowest first."""

    def describe(self) -> str:
        return f"mount {len(self.layers)} layers at {self.layout.rootfs}"

    async def do(self) -> None:
        self.layout.rootfs.mkdir(exist_ok=True)
        lower = ":".join(str(layer) for layer in reversed(self.layers))
        options = f"lowerdir={lower},upperdir={self.layout.upper},workdir={self.layout.work}"
        await process.run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.layout.rootfs)])

    async def undo(self) -> None:
        await unmount(self.layout)


async def unmount(layout: Layout) -> None:
    """Unmount whatever is at the root's place, as often as it takes."""
    while is_mounted(layout):
        await process.run(["umount", "--lazy", str(layout.rootfs)])


def is_mounted(layout: Layout) -> bool:
    points = (line.split(" ", 5)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return str(layout.rootfs) in points


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; it may be gone, also in part."""
    if path.exists():
        shutil.rmtree(path)
