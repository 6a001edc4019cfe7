"""EROFS: a read-only file system of a tree, the same bytes for the same tree.

Owners, hard links and attributes come from the tree, so neither root nor an unpacked copy is needed. That is why it is
written here: mkfs.erofs 1.5 takes directories only, and follows the order in which they are read. Nothing is
compressed.
Format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from whit.base.errors import InputError
from whit.image.rootfs import layer
from whit.image.rootfs.tree import Entry, Extent

BLOCK = 4096
_START = 1024
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sI")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_ENTRY = struct.Struct("<QHBB")
_MAGIC = 0xE0F5E1E2
_SLOT = 32
_EXTENDED = 1
_PLAIN, _INLINE = 0 << 1, 2 << 1
_NOTHING = 0xFFFFFFFF
_NAME_LIMIT = 255
_KINDS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO}
_TYPES = {"file": 1, "directory": 2, "fifo": 5, "symlink": 7}
_PREFIXES = {
    "user.": 1,
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "trusted.": 4,
    "security.": 6,
}
_COPY = 1 << 20


@dataclass
class _Inode:
    entry: Entry
    size: int = 0
    links: int = 1
    position: int = 0
    """Of its first byte in the image."""
    block: int = 0
    """Where its whole blocks begin."""
    attributes: bytes = b""
    children: dict[str, _Inode] = field(default_factory=dict)
    parent: _Inode | None = None
    data: bytes | Extent = b""

    @property
    def number(self) -> int:
        return self.position // _SLOT

    @property
    def head(self) -> int:
        """Bytes before data that is kept behind it."""
        return _INODE.size + len(self.attributes)

    @property
    def tail(self) -> int:
        return self.size % BLOCK

    @property
    def inline(self) -> bool:
        """Whether what does not fill a block lies behind the inode."""
        return self.tail > 0 and self.head + self.tail <= BLOCK


def write(entries: Iterable[Entry], output: Path, label: str = "") -> None:
    """Write the tree, which comes with parents before what is in them, as a whole number of blocks.

    Raises:
        InputError: a name is longer than 255 bytes, or an attribute is of a kind that Linux does not know.
    """
    inodes = _inodes(entries)
    end = _place(inodes)
    blocks = _place_blocks(inodes, end)
    with output.open("wb", buffering=_COPY) as file:
        file.truncate(blocks * BLOCK)
        for inode in inodes:
            _write_inode(file, inode)
        file.seek(_START)
        file.write(_superblock(inodes, blocks, label, b""))
    # The identity comes from what is in it.
    with output.open("r+b") as file:
        identity = hashlib.file_digest(file, "sha256").digest()[:16]
        file.seek(_START)
        file.write(_superblock(inodes, blocks, label, identity))


def _inodes(entries: Iterable[Entry]) -> list[_Inode]:
    """All of them, the root first, each directory with what is in it."""
    root = _Inode(Entry("", "directory", 0o755))
    root.parent = root
    found: dict[str, _Inode] = {"": root}
    linked: dict[tuple[object, ...], _Inode] = {}
    for entry in entries:
        directory, _, name = entry.path.rpartition("/")
        if len(_bytes(name)) > _NAME_LIMIT:
            text = f"{entry.path} has a name of more than {_NAME_LIMIT} bytes"
            raise InputError(text, hint="give it a shorter one", code="name-too-long")
        identity = (entry.inode, entry.mode, entry.uid, entry.gid)
        inode = linked.get(identity) if entry.inode else None
        if inode is None:
            inode = found[entry.path] = _Inode(entry, attributes=_attributes(entry), parent=found[directory])
            if entry.inode:
                linked[identity] = inode
        else:
            inode.links += 1
        found[directory].children[name] = inode
    inodes = list(found.values())
    for inode in inodes:
        _settle(inode)
    return inodes


def _settle(inode: _Inode) -> None:
    """Its size and number of links."""
    entry = inode.entry
    if entry.kind == "directory":
        inode.size = _directory_size(inode)
        inode.links = 2 + sum(1 for child in inode.children.values() if child.entry.kind == "directory")
    elif entry.kind == "symlink":
        inode.data = _bytes(entry.target)
        inode.size = len(inode.data)
    elif entry.kind == "file":
        inode.data = entry.content
        inode.size = entry.size


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _attributes(entry: Entry) -> bytes:
    """The attributes behind an inode: a header of 12 bytes, then each name and value, filled up to 4 bytes."""
    packed = b""
    for name, value in entry.xattrs:
        prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
        if prefix is None:
            text = f"{entry.path} has the attribute {name}, which a file system cannot keep"
            raise InputError(text, hint="link the part without it, or leave the file out", code="attribute-unknown")
        rest = _bytes(name.removeprefix(prefix))
        one = struct.pack("<BBH", len(rest), _PREFIXES[prefix], len(value)) + rest + value
        packed += one + bytes(-len(one) % 4)
    return bytes(12) + packed if packed else b""


def _place(inodes: list[_Inode]) -> int:
    """Give each inode its place, none of them over the end of a block with what is behind it. The end of the last."""
    position = _START + 128
    for inode in inodes:
        wanted = inode.head + (inode.tail if inode.inline else 0)
        room = BLOCK - position % BLOCK
        if inode.inline and wanted > room:
            position += room
        inode.position = position
        position += -(-wanted // _SLOT) * _SLOT
    return position


def _place_blocks(inodes: list[_Inode], end: int) -> int:
    """Give the contents their blocks, in the order of the inodes. The number of all blocks."""
    block = -(-end // BLOCK)
    for inode in inodes:
        whole = inode.size // BLOCK if inode.inline else -(-inode.size // BLOCK)
        inode.block = block if whole else 0
        block += whole
    return block


def _directory_entries(inode: _Inode) -> list[tuple[bytes, _Inode]]:
    assert inode.parent is not None
    every = [(b".", inode), (b"..", inode.parent)]
    every += [(_bytes(name), child) for name, child in inode.children.items()]
    return sorted(every, key=lambda item: item[0])


def _directory_blocks(inode: _Inode) -> Iterator[list[tuple[bytes, _Inode]]]:
    """Entries that fit into a block together, with their names behind them."""
    taken: list[tuple[bytes, _Inode]] = []
    used = 0
    for name, child in _directory_entries(inode):
        size = _ENTRY.size + len(name)
        if used + size > BLOCK:
            yield taken
            taken, used = [], 0
        taken.append((name, child))
        used += size
    yield taken


def _directory_size(inode: _Inode) -> int:
    *full, last = _directory_blocks(inode)
    return len(full) * BLOCK + sum(_ENTRY.size + len(name) for name, _ in last)


def _directory_data(inode: _Inode) -> bytes:
    data = b""
    for block in _directory_blocks(inode):
        data += bytes(-len(data) % BLOCK)
        offset = len(block) * _ENTRY.size
        names = b""
        for name, child in block:
            data += _ENTRY.pack(child.number, offset + len(names), _TYPES[child.entry.kind], 0)
            names += name
        data += names
    return data


def _write_inode(file: BinaryIO, inode: _Inode) -> None:
    entry = inode.entry
    inline = inode.inline
    count = (len(inode.attributes) - 12) // 4 + 1 if inode.attributes else 0
    header = _INODE.pack(
        _EXTENDED | (_INLINE if inline else _PLAIN),
        count,
        _KINDS[entry.kind] | (0o777 if entry.kind == "symlink" else entry.mode),
        0,
        inode.size,
        0 if entry.kind == "fifo" else inode.block or (_NOTHING if inline else 0),
        inode.number,
        entry.uid,
        entry.gid,
        layer.timestamp(),
        0,
        inode.links,
    )
    file.seek(inode.position)
    file.write(header + inode.attributes)
    data = _directory_data(inode) if entry.kind == "directory" else inode.data
    whole = inode.size - inode.tail if inline else inode.size
    if inline:
        file.write(_slice(data, whole, inode.tail))
    file.seek(inode.block * BLOCK)
    for offset in range(0, whole, _COPY):
        file.write(_slice(data, offset, min(_COPY, whole - offset)))


def _slice(data: bytes | Extent, offset: int, size: int) -> bytes:
    if isinstance(data, bytes):
        return data[offset : offset + size]
    with data.path.open("rb") as source:
        found = os.pread(source.fileno(), size, data.offset + offset)
    if len(found) != size:
        raise InputError(f"{data.path} became shorter while it was read", hint="try again")
    return found


def _superblock(inodes: list[_Inode], blocks: int, label: str, identity: bytes) -> bytes:
    fields = (
        _MAGIC,
        0,  # no checksum: what is verified is verified by dm-verity
        0,
        BLOCK.bit_length() - 1,
        0,
        inodes[0].number,
        len(inodes),
        layer.timestamp(),
        0,
        blocks,
        0,
        0,
        identity,
        _bytes(label)[:15],
        0,
    )
    return _SUPERBLOCK.pack(*fields).ljust(128, b"\0")
