"""Upgrade: writes a version to the slot of a disk that is not needed. At every moment a whole version boots.

  1. the name of the version that lay in that slot goes, and what else the loader might take for one: from now on
     nobody boots what is being overwritten
  2. root and hash tree are written, read back, and checked by the root hash
  3. the UKI is written, and at last, in one sector, its name

A cut between any two writes leaves the version that is kept; one after the last has both. State is not touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from whit.base.errors import Conflict, InputError
from whit.image.disks import slots, uki, verity
from whit.image.disks.fat import File
from whit.image.disks.slots import Disk, Entry, Version
from whit.model.blocks import Blocks, Window
from whit.tools.veritysetup import BLOCK, Tree

_PIECE = 1 << 20
Report = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A version as it lies on the disk that it comes from."""

    version: UUID
    architecture: str
    program: bytes
    tree: Tree
    root: Window
    hashes: Window


@dataclass(frozen=True)
class Written:
    """What was done: the version has this number and slot, `before` is the one that it takes the place of."""

    version: str
    number: int
    slot: str
    before: str


def source(blocks: Blocks) -> Source:
    """The version that a disk would boot. Raises InputError if there is none."""
    disk = Disk(blocks)
    found = next((one for one in disk.versions() if one.letter), None)
    if found is None:
        raise InputError("there is no version on the disk", hint="make one with: whit build --target disk")
    return _of_version(disk, found)


def _of_version(disk: Disk, found: Version) -> Source:
    program = disk.esp.content(found.file)
    tree = verity.of_option(uki.section(program, ".cmdline").rstrip(b"\0").decode(errors="replace"))
    root, hashes = disk.part(f"root-{found.letter}"), disk.part(f"hash-{found.letter}")
    return Source(found.entry.version, disk.architecture, program, tree, root, hashes)


def write(blocks: Blocks, new: Source, report: Report, running: UUID | None = None) -> Written:
    """Write `new` to the other slot of a disk; `running` is the version that the disk's machine runs now.

    Raises:
        Conflict: it is there already, or has no room.
        InputError: it is for another architecture, or is not whole.
    """
    disk = Disk(blocks)
    versions = disk.versions()
    keep = _kept(disk, slots.worth_keeping(versions, running), running)
    letter = slots.other(keep.letter if keep else "b")
    gone = [one for one in disk.esp.files(slots.DIRECTORY) if keep is None or one != keep.file]
    _check(disk, new, keep)
    _check_room(disk, new, letter, gone)
    for file in gone:
        report(f"removing {file.name}")
        disk.esp.remove(file)
    report(f"writing {new.tree.blocks * BLOCK >> 20} MiB to slot {letter}")
    _fill(disk, new, letter)
    report("checking what was written by its root hash")
    verity.check(disk.part(f"root-{letter}"), disk.part(f"hash-{letter}"), new.tree)
    entry = Entry(1 + max((one.entry.number for one in versions), default=0), new.version, slots.NEW)
    disk.esp.add(slots.DIRECTORY, entry.name, entry.short, new.program)
    return Written(new.version.hex, entry.number, letter, keep.entry.version.hex if keep else "")


def _kept(disk: Disk, candidates: Sequence[Version], running: UUID | None) -> Version | None:
    """The first that is whole: a version that was changed behind our back is none to fall back to."""
    for one in candidates:
        if one.entry.version == running:
            return one
        with contextlib.suppress(InputError):
            found = _of_version(disk, one)
            verity.check(found.root, found.hashes, found.tree)
            return one
    return None


def _check(disk: Disk, new: Source, keep: Version | None) -> None:
    if disk.architecture != new.architecture:
        hint = "whit build --target disk --arch makes one for it"
        raise InputError(f"the disk is for {disk.architecture}, and the new version for {new.architecture}", hint=hint)
    if keep is not None and keep.entry.version == new.version:
        raise Conflict(f"the disk has this version already, as number {keep.entry.number}")


def _check_room(disk: Disk, new: Source, letter: str, gone: Sequence[File]) -> None:
    wanted = new.tree.blocks * BLOCK
    room = disk.part(f"root-{letter}").size
    if wanted > room or verity.size(new.tree) > disk.part(f"hash-{letter}").size:
        hint = "link less, or build a new disk"
        raise Conflict(f"the new root takes {wanted >> 20} MiB, and the slot has {room >> 20}", hint=hint)
    if len(new.program) > disk.esp.free() + sum(one.size for one in gone):
        hint = "build a new disk: its first partition is made for two kernels of the size that they have then"
        raise Conflict(f"the new kernel takes {len(new.program) >> 20} MiB, and the disk has less", hint=hint)


def _fill(disk: Disk, new: Source, letter: str) -> None:
    root, hashes = disk.part(f"root-{letter}"), disk.part(f"hash-{letter}")
    for offset, data in _pieces(new.root, new.tree.blocks * BLOCK):
        root.write(offset, data)
    for offset, data in _pieces(new.hashes, verity.size(new.tree)):
        hashes.write(offset, data)
    disk.blocks.flush()


def _pieces(part: Window, size: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, size, _PIECE):
        yield offset, part.read(offset, min(_PIECE, size - offset))
