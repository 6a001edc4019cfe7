"""Network namespaces that persist at a path, and work inside them.

A namespace is kept alive by a bind mount of its file, as `ip netns` does it. The directory of these files is not made a
shared mount: a mount namespace that copied our mounts (a container that starts, a service of systemd) loses its copy
when the file is unlinked (Linux 3.18, commit 8ed936b5671b), so `remove` lets go of every reference of the file system.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from whit.base.errors import Conflict, NotFound
from whit.kernel import libc, mount
from whit.kernel.thread import in_fresh_thread, in_thread

T = TypeVar("T")

_OWN = "/proc/thread-self/ns/net"
_SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h, Linux 5.14."""


def create(path: Path) -> None:
    """Make a new network namespace and keep it at `path`. No other thread is ever in it.

    If the process is killed half way, an ordinary empty file may be left, which a later `create` or `remove` takes.

    Raises:
        Conflict: a namespace is kept there already.
        SystemCallError: unshare or mount was refused.
    """
    if exists(path):
        raise Conflict(f"a network namespace is kept at {path} already", hint="remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o400)
    in_fresh_thread(lambda: _create_here(path))


def _create_here(path: Path) -> None:
    libc.unshare(libc.CLONE_NEWNET)
    mount.bind(Path(_OWN), path)


def remove(path: Path) -> None:
    """Let go of the namespace. It ends when no process or socket uses it. Safe if there is none."""
    if exists(path):
        mount.unmount(path)
    path.unlink(missing_ok=True)


def exists(path: Path) -> bool:
    """Whether a namespace is kept at `path`; a file that is nothing but a file does not count."""
    try:
        return path.stat().st_dev == Path(_OWN).stat().st_dev
    except FileNotFoundError:
        return False


def kept_in(directory: Path) -> list[Path]:
    """The files of a directory of namespaces, also those left by a killed `create`."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def inode(path: Path) -> int:
    """The number that stands for the namespace in /proc/<pid>/ns/net.

    Raises:
        NotFound: no namespace is kept there.
    """
    if not exists(path):
        raise NotFound(f"no network namespace at {path}")
    return path.stat().st_ino


def cookie() -> int:
    """The cookie of the calling thread's namespace, as BPF programs see it (bpf_get_netns_cookie)."""
    with libc.named("getsockopt SO_NETNS_COOKIE"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        return int.from_bytes(own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """The calling thread is inside the namespace for the length of the body. Only for threads made for this purpose:
    what else runs in the thread meanwhile, as other tasks of an event loop would, is inside too."""
    with libc.named("open", _OWN):
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(path)
        try:
            yield
        finally:
            libc.setns(before, libc.CLONE_NEWNET, "back from " + str(path))
    finally:
        os.close(before)


def _enter(path: Path) -> None:
    with opened(path) as descriptor:
        libc.setns(descriptor, libc.CLONE_NEWNET, str(path))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of the namespace, for setns and for netlink.

    Raises:
        NotFound: no namespace is kept there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no network namespace at {path}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def call_in(path: Path, function: Callable[[], T]) -> T:
    """Run `function` inside the namespace, in a thread that ends with it. A socket that it opens and returns stays in
    the namespace, whichever thread uses it."""

    def inside() -> T:
        _enter(path)
        return function()

    return in_fresh_thread(inside)


@dataclass(frozen=True)
class CreateNetns:
    path: Path

    def describe(self) -> str:
        return f"create network namespace {self.path}"

    async def do(self) -> None:
        await in_thread(create, self.path)

    async def undo(self) -> None:
        await in_thread(remove, self.path)
