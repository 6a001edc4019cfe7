"""Kernels of machines: Debian's cloud kernel, or one out of an image that holds it as LinuxKit's do.

An image has the kernel as a file, and its modules in a tar beside it, which is unpacked to the machine's root.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whit.base.errors import InputError, NotFound, Place
from whit.image import kernel as debian
from whit.image import manifest
from whit.image.machines.parts import Kernel, Root
from whit.image.tree import Entry, read_tar
from whit.model.machine import KernelSpec, MachineSpec
from whit.tools import modprobe

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "virtio_blk", "overlay")
"""Drivers of what every machine has, and what lets containers write to their roots."""
_NO_TAR = ("", "none")


def needed(spec: MachineSpec) -> tuple[str, ...]:
    """The modules that the machine asks for: by name, and for the links that it makes."""
    links = (
        one.add for container in spec.containers if container.runtime for one in container.runtime.interfaces if one.add
    )
    named = spec.kernel.modules if spec.kernel else ()
    return tuple(dict.fromkeys((*MODULES, *named, *links)))


async def of_debian(store: Path, spec: KernelSpec, names: Sequence[str], *, refresh: bool = False) -> Kernel:
    """Raises NotFound if the kernel has no such module, and what fetching it raises."""
    linux = await debian.obtain(store, manifest.architecture(), spec.debian or "stable", refresh=refresh)
    modules = await debian.modules(linux, names)
    image = linux.image.read_bytes()
    return Kernel(linux.release, image, tuple(replace(entry, origin="kernel") for entry in modules))


async def of_image(spec: KernelSpec, root: Root, names: Sequence[str], scratch: Path) -> Kernel:
    """Raises InputError if the image lacks what the machine file names."""
    files = {entry.path: entry for entry in root.entries}
    image = _file(files, spec.binary, root, "binary")
    microcode = _file(files, spec.ucode, root, "ucode").content if spec.ucode else b""
    if spec.tar in _NO_TAR:
        return Kernel("", image.content, microcode=microcode)
    tar = scratch / "kernel.tar"
    await asyncio.to_thread(tar.write_bytes, _file(files, spec.tar, root, "tar").data())
    tree = tuple(replace(entry, origin="kernel") for entry in read_tar(tar, devices=True))
    release, modules = await _drivers(tree, names, scratch / "kernel")
    return Kernel(release, image.content, modules, tree, microcode)


async def _drivers(tree: Sequence[Entry], names: Sequence[str], directory: Path) -> tuple[str, tuple[Entry, ...]]:
    """Those of `names` that are modules of this kernel; a kernel without modules has everything built in."""
    found = [entry for entry in tree if entry.path.startswith("lib/modules/") and entry.kind == "file"]
    if not found:
        return "", ()
    await asyncio.to_thread(_lay_out, found, directory)
    linux = debian.Kernel(found[0].path.split("/")[2], directory)
    await modprobe.index(directory, linux.release)
    modules: dict[str, Entry] = {}
    for name in names:
        try:
            modules |= {entry.path: entry for entry in await debian.modules(linux, [name])}
        except NotFound:
            continue
    return linux.release, tuple(modules.values())


def _lay_out(entries: Sequence[Entry], directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for entry in entries:
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data())


def _file(files: dict[str, Entry], name: str, root: Root, key: str) -> Entry:
    entry = files.get(name.strip("/"))
    if entry is None or entry.kind != "file":
        hint = f"say with kernel.{key} which file it is"
        error = InputError(f"the image {root.name} has no file {name}", place=Place(key=f"kernel.{key}"), hint=hint)
        error.code = f"machine-kernel-{key}"
        raise error
    return entry
