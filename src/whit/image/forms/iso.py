"""The ISO form: an image for optical drives and sticks that UEFI boots. The whole machine lies in one program (UKI),
root and all, so it runs from memory and the medium can be taken out.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from whit.base.errors import InputError
from whit.image.forms import efi
from whit.image.forms.bootable import MEMORY, MEMORY_MODULES, Bootable, modules
from whit.image.rootfs import layer
from whit.image.sources.kernel import Kernel
from whit.tools import mtools, xorriso

LARGEST = 0xFFFF * 512
"""Bytes that El Torito can say a boot image has (its "sector count", 16 bits)."""
_ROOM = 2 << 20
"""For the tables of the file system."""


async def write(machine: Bootable, linux: Kernel, output: Path, work: Path) -> None:
    """Write the image to `output`. Parts are made in `work`, an empty directory.

    Raises:
        InputError: it is too large for this form.
        Unavailable: xorriso, systemd-boot, dosfstools or mtools are not installed.
    """
    drivers = await modules(machine, linux, MEMORY_MODULES)
    first, program = await efi.initrd(machine, (MEMORY,), drivers, work), work / "uki"
    await asyncio.to_thread(efi.program, machine, machine.append, first, program)
    identity = await asyncio.to_thread(efi.digest, program)
    size = -(-(program.stat().st_size + _ROOM) // 4096) * 4096
    if size > LARGEST:
        hint = "choose --target disk, or link less: link: closure"
        raise InputError(
            f"{machine.name} takes {size >> 20} MiB, and an ISO image boots at most 31", hint=hint, code="iso-too-large"
        )
    files, esp = work / "files", work / "esp"
    files.mkdir()
    files.chmod(0o755)  # whatever the umask is: it becomes the root of the medium
    number, epoch = int(identity[:8], 16), layer.timestamp()
    await mtools.write(esp, {efi.default(machine): program}, size=size, label="ESP", identity=number, epoch=epoch)
    disk = efi.identity_of(identity, "disk")
    await xorriso.write(output, files, esp, label=machine.name, identity=disk, epoch=epoch)
