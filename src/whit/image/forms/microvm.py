"""The microVM form: a directory with a kernel, a first root and `machine.json`, which says how to boot them; or the
same as one tar. A small root lies in the first root, a large one on a disk beside it.

`machine.json` is all that whoever boots it must read: files by their names in the directory, memory in MiB.
"""

from __future__ import annotations

import asyncio
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import Conflict
from whit.image.forms.bootable import DISK_MODULES, MEMORY, MEMORY_MODULES, Bootable, file, first_root, modules
from whit.image.rootfs import erofs, layer
from whit.image.rootfs.layer import Written
from whit.image.rootfs.tree import Entry, Extent
from whit.image.sources.kernel import Kernel
from whit.model.machine_files import DESCRIPTION, DiskFile, MachineFiles

LARGE = 128 << 20
"""Bytes of files from which on the root is a disk: a root in memory takes it twice while it is unpacked."""
ROOT = "root"
ROOT_FILE = "root.erofs"
_MEMORY = 256


async def write(machine: Bootable, linux: Kernel, directory: Path) -> None:
    """Fill `directory`, which is empty."""
    in_memory = machine.root_size < LARGE
    drivers = await modules(machine, linux, MEMORY_MODULES if in_memory else DISK_MODULES)
    if not in_memory:
        await asyncio.to_thread(erofs.write, machine.files(), directory / ROOT_FILE)
    await asyncio.to_thread(_write_kernel, machine, directory / "kernel")
    where = MEMORY if in_memory else f"root=erofs:{ROOT}"
    unpacked = await first_root(machine, (where,), drivers, directory / "initrd")
    (directory / DESCRIPTION).write_text(_description(machine, unpacked, in_memory).model_dump_json(indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(0o644)


def _write_kernel(machine: Bootable, path: Path) -> None:
    """Where size counts, compressed for arm64, whose kernels do not unpack themselves: QEMU does (hw/arm/boot.c)."""
    if isinstance(machine.kernel, Extent):
        shutil.copyfile(machine.kernel.path, path)
    else:
        path.write_bytes(machine.kernel)
    if machine.small and machine.architecture == "arm64":
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def _description(machine: Bootable, unpacked: int, in_memory: bool) -> MachineFiles:
    return MachineFiles(
        name=machine.name,
        architecture=machine.architecture,
        kernel="kernel",
        initrd="initrd",
        append=machine.append,
        memory=max(_MEMORY, 128 + 2 * -(-unpacked >> 20)),
        disks=() if in_memory else (DiskFile(file=ROOT_FILE, serial=ROOT),),
    )


def archive(directory: Path, target: Path) -> Written:
    """The directory as one tar, the same bytes for the same files."""
    return layer.write(_entries(directory), target)


def _entries(directory: Path) -> Iterator[Entry]:
    for path in sorted(directory.iterdir()):
        yield Entry(path.name, content=file(path))


def digest(directory: Path) -> str:
    """Of the directory's archive, without writing it."""
    return layer.write(_entries(directory), Path("/dev/null")).digest


def publish(directory: Path, output: Path) -> None:
    """Put the directory in the place of `output`, where nothing is yet, or a former one.

    Raises:
        Conflict: something else is there.
    """
    directory.chmod(0o755)
    if not output.exists():
        directory.rename(output)
        return
    if not (output / DESCRIPTION).is_file():
        raise Conflict(
            f"{output} is there and is no microVM",
            hint="remove it, or choose another --output",
            code="output-no-microvm",
        )
    old = Path(tempfile.mkdtemp(dir=output.absolute().parent, prefix=".old-"))
    output.rename(old / "machine")
    directory.rename(output)
    shutil.rmtree(old, ignore_errors=True)
