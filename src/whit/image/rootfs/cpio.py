"""cpio: archives in the "newc" format, as the kernel unpacks them into its first root (initramfs).

Reproducible: entries are sorted, times are 0, inode numbers are counted. Extended attributes have no place in the
format. Format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from whit.base.errors import InputError
from whit.image.rootfs.tree import Entry, Extent
from whit.tools import process

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_LARGEST = (1 << 32) - 1
_COPY = 1 << 20
_QUICK, _SMALL = 3, 19
"""Levels of zstd."""
_LITTLE = 4 << 20
"""Bytes that the better one takes a second for."""
_KINDS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO}


def write(entries: Iterable[Entry], output: BinaryIO) -> None:
    """Write an uncompressed archive. Directories come before what is in them; hard links are joined.

    Raises:
        InputError: a file has 4 GiB or more.
    """
    ordered = sorted(entries, key=lambda entry: entry.path.split("/"))
    links = Counter(_identity(entry) for entry in ordered)
    numbers: dict[tuple[object, ...], int] = {}
    for position, entry in enumerate(ordered, start=1):
        identity = _identity(entry)
        first = numbers.setdefault(identity, position)
        # The kernel links later members to the first, which alone has the content.
        content = _content(entry) if first == position else b""
        _member(output, entry, first, links[identity], content)
    _member(output, Entry(_TRAILER, mode=0), 0, 1, b"")


async def compress(source: Path, target: Path, *, small: bool = False) -> None:
    """zstd, which the kernels of Debian 12 unpack fastest. Bit-identical on repeat.

    `small`, or little to begin with: a fifth smaller, in ten times as long; it is unpacked as fast.
    """
    level = _SMALL if small or source.stat().st_size < _LITTLE else _QUICK
    await process.run(["zstd", "-q", "-f", f"-{level}", "--no-progress", str(source), "-o", str(target)], timeout=600)


def _identity(entry: Entry) -> tuple[object, ...]:
    """Equal for hard links of one file; two links that were given different owners are two files."""
    return (entry.inode, entry.mode, entry.uid, entry.gid) if entry.inode else (entry.path,)


def _content(entry: Entry) -> bytes | Extent:
    if entry.kind == "symlink":
        return entry.target.encode("utf-8", "surrogateescape")
    return entry.content if entry.kind == "file" else b""


def _member(output: BinaryIO, entry: Entry, number: int, links: int, content: bytes | Extent) -> None:
    size = content.size if isinstance(content, Extent) else len(content)
    if size > _LARGEST:
        raise InputError(f"{entry.path} has {size} bytes, too many for a root in memory", hint="use a root on a disk")
    name = entry.path.encode("utf-8", "surrogateescape") + b"\0"
    mode = 0 if entry.path == _TRAILER else _KINDS[entry.kind] | entry.mode
    fields = (number, mode, entry.uid, entry.gid, links, 0, size, 0, 0, 0, 0, len(name), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    output.write(header + name + _padding(len(header) + len(name)))
    for chunk in _chunks(content):
        output.write(chunk)
    output.write(_padding(size))


def _padding(length: int) -> bytes:
    return b"\0" * (-length % 4)


def _chunks(content: bytes | Extent) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.path.open("rb") as file:
        file.seek(content.offset)
        left = content.size
        while left and (chunk := file.read(min(_COPY, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise InputError(f"{content.path} became shorter while it was read", hint="try again")
