"""The disk form: a GPT that UEFI boots, from a kernel with its first root in one program (UKI) to a verified root.

  esp         FAT32: systemd-boot, and the UKI
  root-a      the image's files (EROFS)
  hash-a      its hash tree (dm-verity), whose root hash stands in the UKI's command line
  root-b      the other slot, of the same size, for the next version (disks/slots.py)
  hash-b
  state       ext4: what is kept

Everything that is random elsewhere comes from what is in the image.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from whit.image.disks import gpt, slots, verity
from whit.image.disks.gpt import Partition, Table
from whit.image.forms import efi
from whit.image.forms.bootable import VERITY_MODULES, Bootable, modules
from whit.image.forms.efi import identity_of
from whit.image.rootfs import erofs, layer
from whit.image.rootfs.tree import Entry
from whit.image.sources.kernel import Kernel
from whit.tools import mke2fs, mtools, veritysetup

STATE = "state"
_LEAST_ESP = 64 << 20
_LEAST_SLOT = 32 << 20
_STATE_SIZE = 64 << 20
_RECORDS = ("root=verity", f"state={STATE}")
_PANIC = "panic="
_LOADER = "timeout 0\neditor no\n"
_COPY = 1 << 20


@dataclass(frozen=True)
class Parts:
    """Files with what is in the partitions."""

    esp: Path
    root: Path
    hashes: Path
    state: Path
    identity: str
    """Digest of the UKI, which stands for everything: it holds the hash of the root."""


async def write(machine: Bootable, linux: Kernel, output: Path, work: Path) -> None:
    """Write the disk to `output`, sparse. Parts are made in `work`, an empty directory.

    Raises:
        Unavailable: systemd-boot, veritysetup, mtools or mke2fs are not installed.
    """
    root, hashes, program = work / "root", work / "hashes", work / "uki"
    await asyncio.to_thread(erofs.write, machine.files(), root, machine.name)
    drivers = await modules(machine, linux, VERITY_MODULES)
    first = await efi.initrd(machine, _RECORDS, drivers, work)
    digest = await asyncio.to_thread(efi.digest, root)
    version = await asyncio.to_thread(_version, machine, digest, first)
    tree = await veritysetup.build(root, hashes, version, bytes.fromhex(digest))
    append = f"{_again(machine.append)} {slots.option(version)} {verity.option(tree)}"
    await asyncio.to_thread(efi.program, machine, append, first, program)
    identity = await asyncio.to_thread(efi.digest, program)
    esp = await _esp(machine, program, slots.Entry(1, version, slots.GOOD), identity, work)
    state = work / "state"
    state_identity = identity_of(identity, "state file system")
    await mke2fs.write(state, size=_STATE_SIZE, label=STATE, identity=state_identity, epoch=layer.timestamp())
    await asyncio.to_thread(_assemble, machine, Parts(esp, root, hashes, state, identity), output)


def _version(machine: Bootable, root: str, first: Path) -> UUID:
    """Follows from all that a version is: a new kernel over the same root is another one."""
    kernel = hashlib.sha256(Entry("kernel", content=machine.kernel).data()).hexdigest()
    return identity_of(f"{root} {kernel} {efi.digest(first)} {machine.append}", "version")


def _again(append: str) -> str:
    """A kernel that fails has to boot again, or no other version would have its turn."""
    return append if _PANIC in append else f"{append} {_PANIC}-1"


async def _esp(machine: Bootable, program: Path, entry: slots.Entry, identity: str, work: Path) -> Path:
    """Twice the room that it needs: the next version comes beside this one."""
    loader = work / "loader.conf"
    loader.write_text(_LOADER)
    files = {
        efi.default(machine): efi.installed(machine, "systemd-boot{}.efi"),
        f"{slots.DIRECTORY}/{entry.name}": program,
        "loader/loader.conf": loader,
    }
    size = max(_LEAST_ESP, gpt.aligned(2 * sum(path.stat().st_size for path in files.values()) + (4 << 20)))
    number = int(identity[:8], 16)
    await mtools.write(work / "esp", files, size=size, label="ESP", identity=number, epoch=layer.timestamp())
    return work / "esp"


def _assemble(machine: Bootable, parts: Parts, output: Path) -> None:
    table = _table(machine, parts)
    sources: Sequence[Path | None] = (parts.esp, parts.root, parts.hashes, None, None, parts.state)
    with output.open("wb") as file:
        file.truncate(table.size)
        for source, offset in zip(sources, table.offsets, strict=True):
            if source is not None:
                _copy(source, file.fileno(), offset)
    table.write(output)


def _table(machine: Bootable, parts: Parts) -> Table:
    """It never changes: what is in a slot, its superblock says (disks/verity.py)."""
    name = machine.architecture
    slot = max(_LEAST_SLOT, gpt.aligned(2 * parts.root.stat().st_size))
    hashes = gpt.aligned(max(parts.hashes.stat().st_size, slot // 120))

    def identity(what: str) -> UUID:
        return identity_of(parts.identity, what)

    def of_slot(letter: str) -> tuple[Partition, Partition]:
        return (
            Partition(f"root-{letter}", gpt.ROOT[name], identity(f"root-{letter}"), slot, read_only=True),
            Partition(f"hash-{letter}", gpt.VERITY[name], identity(f"hash-{letter}"), hashes, read_only=True),
        )

    return Table(
        identity("disk"),
        (
            Partition("esp", gpt.ESP, identity("esp"), parts.esp.stat().st_size),
            *of_slot("a"),
            *of_slot("b"),
            Partition(STATE, gpt.LINUX, identity("state"), parts.state.stat().st_size),
        ),
    )


def _copy(source: Path, target: int, offset: int) -> None:
    """What is zero stays a hole."""
    with source.open("rb") as file:
        while data := file.read(_COPY):
            if data.strip(b"\0"):
                os.pwrite(target, data, offset)
            offset += len(data)
