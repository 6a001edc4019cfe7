"""A named volume gets the image's content the first time it is mounted, as Compose users expect."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from whit.kernel.thread import in_thread
from whit.model.instance import InstanceSpec, ResolvedMount
from whit.runtime.bundle import users
from whit.runtime.layout import Layout
from whit.tools import process


@dataclass(frozen=True)
class SeedVolumes:
    """Copy what the image has at a volume's place into the volume, with owner and mode, if the volume is empty.

    It appears by rename, so an interrupted copy is begun again. It is not undone: the volume is the app's.
    """

    layout: Layout
    spec: InstanceSpec

    def describe(self) -> str:
        targets = ", ".join(mount.target for mount in volumes_of(self.spec, self.layout))
        return f"fill empty volumes of {self.spec.name} at {targets}"

    async def do(self) -> None:
        for mount in volumes_of(self.spec, self.layout):
            assert mount.source is not None
            if mount.source.is_dir() and not any(mount.source.iterdir()):
                await self._seed(mount.source, mount.target)

    async def _seed(self, volume: Path, target: str) -> None:
        try:
            with users.opened_below(self.layout.rootfs, target) as found:
                if not stat.S_ISDIR(os.fstat(found).st_mode):
                    return
                unfinished = volume.with_name(f".{volume.name}.{self.spec.name}")
                await in_thread(shutil.rmtree, unfinished, ignore_errors=True)
                origin = f"/proc/self/fd/{found}/."
                await process.run(["cp", "-a", origin, str(unfinished)], pass_fds=[found], timeout=600)
        except (FileNotFoundError, NotADirectoryError):
            return
        unfinished.replace(volume)

    async def undo(self) -> None:
        return


def volumes_of(spec: InstanceSpec, layout: Layout) -> list[ResolvedMount]:
    """The mounts whose source is a named volume of this agent: those are below its volumes directory."""
    return [
        mount
        for mount in spec.mounts
        if mount.kind == "bind"
        and mount.source is not None
        and mount.source.is_relative_to(layout.settings.volumes_dir)
    ]
