"""Kernels of machines: Debian's cloud kernel, or one out of an image that holds it as LinuxKit's do.

An image has the kernel as a file, and its modules in a tar beside it, which is unpacked to the machine's root.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from whit.base.errors import InputError, NotFound, Place
from whit.image.forms.bootable import VERITY_MODULES
from whit.image.machines.parts import Kernel, Root
from whit.image.oci import manifest
from whit.image.rootfs.tree import Entry, read_tar
from whit.image.sources import kernel as debian
from whit.image.sources import specialised
from whit.image.sources.calls import Seen
from whit.model.lock import Lock, Locked, LockedPackage
from whit.model.machine import KernelSpec, MachineSpec
from whit.tools import modprobe

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "virtio_blk", "overlay", "evdev", "button")
"""Drivers of what every machine has, its power button too, and what lets containers write to their roots."""
NOCLOUD = ("virtio_scsi", "sr_mod", "isofs", "vfat", "nls_cp437", "nls_ascii")
"""What reads a disk or CD that tells a machine more at its first boot."""
_NO_TAR = ("", "none")
_UNNAMED = "0.0"
"""The release of a kernel without modules, which nothing depends on."""


def needed(spec: MachineSpec) -> tuple[str, ...]:
    """The modules that the machine asks for: by name, and for the links that it makes."""
    links = (
        one.add for container in spec.containers if container.runtime for one in container.runtime.interfaces if one.add
    )
    named = spec.kernel.modules if spec.kernel else ()
    told = NOCLOUD if spec.first_boot == "nocloud" else ()
    return tuple(dict.fromkeys((*MODULES, *named, *links, *told)))


async def of_debian(
    store: Path,
    spec: KernelSpec,
    names: Sequence[str],
    say: Callable[[str], None],
    *,
    architecture: str = "",
    seen: Seen,
    refresh: bool = False,
    lock: Lock | None = None,
    fetch: bool = True,
) -> Kernel:
    """One that is specialised has the calls that were `seen`; Debian's has all.

    Raises NotFound if the kernel has no such module, and what fetching or building it raises.
    """
    architecture = architecture or manifest.architecture()
    if spec.debian == "specialised":
        linux = await specialised.obtain(store, architecture, specialised.SETS, seen=seen, say=say)
        await debian.modules(linux, names)
        return Kernel(linux, tuple(names))
    series = spec.debian or "stable"
    found = lock.find(asked_kernel(series, architecture)) if lock else None
    locked = found.packages[0] if found else None
    linux = await debian.obtain(store, architecture, series, refresh=refresh, locked=locked, fetch=fetch)
    await debian.modules(linux, names)
    return Kernel(linux, tuple(names))


async def of_image(spec: KernelSpec, root: Root, names: Sequence[str], scratch: Path) -> Kernel:
    """The kernel, laid out in `scratch` as Debian's packages are. Raises InputError if the image lacks a file."""
    files = {entry.path: entry for entry in root.entries}
    image = _file(files, spec.binary, root, "binary")
    microcode = _file(files, spec.ucode, root, "ucode").content if spec.ucode else b""
    tree: tuple[Entry, ...] = ()
    if spec.tar not in _NO_TAR:
        tar = scratch / "kernel.tar"
        await asyncio.to_thread(tar.write_bytes, _file(files, spec.tar, root, "tar").data())
        tree = tuple(replace(entry, origin="kernel") for entry in read_tar(tar, devices=True))
    found = [entry for entry in tree if entry.path.startswith("lib/modules/") and entry.kind == "file"]
    linux = debian.Kernel(found[0].path.split("/")[2] if found else _UNNAMED, scratch / "kernel")
    await asyncio.to_thread(_lay_out, [*found, replace(image, path=f"boot/vmlinuz-{linux.release}")], linux)
    await _complete(linux, (*names, *VERITY_MODULES))
    return Kernel(linux, tuple(names), tree, microcode)


async def _complete(linux: debian.Kernel, names: Sequence[str]) -> None:
    """Index the modules. What is asked for and is no module of this kernel has to be built in: nobody can tell."""
    await modprobe.index(linux.root, linux.release)
    built_in = []
    for name in dict.fromkeys(names):
        try:
            await debian.modules(linux, [name])
        except NotFound:
            built_in.append(f"kernel/{name}.ko\n")
    with (linux.modules / "modules.builtin").open("a") as listed:
        listed.writelines(built_in)
    await modprobe.index(linux.root, linux.release)


def asked_kernel(series: str, architecture: str) -> str:
    """What the lock file calls Debian's kernel."""
    return f"kernel {series or 'stable'} {architecture}"


def locked(spec: KernelSpec, kernel: Kernel) -> Lock:
    """Nothing of a kernel that was built here, or is out of an image."""
    package = debian.package_of(kernel.linux)
    if package is None or spec.image is not None:
        return Lock()
    entry = LockedPackage(package.name, package.version, package.architecture, package.sha256)
    return Lock({asked_kernel(spec.debian, package.architecture): Locked(packages=(entry,))})


def _lay_out(entries: Sequence[Entry], linux: debian.Kernel) -> None:
    shutil.rmtree(linux.root, ignore_errors=True)
    linux.modules.mkdir(parents=True)
    for entry in entries:
        path = linux.root / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data())


def _file(files: dict[str, Entry], name: str, root: Root, key: str) -> Entry:
    entry = files.get(name.strip("/"))
    if entry is None or entry.kind != "file":
        hint = f"say with kernel.{key} which file it is"
        text = f"the image {root.name} has no file {name}"
        raise InputError(text, place=Place(key=f"kernel.{key}"), hint=hint, code=f"machine-kernel-{key}")
    return entry
