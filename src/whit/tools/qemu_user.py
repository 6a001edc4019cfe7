"""QEMU's user mode: one program that runs programs of another architecture; Debian's qemu-user-static has it."""

from __future__ import annotations

import shutil
from pathlib import Path

from whit.base.errors import Unavailable

_NAMES = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}


def emulator(architecture: str) -> Path:
    """The static program, which works in any root. Raises Unavailable."""
    found = shutil.which(_NAMES[architecture])
    if found is None:
        raise Unavailable(
            f"what is linked for {architecture} is not proven here: {_NAMES[architecture]} is not installed",
            hint="apt-get install qemu-user-static, or leave link: closure and build.check out for it",
        )
    return Path(found)
