"""The writable layer of an instance, and how its directories are taken away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from whit.kernel import mount
from whit.kernel.thread import in_thread
from whit.runtime.layout import Layout


@dataclass(frozen=True)
class MakeWritableLayer:
    """An empty layer. One that an earlier instance of this name left is thrown away.

    An instance whose service wants a read-only root has one too: the runtime makes the places for its mounts there,
    and then mounts the root read-only itself.
    """

    layout: Layout

    def describe(self) -> str:
        return f"make an empty writable layer in {self.layout.disk}"

    async def do(self) -> None:
        await in_thread(self._make)

    def _make(self) -> None:
        remove_tree(self.layout.disk)
        self.layout.upper.mkdir(parents=True, mode=0o755)
        self.layout.work.mkdir(mode=0o700)

    async def undo(self) -> None:
        await in_thread(remove_tree, self.layout.disk)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, but nothing of what is mounted there; it may be gone, also in part."""
    mount.unmount_below(path)
    if path.exists():
        shutil.rmtree(path)
