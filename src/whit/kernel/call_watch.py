"""Which system calls a process and its children make, of some that are asked about: each is let through, and noted.

A seccomp filter hands them to a second process before they run (seccomp_unotify(2), Linux 5.5). Nothing is traced, so
programs run at their usual speed but for these calls; and no right is needed but to give up all new ones.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import select
import socket
import struct
from collections.abc import Collection, Iterable

from whit.base.errors import SystemCallError, Unavailable

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of linux/audit.h."""
_SECCOMP = {"x86_64": 317, "aarch64": 277}
"""The number of seccomp(2) itself: no library can be opened any more where a root was entered."""
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
"""ioctls of linux/seccomp.h."""
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K; linux/bpf_common.h."""
_MOST = 250
"""A jump leads over 255 instructions at most."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def numbers(names: Iterable[str]) -> dict[int, str]:
    """Names by their numbers here, of those that this architecture has. Raises Unavailable without libseccomp."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise Unavailable("system calls cannot be observed: no libseccomp", hint="apt install libseccomp2") from error
    found = {int(library.seccomp_syscall_resolve_name(name.encode())): name for name in names}
    return {number: name for number, name in found.items() if number >= 0}


class Watch:
    """Made while the process has one thread. What this process itself does is not noted, only what its children do."""

    def __init__(self, wanted: Collection[int]) -> None:
        self._wanted = sorted(wanted)[:_MOST]
        self._socket, other = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            try:
                _note(other)
            finally:
                os._exit(0)
        other.close()

    def begin(self) -> None:
        """For the calling thread and what it starts. It must have given up new privileges (prctl(2)).

        Raises:
            SystemCallError: there is no seccomp, or somebody watches already.
        """
        code = _filter(self._wanted)
        program = _Program(len(code) // _INSTRUCTION.size, code)
        listener = _libc.syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
        if listener < 0:
            raise SystemCallError("seccomp", ctypes.get_errno())
        socket.send_fds(self._socket, [b"."], [listener])
        os.close(listener)

    def end(self) -> set[tuple[int, int]]:
        """What was called, with the first argument. From now on these calls fail."""
        self._socket.shutdown(socket.SHUT_WR)
        with self._socket, self._socket.makefile("rb") as file:
            said = json.loads(file.read() or b"[]")
        os.waitpid(self._pid, 0)
        return {(number, argument) for number, argument in said}


def _filter(wanted: Collection[int]) -> bytes:
    """linux/seccomp.h, struct seccomp_data: the number of the call, then the architecture."""
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _ARCHITECTURES[platform.machine()]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 0),
        *((_EQUAL, len(wanted) - at, 0, number) for at, number in enumerate(wanted)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


def _note(peer: socket.socket) -> None:
    """In the second process: let everything through until the first one has no more to say."""
    _, descriptors, _, _ = socket.recv_fds(peer, 1, 1)
    if not descriptors:
        return
    listener, parent, seen = descriptors[0], os.getppid(), set()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(peer, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ready.get(listener, 0) & select.POLLIN:
            noted = _let_through(listener)
            if noted is not None and noted[0] != parent:
                seen.add(noted[1:])
        elif peer.fileno() in ready:
            peer.sendall(json.dumps(sorted(seen)).encode())
            return


def _let_through(listener: int) -> tuple[int, int, int] | None:
    """Process, number and first argument; None if it was killed meanwhile."""
    notification = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, notification)
        identity, pid, _, number, _, _, argument, *_ = _NOTIFICATION.unpack(notification)
        fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(identity, 0, 0, _CONTINUE)))
    except OSError:
        return None
    return pid, number, argument
