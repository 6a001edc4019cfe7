"""The microVM form of a linked machine: a directory as every microVM has it (forms/microvm.py), all in memory."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from whit.image import cpio, manifest
from whit.image.machines.link import LinkedMachine
from whit.image.tree import Content
from whit.model.machine_files import DESCRIPTION, MachineFiles

_MEMORY = 256


async def write(machine: LinkedMachine, directory: Path) -> None:
    """Fill `directory`, which is empty."""
    (directory / "kernel").write_bytes(_data(machine.kernel.image))
    unpacked = await first_root(machine, directory / "initrd")
    description = MachineFiles(
        name=machine.name,
        architecture=manifest.architecture(),
        kernel="kernel",
        initrd="initrd",
        append=machine.cmdline,
        memory=max(_MEMORY, 128 + 2 * -(-unpacked >> 20)),
    )
    (directory / DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(0o644)


async def first_root(machine: LinkedMachine, target: Path) -> int:
    """Write the archive that the kernel unpacks, microcode before it, as the kernel wants; bytes before compression."""
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=target.absolute().parent) as scratch:
        plain, made = Path(scratch) / "plain", Path(scratch) / "made"
        with plain.open("wb") as output:
            await asyncio.to_thread(cpio.write, machine.tree, output)
        await cpio.compress(plain, made)
        if early := _data(machine.kernel.microcode):
            made.write_bytes(early + made.read_bytes())
        made.rename(target)
        return plain.stat().st_size


def _data(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read()
