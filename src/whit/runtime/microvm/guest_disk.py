"""The disk of a machine that runs, through its port "whit.upgrade" (init/disk/upgrade.c). What is written there, and in
which order, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from whit.base.errors import Conflict, NotFound, Permanent, TimedOut

PORT = "whit.upgrade"
_REQUEST = struct.Struct("<4sIQII")
_ANSWER = struct.Struct("<II")
_MAGIC = b"UPG1"
_HELLO, _READ, _WRITE, _FLUSH, _REBOOT = 1, 2, 3, 4, 5
_LARGEST = 1 << 18
_PATIENCE, _PAUSE = 60.0, 0.2
"""Seconds in which the machine has to answer, which may only just boot, and between two questions."""


class MachineGone(Permanent):
    """It ended while its disk was read or written."""


class GuestDisk:
    """Made by `connected`."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        peer.settimeout(_PATIENCE)
        version, size, _ = self._hello()
        self.version = UUID(version)
        """That it runs now."""
        self.size = int(size)

    @property
    def proven(self) -> bool:
        """Whether that version has been well, so that it is one to fall back to."""
        return self._hello()[2] == "1"

    def until_proven(self, patience: float) -> bool:
        """Wait so many seconds for it."""
        end = time.monotonic() + patience
        while not (proven := self.proven) and time.monotonic() < end:
            time.sleep(_PAUSE)
        return proven

    def _hello(self) -> list[str]:
        return self._ask(_HELLO).decode().split()

    def read(self, offset: int, size: int) -> bytes:
        pieces = range(offset, offset + size, _LARGEST)
        return b"".join(self._ask(_READ, at, min(_LARGEST, offset + size - at)) for at in pieces)

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), _LARGEST):
            piece = data[at : at + _LARGEST]
            self._ask(_WRITE, offset + at, len(piece), piece)

    def flush(self) -> None:
        self._ask(_FLUSH)

    def reboot(self) -> None:
        self._ask(_REBOOT)

    def _ask(self, what: int, place: int = 0, size: int = 0, data: bytes = b"") -> bytes:
        try:
            self._peer.sendall(_REQUEST.pack(_MAGIC, what, place, size, 0) + data)
            error, size = _ANSWER.unpack(self._received(_ANSWER.size))
            answer = self._received(size)
        except TimeoutError as failed:
            hint = "has it two versions, and is it up? whit build --target disk makes such ones"
            raise TimedOut("the machine does not answer", hint=hint) from failed
        except OSError as failed:
            raise _gone() from failed
        if error == errno.EBUSY:
            raise Conflict("the version that the machine runs has not proved well", hint="wait until it is up")
        if error:
            raise Permanent(f"the machine cannot do that with its disk: {os.strerror(error)}")
        return answer

    def _received(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = self._peer.recv(size - len(found))
            if not piece:
                raise _gone()
            found += piece
        return bytes(found)


def _gone() -> MachineGone:
    hint = "a whole version is on its disk in any case; boot it, and try again"
    return MachineGone("the machine has gone", hint=hint)


@contextlib.contextmanager
def connected(place: Path) -> Iterator[GuestDisk]:
    """Raises NotFound if no machine listens there, and TimedOut if it does not answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(str(place))
        except OSError as error:
            hint = "boot it with: whit boot DISK --upgrade SOCKET"
            raise NotFound(f"no machine listens at {place}: {error.strerror}", hint=hint) from error
        yield GuestDisk(peer)
