"""Guest: the first root (initramfs) of a microVM: its first process and the modules that find its root.

Small, because it is unpacked at every boot: a static program and some 200 KB of drivers.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path

from whit.image.rootfs import cpio
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import kernel
from whit.image.sources.kernel import Kernel

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtiofs", "virtio_rng")
DISK_MODULES = ("virtio_blk", "crc32c_generic", "ext4")
"""Of guests with a root of their own; the others do not wait for them."""
_DIRECTORIES = ("dev", "proc", "sys")


async def first_root(linux: Kernel, program: Path) -> Path:
    """The archive, made if it is not there yet, beside the kernel. Its name has the digest of all that is in it."""
    modules = await kernel.modules(linux, MODULES)
    every = await kernel.modules(linux, (*MODULES, *DISK_MODULES))
    known = {entry.path for entry in modules}
    others = [entry for entry in every if entry.path not in known]
    init = Entry("init", mode=0o755, content=await asyncio.to_thread(program.read_bytes))
    digest = hashlib.sha256(b"".join(entry.data() for entry in (init, *modules, *others))).hexdigest()
    path = linux.root / f"initrd-{digest[:32]}"
    if not path.exists():
        await _write(path, init, modules, others)
    return path


def _list(name: str, modules: list[Entry]) -> Entry:
    return Entry(name, content="".join(f"/{entry.path}\n" for entry in modules).encode())


async def _write(path: Path, init: Entry, modules: list[Entry], others: list[Entry]) -> None:
    tree = Tree()
    directories = [Entry(name, "directory", 0o755) for name in _DIRECTORIES]
    lists = [_list("modules", modules), _list("modules.disk", others)]
    for entry in (init, *modules, *others, *directories, *lists):
        tree.add(entry)
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=path.parent) as scratch:
        plain, made = Path(scratch) / "plain", Path(scratch) / "made"
        with plain.open("wb") as output:
            await asyncio.to_thread(cpio.write, tree, output)
        await cpio.compress(plain, made)
        made.chmod(0o644)
        made.rename(path)
