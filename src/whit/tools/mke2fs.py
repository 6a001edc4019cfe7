"""mke2fs: an ext4 in a file, empty and the same bytes each time, or with what is in a directory. Options: mke2fs(8)."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from whit.tools import process


async def write_tree(image: Path, tree: Path, *, size: int) -> None:
    """A new file of `size` bytes, sparse, with all that is below `tree`: owners, modes and attributes too.

    Raises:
        Unavailable: e2fsprogs is not installed.
        CommandError: it does not fit.
    """
    with image.open("wb") as file:
        file.truncate(size)
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-i", "65536", "-E", "lazy_itable_init=1,nodiscard"]
    await process.run([*argv, "-d", str(tree), str(image)], timeout=600)


async def write(image: Path, *, size: int, label: str, identity: UUID, epoch: int) -> None:
    """A new file of `size` bytes, sparse, owned by root.

    Raises:
        Unavailable: e2fsprogs is not installed.
    """
    with image.open("wb") as file:
        file.truncate(size)
    options = f"hash_seed={identity},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", str(identity), "-E", options, "-m", "0"]
    # Zero would be taken for no time at all.
    await process.run([*argv, str(image)], env={"E2FSPROGS_FAKE_TIME": str(max(epoch, 1))}, timeout=300)
