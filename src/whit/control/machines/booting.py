"""Finds out what a file is that somebody wants booted, and makes a virtual machine of it."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from whit.base.errors import InputError, NotFound, Unavailable
from whit.image.oci import manifest
from whit.image.rootfs.tree import read_tar
from whit.model.machine_files import DESCRIPTION, MachineFiles
from whit.tools import qemu, qemu_img

_APP_FILES = (".yaml", ".yml")
_FIRMWARE = {
    "amd64": ("ovmf", Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    "arm64": ("qemu-efi-aarch64", Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd")),
}
"""Debian's package, its code, and the variables that a new machine begins with."""
_MEMORY = 512
"""MiB of a machine that does not say what it needs."""
_CONSOLE = Path("/dev/null")
"""Replaced where the machine is run."""


@dataclass(frozen=True)
class Wishes:
    """What the person asks of the machine; None leaves it to the image."""

    memory: int | None = None
    cpus: int = 1
    forwards: tuple[qemu.Forward, ...] = ()
    disks: tuple[qemu.Disk, ...] = ()
    qmp: Path | None = None
    discard: bool = False
    architecture: str = ""
    """For which a disk or medium is made; empty: this machine's. All others say so themselves."""


def is_machine(path: Path) -> bool:
    """Whether it is to be booted as it is, and no app to be built."""
    return (path / DESCRIPTION).is_file() if path.is_dir() else path.is_file() and path.suffix not in _APP_FILES


def machine(path: Path, wishes: Wishes, scratch: Path) -> qemu.Machine:
    """The machine that is in a directory or file. Archives are unpacked to `scratch`.

    Raises:
        NotFound: nothing is there.
        InputError: it is no machine.
        Unavailable: its firmware is not installed.
    """
    if path.is_dir():
        return _of_directory(path, wishes)
    if not path.is_file():
        raise NotFound(f"there is nothing at {path}", hint="name an app, an image, or what whit build --target wrote")
    if _is_optical(path):
        medium = qemu.Disk(path, "medium", read_only=True, optical=True)
        return _started_by_firmware(path, (medium, *wishes.disks), wishes, scratch)
    form = _disk_form(path)
    if form is not None:
        return _of_disk(path, form, wishes, scratch)
    if tarfile.is_tarfile(path):
        _unpack(path, scratch)
        return _of_directory(scratch, wishes)
    raise InputError(f"{path} is no machine", hint="whit build --target microvm makes one")


def _is_optical(path: Path) -> bool:
    """ECMA-119, 8.1.2: the first volume descriptor stands in the 17th sector of 2048 bytes."""
    with path.open("rb") as file:
        file.seek(16 * 2048 + 1)
        return file.read(5) == b"CD001"


def _disk_form(path: Path) -> Literal["raw", "qcow2"] | None:
    """By how it begins: a GPT stands in the second sector."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(qemu_img.MAGIC):
        return "qcow2"
    return "raw" if head[512:520] == b"EFI PART" else None


def _of_disk(path: Path, form: Literal["raw", "qcow2"], wishes: Wishes, scratch: Path) -> qemu.Machine:
    own = qemu.Disk(path, "disk", form=form, discard=wishes.discard)
    return _started_by_firmware(path, (own, *wishes.disks), wishes, scratch)


def _started_by_firmware(path: Path, disks: tuple[qemu.Disk, ...], wishes: Wishes, scratch: Path) -> qemu.Machine:
    package, code, pristine = _FIRMWARE[wishes.architecture or manifest.architecture()]
    variables = scratch / "variables"
    shutil.copyfile(_found(pristine, package), variables)
    return qemu.Machine(
        kernel=None,
        initrd=None,
        append="",
        console=_CONSOLE,
        memory=wishes.memory or _MEMORY,
        cpus=wishes.cpus,
        disks=disks,
        forwards=wishes.forwards,
        qmp=wishes.qmp,
        firmware=qemu.Firmware(_found(code, package), variables),
        architecture=wishes.architecture,
        name=path.stem,
    )


def _found(path: Path, package: str) -> Path:
    if not path.is_file():
        raise Unavailable(f"there is no {path}, with which machines boot through UEFI", hint=f"apt install {package}")
    return path


def _unpack(archive: Path, directory: Path) -> None:
    for entry in read_tar(archive):
        if entry.kind == "file" and "/" not in entry.path:
            (directory / entry.path).write_bytes(entry.data())


def _of_directory(directory: Path, wishes: Wishes) -> qemu.Machine:
    found = _description(directory)
    disks = tuple(qemu.Disk(directory / one.file, one.serial, one.read_only) for one in found.disks)
    return qemu.Machine(
        kernel=directory / found.kernel,
        initrd=directory / found.initrd,
        append=found.append,
        console=_CONSOLE,
        memory=wishes.memory or found.memory,
        cpus=wishes.cpus,
        disks=(*disks, *wishes.disks),
        forwards=wishes.forwards,
        qmp=wishes.qmp,
        architecture=found.architecture,
        name=found.name,
    )


def _description(directory: Path) -> MachineFiles:
    path = directory / DESCRIPTION
    try:
        return MachineFiles.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{directory} has no {DESCRIPTION}", hint="whit build --target microvm writes one") from error
    except ValidationError as error:
        text = f"{path} is not what a build writes: {error.errors()[0]['msg']}"
        raise InputError(text, hint="write it anew with: whit build --target microvm", code="machine-json") from error
