"""System calls that Python 3.11 does not offer, through the C library, and errors that name the call and the path.

Others in this folder own what the calls mean; here is only how they are made.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whit.base.errors import SystemCallError

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

SYS_LANDLOCK_CREATE_RULESET = 444
"""The same on every architecture, as all system calls since Linux 5.1."""
_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_STACK = 1 << 16


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare", "")


def clone_and_exit(flags: int) -> None:
    """Start a process in new namespaces that ends at once, and wait for it: says whether the kernel lets us.

    unshare cannot make user namespaces here, because a process with threads may not. The child shares our memory and
    runs nothing but `_exit` of the C library, while the calling thread stands still.
    """
    stack = ctypes.create_string_buffer(_STACK)
    top = (ctypes.addressof(stack) + _STACK) & ~0xF
    function = ctypes.cast(_libc._exit, ctypes.c_void_p)
    kind = ctypes.c_int(flags | _CLONE_VM | _CLONE_VFORK | signal.SIGCHLD)
    child = _checked(_libc.clone(function, ctypes.c_void_p(top), kind, None), "clone", "")
    os.waitpid(child, 0)


def prctl(option: int, *arguments: int) -> None:
    _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, arguments)), "prctl", "")


def setns(descriptor: int, kind: int, path: str = "") -> None:
    """Move the calling thread into the namespace that `descriptor` refers to."""
    _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns", path)


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2). Empty strings are null pointers."""
    pointers = [os.fsencode(text) if text else None for text in (source, target, kind)]
    options = os.fsencode(data) if data else None
    _checked(_libc.mount(*pointers, ctypes.c_ulong(flags), options), "mount", target)


def umount2(target: str, flags: int) -> None:
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount2", target)


def system_call(name: str, number: int, *arguments: int | bytes | None) -> int:
    """A call that the C library has no function for. Integers are passed as longs.

    Raises:
        SystemCallError: the kernel refused; its `call` is `name`.
    """
    passed = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *passed), name, "")


def _checked(result: int, call: str, path: str) -> int:
    if result < 0:
        raise SystemCallError(call, ctypes.get_errno(), path)
    return result


@contextmanager
def named(call: str, path: Path | str = "") -> Iterator[None]:
    """Turn an OSError of the body into a SystemCallError that says which call failed, and on what."""
    try:
        yield
    except OSError as error:
        raise SystemCallError(call, error.errno or 0, str(path)) from error
