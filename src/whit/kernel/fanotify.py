"""fanotify: which files below a mount are opened and executed, by whomever, while a thread listens; fanotify(7).

Unlike a tracer it sees interpreters, program loaders and what children of children do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import SystemCallError, Unavailable

_FAN_CLOEXEC, _FAN_UNLIMITED_QUEUE = 0x1, 0x10
_FAN_MARK_ADD, _FAN_MARK_MOUNT = 0x1, 0x10
_FAN_OPEN, _FAN_OPEN_EXEC = 0x20, 0x1000
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_BUFFER = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Opened:
    """Paths that were opened so far, as seen from this process's root."""

    def __init__(self, descriptor: int) -> None:
        self.paths: set[str] = set()
        self._descriptor = descriptor
        self._ending, self._end = os.pipe()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After what happened until now was read."""
        os.write(self._end, b"x")
        self._thread.join()
        for descriptor in (self._descriptor, self._ending, self._end):
            os.close(descriptor)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._ending, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._descriptor in ready:
                self._take(os.read(self._descriptor, _BUFFER))
            elif self._ending in ready:
                return

    def _take(self, data: bytes) -> None:
        at = 0
        while at + _EVENT.size <= len(data):
            length, _, _, _, _, descriptor, _ = _EVENT.unpack_from(data, at)
            at += length
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    self.paths.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
                os.close(descriptor)


@contextlib.contextmanager
def opened_below(mount_point: Path) -> Iterator[Opened]:
    """Listen to the mount at `mount_point`, and to none below it.

    Raises:
        Unavailable: this takes CAP_SYS_ADMIN, or the kernel has no fanotify.
        SystemCallError: `mount_point` cannot be marked.
    """
    descriptor = _libc.fanotify_init(_FAN_CLOEXEC | _FAN_UNLIMITED_QUEUE, os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(f"opened files cannot be observed: fanotify_init: {reason}", hint="run as root")
    mask, path = ctypes.c_uint64(_FAN_OPEN | _FAN_OPEN_EXEC), os.fsencode(mount_point)
    if _libc.fanotify_mark(descriptor, _FAN_MARK_ADD | _FAN_MARK_MOUNT, mask, _AT_FDCWD, path) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise SystemCallError("fanotify_mark", number, str(mount_point))
    opened = Opened(descriptor)
    try:
        yield opened
    finally:
        opened.close()
