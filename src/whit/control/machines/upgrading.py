"""Brings a disk to another version: finds or builds the new one, and has it written to the slot that is free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whit.base.errors import Conflict, InputError
from whit.image.disks import upgrade
from whit.image.disks.slots import Disk, Version
from whit.image.disks.upgrade import Report
from whit.kernel import disk_file
from whit.model.blocks import Blocks
from whit.runtime.microvm import guest_disk
from whit.tools import qemu_img

_PATIENCE = 60.0
"""Seconds in which a machine has to be well before it gets another version."""


async def into_file(path: Path, new: Path, report: Report) -> dict[str, Any]:
    """Write the version of the disk `new` to the disk in `path`.

    Raises:
        NotFound, InputError: one of them is no disk with two versions.
        Conflict: a machine runs from it; the version is there already, or has no room.
    """
    return await asyncio.to_thread(_into_file, path, new, report)


def _into_file(path: Path, new: Path, report: Report) -> dict[str, Any]:
    with _opened(path, write=True) as disk, _opened(new) as source:
        return asdict(upgrade.write(disk, upgrade.source(source), report))


async def into_machine(place: Path, new: Path, report: Report, *, reboot: bool = False) -> dict[str, Any]:
    """The same into the disk of a machine that runs and listens at the socket `place`.

    Raises:
        NotFound, TimedOut: none listens, or answers.
        Conflict: what it runs has not proved well yet, so that there would be nothing to fall back to.
    """
    return await asyncio.to_thread(_into_machine, place, new, report, reboot)


def _into_machine(place: Path, new: Path, report: Report, reboot: bool) -> dict[str, Any]:
    with guest_disk.connected(place) as disk, _opened(new) as source:
        if not disk.proven:
            report("waiting until the version that runs has proved well")
        if not disk.until_proven(_PATIENCE):
            hint = "see what it prints; if it does not come up, it boots its other version by itself"
            raise Conflict("the version that the machine runs has not proved well", hint=hint)
        written = upgrade.write(disk, upgrade.source(source), report, disk.version)
        if reboot:
            report("asking the machine to boot again")
            disk.reboot()
        return asdict(written)


def versions(path: Path) -> list[dict[str, Any]]:
    """What is on a disk, or on that of a machine that runs, in the order in which it boots."""
    with contextlib.ExitStack() as stack:
        disk: Blocks
        if path.is_socket():
            disk = stack.enter_context(guest_disk.connected(path))
        else:
            disk = stack.enter_context(_opened(path))
        return [_shown(one) for one in Disk(disk).versions()]


def _shown(one: Version) -> dict[str, Any]:
    entry = one.entry
    return {
        "number": entry.number,
        "version": entry.version.hex,
        "slot": one.letter,
        "state": entry.state,
        "tries": entry.left,
    }


@contextlib.contextmanager
def _opened(path: Path, *, write: bool = False) -> Iterator[disk_file.DiskFile]:
    with disk_file.opened(path, write=write) as disk:
        if disk.read(0, 4) == qemu_img.MAGIC:
            hint = f"qemu-img convert -O raw {path} {path.stem}.raw"
            raise InputError(f"{path} is in QEMU's format, and versions are written to raw disks", hint=hint)
        yield disk
