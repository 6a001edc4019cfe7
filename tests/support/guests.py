"""What tests of guests share: kernels of Debian that are fetched once for this machine, C programs, first roots."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from whit.image.oci import manifest
from whit.image.rootfs import cpio
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import kernel
from whit.image.sources.kernel import Kernel, Series

KERNELS = Path("/var/cache/whit/kernels")
"""Kept between runs: two kernels are 130 MB unpacked."""
QUIET = "console=ttyS0 quiet panic=-1"
HAS_QEMU = shutil.which("qemu-system-x86_64") is not None


async def debian_kernel(series: Series) -> Kernel:
    return await kernel.obtain(KERNELS, manifest.architecture(), series)


def compiled(source: Path, target: Path, libraries: Sequence[str] = ()) -> Path:
    """A static program."""
    argv = ["clang", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source), *libraries]
    subprocess.run(argv, check=True, capture_output=True, text=True)
    return target


async def first_root(target: Path, *entries: Entry) -> Path:
    """A compressed initramfs of `entries`."""
    tree = Tree()
    for entry in entries:
        tree.add(entry)
    with target.with_suffix(".cpio").open("wb") as output:
        await asyncio.to_thread(cpio.write, tree, output)
    await cpio.compress(target.with_suffix(".cpio"), target)
    return target


def program(path: str, source: Path) -> Entry:
    return Entry(path, mode=0o755, content=source.read_bytes())
