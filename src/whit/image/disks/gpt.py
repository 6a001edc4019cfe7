"""GPT: a partition table, with identities that are given and not drawn. Pure, but for writing it into a file.

Format: UEFI specification 2.10, chapter 5.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from whit.base.errors import InputError
from whit.model.blocks import SECTOR, Blocks

ALIGNMENT = 1 << 20
"""Bytes: where every partition begins, for disks with large sectors beneath."""
ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
# The Discoverable Partitions Specification (uapi-group.org).
ROOT = {
    "amd64": UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "arm64": UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
VERITY = {
    "amd64": UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    "arm64": UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
}

_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_TABLE_SECTORS = _ENTRIES * _ENTRY.size // SECTOR
_NAME_LIMIT = 36
_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Partition:
    """One partition; sizes in bytes, whole multiples of ALIGNMENT."""

    name: str
    kind: UUID
    identity: UUID
    size: int
    read_only: bool = False


@dataclass(frozen=True)
class Table:
    """A disk of just the size that its partitions need."""

    identity: UUID
    partitions: tuple[Partition, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each partition begins, in bytes."""
        found, position = [], ALIGNMENT
        for partition in self.partitions:
            found.append(position)
            position += partition.size
        return tuple(found)

    @property
    def size(self) -> int:
        """Bytes of the whole disk, with the second table at its end."""
        return ALIGNMENT + sum(partition.size for partition in self.partitions) + ALIGNMENT

    def write(self, disk: Path) -> None:
        """Both tables, into a file that is there; what is in the partitions stays."""
        entries = self._entries()
        last = self.size // SECTOR - 1
        with disk.open("r+b") as file:
            file.truncate(self.size)
            file.write(_protective(last))
            file.write(self._header(entries, 1, last, 2))
            file.write(entries)
            file.seek((last - _TABLE_SECTORS) * SECTOR)
            file.write(entries)
            file.write(self._header(entries, last, 1, last - _TABLE_SECTORS))

    def _entries(self) -> bytes:
        packed = b"".join(map(_entry, self.partitions, self.offsets))
        return packed.ljust(_ENTRIES * _ENTRY.size, b"\0")

    def _header(self, entries: bytes, here: int, other: int, table: int) -> bytes:
        last = self.size // SECTOR - 1

        def packed(checksum: int) -> bytes:
            return _HEADER.pack(
                b"EFI PART",
                0x00010000,
                _HEADER.size,
                checksum,
                0,
                here,
                other,
                2 + _TABLE_SECTORS,
                last - _TABLE_SECTORS - 1,
                self.identity.bytes_le,
                table,
                _ENTRIES,
                _ENTRY.size,
                zlib.crc32(entries),
            )

        return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")


def _entry(partition: Partition, offset: int) -> bytes:
    name = partition.name.encode("utf-16-le")
    if len(partition.name) > _NAME_LIMIT:
        raise InputError(f"the partition {partition.name} has a name of more than {_NAME_LIMIT} letters")
    return _ENTRY.pack(
        partition.kind.bytes_le,
        partition.identity.bytes_le,
        offset // SECTOR,
        (offset + partition.size) // SECTOR - 1,
        1 << 60 if partition.read_only else 0,
        name,
    )


def _protective(last: int) -> bytes:
    """The old kind of table, which says that the whole disk is taken."""
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", _PROTECTIVE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


@dataclass(frozen=True)
class Found:
    """A partition as a table on a disk has it, in bytes."""

    kind: UUID
    offset: int
    size: int


def read(disk: Blocks) -> dict[str, Found]:
    """Each named partition. Raises InputError if there is no table."""
    header = disk.read(SECTOR, SECTOR)
    if header[:8] != b"EFI PART":
        raise InputError("it has no partition table", hint="whit build --target disk writes a disk")
    data = disk.read(_HEADER.unpack_from(header)[10] * SECTOR, _ENTRIES * _ENTRY.size)
    found = {}
    for kind, _, first, last, _, name in _ENTRY.iter_unpack(data):
        if any(kind):
            place = Found(UUID(bytes_le=kind), first * SECTOR, (last + 1 - first) * SECTOR)
            found[name.decode("utf-16-le").rstrip("\0")] = place
    return found


def aligned(size: int) -> int:
    """The least size of a partition that holds so many bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT
