"""The control ring: packets that came for instances that sleep. Unlike the ring of events it wakes who waits for it.

Who may sleep is marked at its endpoint, by address; what is told names the link.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from whit.base.errors import Permanent
from whit.datapath import abi, libbpf
from whit.datapath.events import RingReader, kind_of


class Knocks(RingReader):
    """One reader at a time, which goes on where the last one stopped."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._descriptor = libbpf.open_pin(path)

    def fileno(self) -> int:
        """Readable as long as something waits to be read."""
        return self._descriptor

    def watch(self, called: Callable[[], None]) -> None:
        """Have it called by the running loop when something is there, until `unwatch`."""
        asyncio.get_running_loop().add_reader(self._descriptor, called)

    def unwatch(self) -> None:
        """Safe twice."""
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def take(self) -> list[abi.WakeEvent]:
        """All that wait, oldest first. Raises Permanent if one is of another version of Whit."""
        return [_knock(record) for record in self.read()]

    def close(self) -> None:
        super().close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def packet_of(event: abi.WakeEvent) -> bytes:
    """The frame that was held; empty if it was delivered, or lost."""
    return event.packet[: event.length]


def _knock(record: bytes) -> abi.WakeEvent:
    if kind_of(record) != abi.EventKind.WAKE or len(record) != abi.WakeEvent.SIZE:
        raise Permanent(f"a control event of {len(record)} bytes is of no known kind", hint="it is of another version")
    return abi.WakeEvent.unpack(record)
