"""qemu-img: disks in QEMU's own format. Options: qemu-img(1)."""

from __future__ import annotations

from pathlib import Path

from whit.tools import process

MAGIC = b"QFI\xfb"
"""How a qcow2 begins (docs/interop/qcow2.txt of QEMU)."""


async def to_qcow2(raw: Path, output: Path) -> None:
    """The same disk as qcow2, the same bytes for the same disk.

    Raises:
        Unavailable: qemu-utils is not installed.
    """
    await process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(output)], timeout=600)
