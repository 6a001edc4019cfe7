"""A raw disk in a file, locked so that QEMU does not run it meanwhile, nor is it touched while QEMU runs it.

QEMU takes locks of the open file description on bytes from 100 and 200 on, one for each thing that it does or lets
nobody else do (block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import Conflict, InputError, NotFound

_LOCK = struct.Struct("hhqqi4x")
_FIRST, _COUNT = 100, 164


class DiskFile:
    """Made by `opened`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        found = os.pread(self._descriptor, size, offset)
        if len(found) < size:
            raise InputError("the disk ends too early", hint="was it copied whole?")
        return found

    def write(self, offset: int, data: bytes) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            offset, data = offset + written, data[written:]

    def flush(self) -> None:
        os.fsync(self._descriptor)


@contextlib.contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[DiskFile]:
    """The disk, for nobody else if it is to be written.

    Raises:
        NotFound: nothing is there.
        Conflict: a virtual machine runs it.
    """
    try:
        descriptor = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(
            f"{path} cannot be opened: {error.strerror}", hint="whit build --target disk writes one"
        ) from error
    try:
        if write:
            _lock(descriptor, path)
        yield DiskFile(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    wanted = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _COUNT, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        hint = "end it first, or upgrade it from inside: whit boot --upgrade SOCKET, whit upgrade SOCKET"
        raise Conflict(f"a machine runs from {path}", hint=hint) from error
