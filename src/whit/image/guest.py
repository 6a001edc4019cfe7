"""Guest: the first root (initramfs) of a microVM: its first process and the modules that find its root.

Small, because it is unpacked at every boot: a static program and some 200 KB of drivers.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path

from whit.image import cpio
from whit.image.sources import kernel
from whit.image.sources.kernel import Kernel
from whit.image.tree import Entry, Tree

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtiofs", "virtio_rng")
_DIRECTORIES = ("dev", "proc", "sys")


async def first_root(linux: Kernel, program: Path) -> Path:
    """The archive, made if it is not there yet, beside the kernel. Its name has the digest of all that is in it."""
    modules = await kernel.modules(linux, MODULES)
    init = Entry("init", mode=0o755, content=await asyncio.to_thread(program.read_bytes))
    digest = hashlib.sha256(b"".join(entry.data() for entry in (init, *modules))).hexdigest()
    path = linux.root / f"initrd-{digest[:32]}"
    if not path.exists():
        await _write(path, [init, *modules])
    return path


async def _write(path: Path, entries: list[Entry]) -> None:
    tree = Tree()
    names = "".join(f"/{entry.path}\n" for entry in entries[1:])
    directories = [Entry(name, "directory", 0o755) for name in _DIRECTORIES]
    for entry in (*entries, *directories, Entry("modules", content=names.encode())):
        tree.add(entry)
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=path.parent) as scratch:
        plain, made = Path(scratch) / "plain", Path(scratch) / "made"
        with plain.open("wb") as output:
            await asyncio.to_thread(cpio.write, tree, output)
        await cpio.compress(plain, made)
        made.chmod(0o644)
        made.rename(path)
