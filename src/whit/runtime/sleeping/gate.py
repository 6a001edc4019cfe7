"""The gate before a sandbox's program, as runc has one of its own: init/bare/gate.c is the first process there, and
becomes the program when a byte comes through a fifo.

The sandbox holds the fifo open for as long as its program waits, and no longer: so whoever comes sees whether it does.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MakeGate:
    """The fifo. One that is there is of an earlier sandbox."""

    path: Path

    def describe(self) -> str:
        return f"make fifo {self.path}"

    async def do(self) -> None:
        self.path.unlink(missing_ok=True)
        os.mkfifo(self.path, 0o600)

    async def undo(self) -> None:
        self.path.unlink(missing_ok=True)


def is_shut(path: Path) -> bool:
    """Whether a program waits behind it."""
    descriptor = _opened(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def open_up(path: Path) -> bool:
    """Let the program run; False if none waits. Waits for nobody."""
    descriptor = _opened(path)
    if descriptor is None:
        return False
    try:
        os.write(descriptor, b"x")
    finally:
        os.close(descriptor)
    return True


def _opened(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
    return None
