"""A machine that begins from the file of another replica of its service, which sleeps: the same memory and the same
disk, under a name and addresses of its own. Which replica that is, is decided in control/; that the file is whole and
of such a machine is seen when it is read (snapshot.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from whit.base.errors import Conflict
from whit.kernel.files import copy_sparse
from whit.kernel.thread import in_thread
from whit.model.instance import InstanceSpec
from whit.runtime.layout import TWIN, Layout
from whit.runtime.microvm.bundle import user_of
from whit.runtime.microvm.snapshot import forget


@dataclass(frozen=True)
class CopyMachine:
    """File and disk of a replica that sleeps. The memory is not copied: who wakes only takes away a name of it."""

    layout: Layout
    spec: InstanceSpec
    origin: Layout

    def describe(self) -> str:
        return f"take over the machine of {self.origin.name}, which sleeps, for {self.layout.name}"

    async def do(self) -> None:
        """Raises Conflict if the other woke meanwhile: its disk is ahead of the file then."""
        self.layout.asleep.write_text(TWIN)
        await in_thread(self._copy)

    def _copy(self) -> None:
        try:
            before = self.origin.snapshot_facts.stat()
            os.link(self.origin.snapshot, self.layout.snapshot)
            copy_sparse(self.origin.root_disk, self.layout.root_disk, mode=0o600)
            self.layout.snapshot_facts.write_bytes(self.origin.snapshot_facts.read_bytes())
            after = self.origin.snapshot_facts.stat()
        except FileNotFoundError as error:
            raise self._awake() from error
        # The facts go before the guest does, so the disk was still while they were there.
        if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
            raise self._awake()
        os.chown(self.layout.root_disk, user_of(self.spec), user_of(self.spec))

    def _awake(self) -> Conflict:
        return Conflict(f"{self.origin.name} does not sleep in a file any more")

    async def undo(self) -> None:
        forget(self.layout)
        self.layout.root_disk.unlink(missing_ok=True)
        self.layout.asleep.unlink(missing_ok=True)


@dataclass(frozen=True)
class Settle:
    """It has its own identity, and runs: before, another agent takes it for one whose start was cut short."""

    layout: Layout

    def describe(self) -> str:
        return f"take {self.layout.name} for one that runs"

    async def do(self) -> None:
        self.layout.asleep.unlink(missing_ok=True)

    async def undo(self) -> None:
        return
