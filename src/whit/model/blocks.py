"""Blocks: a disk as something that is read and written by place, be it a file here or a disk in a machine that runs.

Who writes in an order that matters, flushes in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SECTOR = 512
"""Bytes that are written whole or not at all. Places and sizes are multiples of it."""


class Blocks(Protocol):
    """A disk, or a part of one."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None:
        """What was written before outlives the power, whatever is written later."""


@dataclass(frozen=True)
class Window:
    """A part of a disk, which looks like one of its own."""

    blocks: Blocks
    offset: int
    size: int

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        return self.blocks.read(self.offset + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self.blocks.write(self.offset + offset, data)

    def flush(self) -> None:
        self.blocks.flush()

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes at {offset} are outside of a part of {self.size}")
