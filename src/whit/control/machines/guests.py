"""What microVMs boot is an image's business, running them is a driver's: here the one is handed to the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from whit.image.forms import guest
from whit.image.oci import manifest
from whit.image.sources import kernel, plain_kernel
from whit.runtime import programs
from whit.runtime.microvm.bundle import Guest

KERNELS = Path("/var/cache/whit/kernels")
"""Kept for all agents of this machine: a kernel is the same for all, and 70 MB."""

_making = asyncio.Lock()


async def obtain() -> Guest:
    """The kernel with its first root; fetched from Debian's mirror and made the first time.

    Raises:
        Unavailable: the host is not Debian, or the programs of init/ were not built.
        Permanent: the kernel's package cannot be fetched.
    """
    async with _making:
        linux = await kernel.obtain(KERNELS, manifest.architecture())
        first_root = await guest.first_root(linux, programs.path("guest"))
        return Guest(linux.release, await plain_kernel.obtain(linux), first_root)
