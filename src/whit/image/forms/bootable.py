"""Bootable: an image with all that it needs to boot by itself, before it takes a form. Pure.

The first root holds our init, drivers, and what init is told (init/channel/records.h); the image's own files are a
second tree, which lies in the first root's `image` or on a disk, as the form decides.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whit.image.rootfs import cpio
from whit.image.rootfs.tree import Content, Entry, Extent, Tree
from whit.image.sources import boot_loader, kernel
from whit.image.sources.kernel import Kernel

MEMORY_MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_rng")
DISK_MODULES = (*MEMORY_MODULES, "virtio_blk", "erofs", "overlay")
VERITY_MODULES = (*DISK_MODULES, "dm_verity")
MEMORY = "root=memory"
IN_MEMORY = "image"
_DIRECTORIES = ("dev", "proc", "sys", IN_MEMORY)
_NEEDED = ("dev", "etc", "proc", "sys")
"""Places of the image that init mounts something at, or writes to."""


@dataclass(frozen=True)
class Bootable:
    """`system` and `process` are the records for init; `append` is the kernel's command line."""

    name: str
    architecture: str
    kernel: Content
    init: Entry
    append: str
    root: tuple[Entry, ...]
    system: tuple[str, ...]
    process: tuple[str, ...]
    check: tuple[str, ...] = ()
    """Another process, which ends with 0 when the first is well; empty for none."""
    kept: tuple[str, ...] = ()
    """Directories of the image whose contents outlive the machine where it has a disk."""
    drivers: tuple[str, ...] = ()
    """Modules, by name, that are loaded beside those of the form."""
    microcode: Content = b""
    """A cpio that stands before the first root."""

    boot_programs: Path = boot_loader.INSTALLED
    """Where systemd's programs for firmware are."""

    small: bool = False
    """Compressed as well as the kernel can unpack, which takes ten times as long."""

    @property
    def root_size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.root if entry.kind == "file")

    def first_root(self, records: Sequence[str], modules: Sequence[Entry]) -> Tree:
        """What the kernel unpacks. `records` are the form's: where init finds the image's files, and what is kept."""
        tree = Tree()
        for name in _DIRECTORIES:
            tree.add(Entry(name, "directory", 0o755))
        for entry in (self.init, *modules):
            tree.add(entry)
        tree.add(Entry("modules", content="".join(f"/{entry.path}\n" for entry in modules).encode()))
        tree.add(Entry("system", content=_encoded([*records, *self.system])))
        tree.add(Entry("process", content=_encoded(self.process)))
        if self.check:
            tree.add(Entry("check", content=_encoded(self.check)))
        if MEMORY in records:
            for entry in self.files():
                tree.add(replace(entry, path=f"{IN_MEMORY}/{entry.path}"))
        return tree

    def files(self) -> Iterator[Entry]:
        """The image's files, with the directories that init needs, sorted."""
        tree = Tree()
        for name in (*_NEEDED, *(place.strip("/") for place in self.kept)):
            tree.add(Entry(name, "directory", 0o755))
        for entry in self.root:
            tree.add(entry)
        yield from tree


async def modules(machine: Bootable, linux: Kernel, names: Sequence[str]) -> tuple[Entry, ...]:
    """The drivers of a form and of the machine, each after those that it needs."""
    return tuple(await kernel.modules(linux, tuple(dict.fromkeys((*names, *machine.drivers)))))


async def first_root(machine: Bootable, records: Sequence[str], drivers: Sequence[Entry], target: Path) -> int:
    """Write what the kernel unpacks, and return how many bytes it is unpacked."""
    tree = machine.first_root(records, drivers)
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=target.parent.parent) as scratch:
        plain = Path(scratch) / "plain"
        with plain.open("wb") as output:
            await asyncio.to_thread(cpio.write, tree, output)
        await cpio.compress(plain, target, small=machine.small)
        if early := machine.microcode if isinstance(machine.microcode, bytes) else machine.microcode.read():
            target.write_bytes(early + target.read_bytes())
        return plain.stat().st_size


def file(path: Path) -> Extent:
    """The whole of a file as content."""
    return Extent(path, 0, path.stat().st_size)


def _encoded(records: Sequence[str]) -> bytes:
    return b"".join(record.encode("utf-8", "surrogateescape") + b"\0" for record in records)
