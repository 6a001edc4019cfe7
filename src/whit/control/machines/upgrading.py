"""Brings a disk to another version: finds or builds the new one, and has it written to the slot that is free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whit.base.errors import InputError
from whit.image.forms import upgrade
from whit.image.forms.slots import Disk
from whit.image.forms.upgrade import Report
from whit.kernel import disk_file
from whit.model.blocks import Blocks
from whit.tools import qemu_img


async def into_file(path: Path, new: Path, report: Report) -> dict[str, Any]:
    """Write the version of the disk `new` to the disk in `path`.

    Raises:
        NotFound, InputError: one of them is no disk with two versions.
        Conflict: a machine runs from it; the version is there already, or has no room.
    """
    return await asyncio.to_thread(_into_file, path, new, report)


def _into_file(path: Path, new: Path, report: Report) -> dict[str, Any]:
    with _opened(path, write=True) as disk:
        return write(disk, new, report)


def write(blocks: Blocks, new: Path, report: Report) -> dict[str, Any]:
    """The same, into any disk that can be written."""
    with _opened(new) as source:
        return asdict(upgrade.write(blocks, upgrade.source(source), report))


def versions(path: Path) -> list[dict[str, Any]]:
    """What is on a disk, in the order in which it boots."""
    with _opened(path) as blocks:
        return [
            {
                "number": one.entry.number,
                "version": one.entry.version.hex,
                "slot": one.letter,
                "state": one.entry.state,
                "tries": one.entry.left,
            }
            for one in Disk(blocks).versions()
        ]


@contextlib.contextmanager
def _opened(path: Path, *, write: bool = False) -> Iterator[disk_file.DiskFile]:
    with disk_file.opened(path, write=write) as disk:
        if disk.read(0, 4) == qemu_img.MAGIC:
            hint = f"qemu-img convert -O raw {path} {path.stem}.raw"
            raise InputError(f"{path} is in QEMU's format, and versions are written to raw disks", hint=hint)
        yield disk
