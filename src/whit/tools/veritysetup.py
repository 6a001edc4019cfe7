"""veritysetup: the hash tree of dm-verity over a file, for a root that cannot be changed unseen. Needs no root.

Options: veritysetup(8); format: Documentation/admin-guide/device-mapper/verity.rst of Linux.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from whit.base.errors import CommandError
from whit.tools import process

BLOCK = 4096
_ROOT = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """What the kernel must know to check a device: all of it is verified by `root_hash`."""

    root_hash: str
    salt: str
    blocks: int


async def build(data: Path, tree: Path, identity: UUID, salt: bytes) -> Tree:
    """Write the hash tree of `data`, whole blocks of 4 KiB, to the file `tree`; SHA-256, with its own superblock.

    Raises:
        Unavailable: it is not installed.
    """
    argv = ["veritysetup", "format", "--hash=sha256", f"--uuid={identity}", f"--salt={salt.hex()}"]
    argv += [f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", str(data), str(tree)]
    shown = await process.run(argv, timeout=600)
    found = _ROOT.search(shown.text)
    if found is None:
        raise CommandError(argv, 0, shown.text)
    return Tree(found[1], salt.hex(), data.stat().st_size // BLOCK)
