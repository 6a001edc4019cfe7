"""FAT32 as it lies on a disk: files are read, added and removed so that a cut at any moment leaves either the old
directory or the new one, and at worst clusters that nobody uses, which the next change takes back.

mtools (tools/mtools.py) makes file systems; it says nothing about the order in which it writes. Format: Microsoft FAT
specification of 2005. File times are the earliest that there are.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whit.base.errors import Conflict, InputError, NotFound
from whit.model.blocks import SECTOR, Blocks

_ENTRY = 32
_LONG, _VOLUME, _DIRECTORY, _FILE = 0x0F, 0x08, 0x10, 0x20
_DELETED, _END = 0xE5, 0x00
_LAST = 0x0FFFFFF8
"""Clusters of the table from this number on end a chain."""
_NUMBER = 0x0FFFFFFF
_LETTERS = 13
"""Of a long name, in each of its entries."""
_PLACES = (*range(1, 11, 2), *range(14, 26, 2), *range(28, 32, 2))
"""Where they stand in it."""
_EARLIEST = 0x21
"""1980-01-01."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class File:
    """A file or directory. `places` are those of its entries, in bytes, its short name last."""

    name: str
    is_directory: bool
    cluster: int
    size: int
    places: tuple[int, ...]
    short: bytes


class Fat:
    """The file system that lies in `blocks`. Raises InputError if it is none that Whit makes."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        head = blocks.read(0, SECTOR)
        bytes_per_sector, sectors, reserved, copies = struct.unpack_from("<HBHB", head, 11)
        table, self._root = _number(head, 36, 4), _number(head, 44, 4)
        if head[510:] != b"\x55\xaa" or bytes_per_sector != SECTOR or not sectors or head[82:87] != b"FAT32":
            raise InputError("the partition esp is no FAT32 file system", hint="was the disk made by whit build?")
        self._information = _number(head, 48, 2) * SECTOR
        self._tables: list[int] = [(reserved + number * table) * SECTOR for number in range(copies)]
        self._data: int = (reserved + copies * table) * SECTOR
        self._cluster: int = sectors * SECTOR
        count = min((blocks.size - self._data) // self._cluster + 2, table * SECTOR // 4)
        self._next = array("I", self._read(self._tables[0], -(-count * 4 // SECTOR) * SECTOR))
        self._stored = self._next.tobytes()
        del self._next[count:]

    def files(self, directory: str) -> list[File]:
        """What is in a directory. Raises NotFound."""
        return [one for one in self._listed(self._find(directory)) if one.short[0:1] != b"."]

    def content(self, file: File) -> bytes:
        """Raises InputError if it is not whole."""
        data = b"".join(self._runs_read(self._chain(file.cluster)))
        if len(data) < file.size:
            raise InputError(f"the file {file.name} ends too early", hint="the file system is broken")
        return data[: file.size]

    def free(self) -> int:
        """Bytes that a new file may have, with what nobody uses any more."""
        return (len(self._next) - 2 - len(self._used())) * self._cluster

    def add(self, directory: str, name: str, short: bytes, data: bytes) -> None:
        """Add a file: its content first, then the table, and then, in one sector, its name.

        Raises:
            Conflict: there is no room.
        """
        self._reclaim()
        first = self._find(directory)
        clusters = self._unused(-(-len(data) // self._cluster))
        self._write_clusters(clusters, data)
        self.blocks.flush()
        self._link([*clusters, _NUMBER])
        self._flush_tables()
        entries = _entries(name, short, clusters[0], len(data))
        place = self._room(first, len(entries) // _ENTRY)
        self._change(place, entries)
        self.blocks.flush()

    def remove(self, file: File) -> None:
        """Remove a file: its name first, then what it took. Of an old name in two sectors, the short one goes first:
        the rest is none."""
        for sector in dict.fromkeys(place // SECTOR * SECTOR for place in reversed(file.places)):
            data = bytearray(self._read(sector, SECTOR))
            for place in file.places:
                if sector <= place < sector + SECTOR:
                    data[place - sector] = _DELETED
            self.blocks.write(sector, bytes(data))
            self.blocks.flush()
        for cluster in self._chain(file.cluster):
            self._next[cluster] = 0
        self._flush_tables()

    def _reclaim(self) -> None:
        """Take back what a change that was cut off had taken; and nobody may believe the count of free clusters."""
        used = self._used()
        for cluster in range(2, len(self._next)):
            if self._next[cluster] & _NUMBER and cluster not in used:
                self._next[cluster] = 0
        self.blocks.write(self._information, self._unknown(self._read(self._information, SECTOR)))
        self._flush_tables()

    @staticmethod
    def _unknown(information: bytes) -> bytes:
        """The FSInfo sector, which says from now on that it does not know (0xffffffff, twice)."""
        return information[:488] + b"\xff" * 8 + information[496:]

    def _used(self) -> set[int]:
        found: set[int] = set()
        directories = [self._root]
        while directories:
            first = directories.pop()
            found.update(self._chain(first))
            for one in self._listed(first):
                if one.short[0:1] == b"." or not one.cluster or one.cluster in found:
                    continue
                if one.is_directory:
                    directories.append(one.cluster)
                else:
                    found.update(self._chain(one.cluster))
        return found

    def _unused(self, count: int) -> list[int]:
        found = [cluster for cluster in range(2, len(self._next)) if not self._next[cluster] & _NUMBER][:count]
        if len(found) < count:
            raise Conflict(f"a file of {count * self._cluster} bytes has no room in the partition esp")
        return found

    # ---- directories

    def _find(self, path: str) -> int:
        """The first cluster of a directory."""
        cluster = self._root
        for name in path.split("/"):
            found = [one for one in self._listed(cluster) if one.is_directory and one.name.lower() == name.lower()]
            if not found:
                raise NotFound(f"there is no directory {path} on the partition esp")
            cluster = found[0].cluster
        return cluster

    def _sectors(self, first: int) -> Iterator[int]:
        """Where each sector of a directory lies."""
        for cluster in self._chain(first):
            yield from range(self._place(cluster), self._place(cluster) + self._cluster, SECTOR)

    def _listed(self, first: int) -> Iterator[File]:
        long: list[tuple[int, bytes]] = []
        for sector in self._sectors(first):
            data = self._read(sector, SECTOR)
            for at in range(0, SECTOR, _ENTRY):
                entry = data[at : at + _ENTRY]
                if entry[0] == _END:
                    return
                if entry[0] == _DELETED:
                    long = []
                elif entry[11] == _LONG:
                    long.append((sector + at, entry))
                else:
                    if not entry[11] & _VOLUME:
                        yield _file(long, sector + at, entry)
                    long = []

    def _room(self, first: int, count: int) -> int:
        """Where so many entries fit in one sector, so that they come all at once. The directory may grow."""
        for sector in self._sectors(first):
            entries = self._read(sector, SECTOR)[::_ENTRY]
            free = "".join("." if one in (_DELETED, _END) else "#" for one in entries)
            at = free.find("." * count)
            if at >= 0:
                return sector + at * _ENTRY
            if _END in entries:  # what comes behind the end is not looked at, so it has to move
                data = bytearray(self._read(sector, SECTOR))
                data[entries.index(_END) * _ENTRY :: _ENTRY] = bytes([_DELETED]) * (len(entries) - entries.index(_END))
                self.blocks.write(sector, bytes(data))
                self.blocks.flush()
        return self._grown(first)

    def _grown(self, first: int) -> int:
        last, [new] = self._chain(first)[-1], self._unused(1)
        self._write_clusters([new], bytes(self._cluster))
        self.blocks.flush()
        self._link([new, _NUMBER])
        self._flush_tables()
        self._link([last, new])
        self._flush_tables()
        return self._place(new)

    def _change(self, place: int, data: bytes) -> None:
        """Write within one sector."""
        sector = place // SECTOR * SECTOR
        old = self._read(sector, SECTOR)
        self.blocks.write(sector, old[: place - sector] + data + old[place - sector + len(data) :])

    # ---- clusters

    def _chain(self, first: int) -> list[int]:
        found: list[int] = []
        while 2 <= first < min(_LAST, len(self._next)):
            if len(found) > len(self._next):
                raise InputError("a chain of clusters goes round in circles", hint="the file system is broken")
            found.append(first)
            first = self._next[first] & _NUMBER
        return found

    def _link(self, clusters: Sequence[int]) -> None:
        for one, following in itertools.pairwise(clusters):
            self._next[one] = following

    def _flush_tables(self) -> None:
        """Write what changed, to each copy."""
        data = self._next.tobytes()
        data += self._stored[len(data) :]
        for start, end in _changed(self._stored, data):
            for table in self._tables:
                self.blocks.write(table + start, data[start:end])
        self._stored = data
        self.blocks.flush()

    def _place(self, cluster: int) -> int:
        return self._data + (cluster - 2) * self._cluster

    def _runs(self, clusters: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Place and size of what lies in a row, in pieces of at most 1 MiB."""
        at = 0
        while at < len(clusters):
            end = at + 1
            limit = min(len(clusters), at + _PIECE // self._cluster)
            while end < limit and clusters[end] == clusters[end - 1] + 1:
                end += 1
            yield self._place(clusters[at]), (end - at) * self._cluster
            at = end

    def _runs_read(self, clusters: Sequence[int]) -> Iterator[bytes]:
        for place, size in self._runs(clusters):
            yield self._read(place, size)

    def _write_clusters(self, clusters: Sequence[int], data: bytes) -> None:
        at = 0
        for place, size in self._runs(clusters):
            self.blocks.write(place, data[at : at + size].ljust(size, b"\0"))
            at += size

    def _read(self, place: int, size: int) -> bytes:
        return self.blocks.read(place, size)


def _number(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "little")


def _file(long: Sequence[tuple[int, bytes]], place: int, entry: bytes) -> File:
    return File(
        name=_long_name([data for _, data in long]) or _short_name(entry[:11]),
        is_directory=bool(entry[11] & _DIRECTORY),
        cluster=_number(entry, 20, 2) << 16 | _number(entry, 26, 2),
        size=_number(entry, 28, 4),
        places=(*(one for one, _ in long), place),
        short=entry[:11],
    )


def _long_name(entries: Sequence[bytes]) -> str:
    """From its entries, the last first."""
    raw = b"".join(entry[place : place + 2] for entry in reversed(entries) for place in _PLACES)
    return raw.decode("utf-16-le", "replace").partition("\0")[0]


def _short_name(raw: bytes) -> str:
    stem, ending = raw[:8].decode("ascii", "replace").rstrip(), raw[8:].decode("ascii", "replace").rstrip()
    return f"{stem}.{ending}" if ending else stem


def _entries(name: str, short: bytes, cluster: int, size: int) -> bytes:
    """The entries of a file: its long name from the back, and then the short one."""
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7) + (checksum >> 1) + byte & 0xFF
    count = -(-len(name) // _LETTERS)
    letters = (name + "\0" * (len(name) % _LETTERS > 0)).encode("utf-16-le").ljust(count * _LETTERS * 2, b"\xff")
    found = b""
    for number in range(count, 0, -1):
        part = letters[(number - 1) * _LETTERS * 2 : number * _LETTERS * 2]
        first = number | (0x40 if number == count else 0)
        found += bytes([first]) + part[:10] + bytes([_LONG, 0, checksum]) + part[10:22] + b"\0\0" + part[22:]
    times = struct.pack("<HHHHHH", 0, _EARLIEST, _EARLIEST, cluster >> 16, 0, _EARLIEST)
    return found + short + bytes([_FILE, 0, 0]) + times + struct.pack("<HI", cluster & 0xFFFF, size)


def _changed(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Runs of sectors that differ."""
    start = None
    for at in range(0, len(new), SECTOR):
        if old[at : at + SECTOR] != new[at : at + SECTOR]:
            start = at if start is None else start
        elif start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(new)
