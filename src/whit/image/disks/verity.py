"""Verity: the hash tree of dm-verity, read and checked. veritysetup (tools/veritysetup.py) writes it.

Format: Documentation/admin-guide/device-mapper/verity.rst of Linux, and its superblock as cryptsetup has it
(lib/verity/verity.c): version 1, SHA-256, blocks of 4096 bytes, the salt before each.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from uuid import UUID

from whit.base.errors import InputError
from whit.model.blocks import Blocks
from whit.tools.veritysetup import BLOCK, Tree

_MAGIC = b"verity\0\0"
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH")
_DIGEST = 32
_PIECE = 1 << 20
_OPTION = re.compile(r"\bwhit\.verity=([0-9a-f]{64}):(\d+):([0-9a-f]+)\b")


def option(tree: Tree) -> str:
    """As the kernel's command line has it (init/disk/verity.h)."""
    return f"whit.verity={tree.root_hash}:{tree.blocks}:{tree.salt}"


def of_option(text: str) -> Tree:
    """Raises InputError if the command line has none."""
    found = _OPTION.search(text)
    if found is None:
        raise InputError("the kernel's command line has no root hash", hint="was the disk made by whit build?")
    return Tree(found[1], found[3], int(found[2]))


def identity(hashes: Blocks) -> UUID | None:
    """What the superblock names itself; None where there is none."""
    found = _SUPERBLOCK.unpack_from(hashes.read(0, BLOCK))
    return UUID(bytes=found[3]) if found[0] == _MAGIC else None


def size(tree: Tree) -> int:
    """Bytes of the superblock and all levels."""
    blocks, found = tree.blocks, BLOCK
    while blocks > 1:
        blocks = -(-blocks * _DIGEST // BLOCK)
        found += blocks * BLOCK
    return found


def check(data: Blocks, hashes: Blocks, tree: Tree) -> None:
    """Read all of the data and its hash tree. Raises InputError if a bit is not as the root hash says."""
    salt = bytes.fromhex(tree.salt)
    levels = []
    digests = b"".join(_digests(data, tree.blocks, salt))
    while True:
        level = b"".join(digests[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(digests), BLOCK))
        levels.append(level)
        digests = b"".join(_hashed(level, salt))
        if len(digests) == _DIGEST:
            break
    stored = hashes.read(BLOCK, size(tree) - BLOCK)
    if digests.hex() != tree.root_hash or stored != b"".join(reversed(levels)):
        raise InputError("the root is not what its root hash says", hint="the disk is broken, or was changed")


def _digests(data: Blocks, blocks: int, salt: bytes) -> Iterator[bytes]:
    for at in range(0, blocks * BLOCK, _PIECE):
        yield from _hashed(data.read(at, min(_PIECE, blocks * BLOCK - at)), salt)


def _hashed(data: bytes, salt: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), BLOCK):
        yield hashlib.sha256(salt + data[at : at + BLOCK]).digest()
