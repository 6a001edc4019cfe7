"""What this machine has of the tools that disks and ISO images are made and booted with."""

from __future__ import annotations

import shutil
from pathlib import Path

from whit.model.feature import Feature
from whit.tools import kbuild

_EFI = {"mkfs.fat": "dosfstools", "mcopy": "mtools", "/usr/lib/systemd/boot/efi": "systemd-boot-efi"}
_DISK = {"veritysetup": "cryptsetup-bin", "mke2fs": "e2fsprogs"} | _EFI
_ISO = {"xorriso": "xorriso"} | _EFI
_UEFI = {"/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf"}


def features() -> list[Feature]:
    """None of them is required: only their forms need them."""
    found = [_of("disks", _DISK), _of("ISO images", _ISO), _of("UEFI for whit boot", _UEFI)]
    found.append(_of("specialised kernels", {**kbuild.PROGRAMS, **kbuild.HEADERS}))
    return [*found, *map(_cross_compiler, _other_architectures())]


def _other_architectures() -> list[str]:
    """Those that kernels are built for by a compiler of their own."""
    return [one for one in kbuild.ARCHITECTURES if kbuild.compiler_of(one) != "gcc"]


def _cross_compiler(architecture: str) -> Feature:
    compiler, package = kbuild.compiler_of(architecture), kbuild.compiler_package(architecture)
    return _of(f"specialised kernels for {architecture}", {compiler: package})


def _of(name: str, needed: dict[str, str]) -> Feature:
    missing = {one: package for one, package in needed.items() if not _is_there(one)}
    if not missing:
        return Feature(name=name, state="works", detail=", ".join(Path(one).name for one in needed))
    detail = f"there is no {', '.join(missing)}"
    return Feature(name=name, state="missing", detail=detail, hint=f"apt install {' '.join(missing.values())}")


def _is_there(what: str) -> bool:
    return Path(what).exists() if what.startswith("/") else shutil.which(what) is not None
