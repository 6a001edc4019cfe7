"""Plain kernel: the ELF file within a kernel for x86 that unpacks itself (bzImage).

QEMU loads it in a twentieth of the time that a machine without KVM takes to unpack it, and enters it by its PVH note.
What only the unpacker does is left out: the kernel lies at its usual address (no KASLR). Format: "The Linux/x86 Boot
Protocol", Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import asyncio
import gzip
import lzma
import os
import shutil
import struct
import tempfile
from pathlib import Path

from whit.base.errors import WhitError
from whit.image.sources.kernel import Kernel
from whit.tools import process

_MAGIC = b"HdrS"
_MAGIC_AT, _SECTORS_AT, _PAYLOAD_AT = 0x202, 0x1F1, 0x248
_SECTOR = 512
_SIZE = 4
"""Bytes after the payload, with its length once unpacked; gzip has them by itself."""
_TOOLS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
_ELF = b"\x7fELF"
_PVH_NOTE = struct.pack("<I", 18) + b"Xen\0"
"""XEN_ELFNOTE_PHYS32_ENTRY, of a kernel with CONFIG_PVH; xen/include/public/elfnote.h."""


async def obtain(linux: Kernel) -> Path:
    """The plain kernel beside the packed one, made the first time; the packed one where there is none to be had."""
    plain = linux.root / "boot" / f"vmlinux-{linux.release}"
    if plain.exists():
        return plain
    content = await unpacked(await asyncio.to_thread(linux.image.read_bytes))
    if content is None:
        return linux.image
    await asyncio.to_thread(_publish, content, plain)
    return plain


async def unpacked(image: bytes) -> bytes | None:
    """The ELF file that QEMU can start; None: it holds none, or nothing here can unpack it."""
    payload = _payload(image)
    if payload[:2] == b"\x1f\x8b":
        content = gzip.decompress(payload)
    elif payload[:6] == b"\xfd7zXZ\0":
        content = lzma.LZMADecompressor().decompress(payload)
    elif tool := _TOOLS.get(payload[:4]):
        content = await _by_tool(tool, payload[:-_SIZE])
    else:
        return None
    return content if content[:4] == _ELF and _PVH_NOTE in content else None


def _payload(image: bytes) -> bytes:
    if image[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        return b""
    start, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start += (image[_SECTORS_AT] + 1) * _SECTOR
    return image[start : start + length]


async def _by_tool(tool: str, payload: bytes) -> bytes:
    if shutil.which(tool, path=process.CLEAN_ENVIRONMENT["PATH"]) is None:
        return b""
    try:
        return (await process.run([tool, "-dc"], stdin=payload)).stdout
    except WhitError:  # it is not what its first bytes say
        return b""


def _publish(content: bytes, target: Path) -> None:
    descriptor, scratch = tempfile.mkstemp(prefix=".plain-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as output:
            output.write(content)
        Path(scratch).chmod(0o644)
        Path(scratch).rename(target)
    finally:
        Path(scratch).unlink(missing_ok=True)
