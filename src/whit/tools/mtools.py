"""mtools and mkfs.fat: a FAT file system in a file, without mounting it, with fixed times and identity.

Options: mkfs.fat(8), mtools(1), mcopy(1).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from whit.kernel import temporary
from whit.tools import process

_ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
_LEAST_FAT32 = 40 << 20
EARLIEST = 315532800
"""1980, when time begins for FAT."""


async def write(image: Path, files: Mapping[str, Path], *, size: int, label: str, identity: int, epoch: int) -> None:
    """Make a file system of `size` bytes with these files, by their path in it; a new file is written.

    It is FAT32, as UEFI wants it of disks, where there is room for one.

    Raises:
        Unavailable: dosfstools or mtools are not installed.
        CommandError: it does not fit.
    """
    environment = _ENVIRONMENT | {"SOURCE_DATE_EPOCH": str(max(epoch, EARLIEST))}
    with image.open("wb") as file:
        file.truncate(size)
    kind = ["-F", "32", "-s", "1"] if size >= _LEAST_FAT32 else ["-F", "16"]
    argv = ["mkfs.fat", "--invariant", *kind, "-S", "512", "-n", label, "-i", f"{identity:08x}", str(image)]
    await process.run(argv, env=environment)
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents if str(parent) != "."}
    if parents:
        await process.run(["mmd", "-i", str(image), *(f"::/{one}" for one in sorted(parents))], env=environment)
    with temporary.directory("fat") as scratch:
        for number, path in enumerate(sorted(files)):
            # mcopy keeps the time of what it copies, and nothing else sets it.
            copy = scratch / str(number)
            shutil.copyfile(files[path], copy)
            os.utime(copy, (max(epoch, EARLIEST),) * 2)
            argv = ["mcopy", "-m", "-o", "-i", str(image), str(copy), f"::/{path}"]
            await process.run(argv, env=environment, timeout=300)
