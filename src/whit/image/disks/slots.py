"""Slots: which versions are on a disk, and which of them boots next.

Each version has a UKI in the directory EFI/Linux of the ESP, whose name is all that decides:

    whit_00007_8c0f…+3-0.efi    number, version, tries that are left and that were made

systemd-boot takes the one with the greatest number that has tries left, and counts: it renames the file at every boot
(uapi-group.org, Boot Loader Specification, "Boot counting"). Our init gives a version that has proved well GOOD tries
again (init/disk/slots.c). So a version that does not come up any more, new or long in use, is given up after some
boots. Where its root is, the superblocks of the hash partitions say, which hold the version as their UUID.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from whit.base.errors import InputError
from whit.image.disks import gpt, verity
from whit.image.disks.fat import Fat, File
from whit.model.blocks import Blocks, Window

DIRECTORY = "EFI/Linux"
NEW, GOOD = 3, 5
"""Tries of a version: one that was never up gets fewer. init/disk/slots.c has them too."""
_LETTERS = ("a", "b")
_NAME = re.compile(r"whit_(\d{5})_([0-9a-f]{32})\+(\d+)-(\d+)\.efi", re.IGNORECASE)
_ARCHITECTURES = {kind: name for name, kind in gpt.ROOT.items()}


def option(version: UUID) -> str:
    """As the kernel's command line has it."""
    return f"whit.version={version.hex}"


@dataclass(frozen=True)
class Entry:
    """What the name of a UKI says."""

    number: int
    version: UUID
    left: int
    done: int = 0

    @property
    def name(self) -> str:
        return f"whit_{self.number:05}_{self.version.hex}+{self.left}-{self.done}.efi"

    @property
    def short(self) -> bytes:
        """Its name for those who know no long ones; no two of a disk have the same."""
        return b"WHIT%04dEFI" % (self.number % 10_000)

    @property
    def state(self) -> str:
        """`new`: never booted; `trial`: booted, and not yet up; `good`: was up; `failed`: no tries are left."""
        if not self.left:
            return "failed"
        if self.left + self.done >= GOOD:
            return "good"
        return "trial" if self.done else "new"


@dataclass(frozen=True)
class Version:
    """A version that is on the disk. `letter` of its slot is empty if its root is not there."""

    entry: Entry
    file: File
    letter: str


class Disk:
    """A disk as whit build --target disk writes it. Raises InputError if it is none."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self._partitions = gpt.read(blocks)
        if missing := {"esp", *(f"{what}-{letter}" for what in ("root", "hash") for letter in _LETTERS)} - {
            *self._partitions
        }:
            hint = "whit build --target disk writes disks with two slots"
            raise InputError(f"the disk has no partition {sorted(missing)[0]}", hint=hint)
        self.esp = Fat(self.part("esp"))

    @property
    def architecture(self) -> str:
        """As OCI names it."""
        return _ARCHITECTURES.get(self._partitions["root-a"].kind, "")

    def part(self, name: str) -> Window:
        found = self._partitions[name]
        return Window(self.blocks, found.offset, found.size)

    def versions(self) -> list[Version]:
        """In the order in which they are booted."""
        letters = {verity.identity(self.part(f"hash-{letter}")): letter for letter in _LETTERS}
        found = []
        for file in self.esp.files(DIRECTORY):
            if parts := _NAME.fullmatch(file.name):
                entry = Entry(int(parts[1]), UUID(parts[2]), int(parts[3]), int(parts[4]))
                found.append(Version(entry, file, letters.get(entry.version, "")))
        return sorted(found, key=lambda one: (one.entry.left == 0, -one.entry.number))


def worth_keeping(versions: Sequence[Version], running: UUID | None = None) -> list[Version]:
    """Those that a new version may not take the place of, the best first: that which runs now, or else those that
    were up, in the order in which they boot, and then the others."""
    whole = [one for one in versions if one.letter]
    if running is not None:
        return [one for one in whole if one.entry.version == running]
    return sorted(whole, key=lambda one: one.entry.state != "good")


def other(letter: str) -> str:
    """The letter of the slot that a new version goes to."""
    return _LETTERS[1] if letter == _LETTERS[0] else _LETTERS[0]
