"""The disk form: a GPT that UEFI boots, from a kernel with its first root in one program (UKI) to a verified root.

  esp         FAT32: systemd-boot, and the UKI
  root-…      the image's files (EROFS), named by the hash of all of it, which stands in the UKI's command line
  hash-…      the hash tree (dm-verity)
  root-empty  the other slot, of the same size, for the next version
  hash-empty
  state       ext4: what is kept

Everything that is random elsewhere comes from what is in the image.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from whit.image.forms import efi, erofs, gpt
from whit.image.forms.bootable import VERITY_MODULES, Bootable, modules
from whit.image.forms.efi import identity_of
from whit.image.forms.gpt import Partition, Table
from whit.image.oci import layer
from whit.image.sources.kernel import Kernel
from whit.tools import mke2fs, mtools, veritysetup
from whit.tools.veritysetup import Tree

STATE = "state"
_LEAST_ESP = 64 << 20
_LEAST_SLOT = 32 << 20
_STATE_SIZE = 64 << 20
_RECORDS = ("root=verity", f"state={STATE}")
_LOADER = "timeout 0\neditor no\n"
_COPY = 1 << 20


@dataclass(frozen=True)
class Parts:
    """Files with what is in the partitions. The UKI stands for everything: it holds the hash of the root."""

    esp: Path
    root: Path
    hashes: Path
    state: Path
    tree: Tree
    identity: str
    """Digest of the UKI."""


async def write(machine: Bootable, linux: Kernel, output: Path, work: Path) -> None:
    """Write the disk to `output`, sparse. Parts are made in `work`, an empty directory.

    Raises:
        Unavailable: systemd-boot, veritysetup, mtools or mke2fs are not installed.
    """
    root, hashes = work / "root", work / "hashes"
    await asyncio.to_thread(erofs.write, machine.files(), root, machine.name)
    digest = await asyncio.to_thread(efi.digest, root)
    tree = await veritysetup.build(root, hashes, identity_of(digest, "hashes"), bytes.fromhex(digest))
    program = await _program(machine, linux, tree, work)
    identity = await asyncio.to_thread(efi.digest, program)
    esp = await _esp(machine, program, tree, identity, work)
    state = work / "state"
    state_identity = identity_of(identity, "state file system")
    await mke2fs.write(state, size=_STATE_SIZE, label=STATE, identity=state_identity, epoch=layer.timestamp())
    await asyncio.to_thread(_assemble, machine, Parts(esp, root, hashes, state, tree, identity), output)


async def _program(machine: Bootable, linux: Kernel, tree: Tree, work: Path) -> Path:
    """The UKI, which says what the root has to be."""
    append = f"{machine.append} whit.verity={tree.root_hash}:{tree.blocks}:{tree.salt}"
    drivers = await modules(machine, linux, VERITY_MODULES)
    return await efi.program(machine, append, _RECORDS, drivers, work, version=tree.root_hash[:24])


async def _esp(machine: Bootable, program: Path, tree: Tree, identity: str, work: Path) -> Path:
    """Twice the room that it needs: the next version comes beside this one."""
    loader = work / "loader.conf"
    loader.write_text(_LOADER)
    files = {
        efi.default(machine): efi.installed(machine, "systemd-boot{}.efi"),
        f"EFI/Linux/whit_{tree.root_hash[:24]}.efi": program,
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
    """As the Discoverable Partitions Specification has it, the root and its hashes are identified by the root hash."""
    name, root_hash = machine.architecture, bytes.fromhex(parts.tree.root_hash)
    version = parts.tree.root_hash[:24]
    slot = max(_LEAST_SLOT, gpt.aligned(2 * parts.root.stat().st_size))
    hashes = gpt.aligned(max(parts.hashes.stat().st_size, slot // 120))

    def identity(what: str) -> UUID:
        return identity_of(parts.identity, what)

    return Table(
        identity("disk"),
        (
            Partition("esp", gpt.ESP, identity("esp"), parts.esp.stat().st_size),
            Partition(f"root-{version}", gpt.ROOT[name], UUID(bytes=root_hash[:16]), slot, read_only=True),
            Partition(f"hash-{version}", gpt.VERITY[name], UUID(bytes=root_hash[16:]), hashes, read_only=True),
            Partition("root-empty", gpt.ROOT[name], identity("root"), slot, read_only=True),
            Partition("hash-empty", gpt.VERITY[name], identity("hash"), hashes, read_only=True),
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
