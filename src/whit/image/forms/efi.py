"""What UEFI boots: the program of a machine (UKI), where it is looked for, and identities that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from whit.base.errors import Unavailable
from whit.image.disks import uki
from whit.image.forms.bootable import Bootable, first_root
from whit.image.rootfs.tree import Entry

_ARCHITECTURES = {"amd64": "x64", "arm64": "aa64"}


def default(machine: Bootable) -> str:
    """Where firmware looks on a medium that it does not know (UEFI specification 2.10, 3.5.1.1)."""
    return f"EFI/BOOT/BOOT{_ARCHITECTURES[machine.architecture].upper()}.EFI"


def installed(machine: Bootable, name: str) -> Path:
    """A program of systemd-boot; `{}` of the name is the architecture. Raises Unavailable."""
    path = machine.boot_programs / name.format(_ARCHITECTURES[machine.architecture])
    if not path.is_file():
        raise Unavailable(f"there is no {path}", hint=f"it is in Debian's systemd-boot-efi for {machine.architecture}")
    return path


async def initrd(machine: Bootable, records: Sequence[str], drivers: Sequence[Entry], work: Path) -> Path:
    """The first root, written below `work`."""
    boot = work / "boot"
    boot.mkdir()
    await first_root(machine, records, drivers, boot / "initrd")
    return boot / "initrd"


def program(machine: Bootable, append: str, first: Path, output: Path) -> None:
    """Write the UKI: kernel, first root and command line in one.

    It does not say a version: systemd-boot then takes those of a disk by their names, the greatest first.
    """
    release = f'ID=whit\nNAME="{machine.name}"\nPRETTY_NAME="{machine.name}"\n'
    kernel = Entry("kernel", content=machine.kernel).data()
    sections = (
        (".osrel", release.encode()),
        (".cmdline", append.encode()),
        (".initrd", first.read_bytes()),
        (".linux", kernel),
    )
    output.write_bytes(uki.link(installed(machine, "linux{}.efi.stub").read_bytes(), sections))


def identity_of(digest: str, what: str) -> UUID:
    """A UUID of version 8 (RFC 9562) that follows from what it is for."""
    number = bytearray(hashlib.sha256(f"{digest} {what}".encode()).digest()[:16])
    number[6], number[8] = number[6] & 0x0F | 0x80, number[8] & 0x3F | 0x80
    return UUID(bytes=bytes(number))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
