"""Directories and files as operations: made with their mode and owner, taken away again.

A file appears under its name by rename: nobody reads half of it.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import Conflict
from whit.kernel import libc
from whit.kernel.mount import table
from whit.kernel.thread import in_thread

_MAKING = 2.0
"""Seconds for which somebody may remove what we make on the way to a directory."""


def make_path(path: Path, *, mode: int = 0o777) -> None:
    """Make a directory and those above it, content if it is there, also while somebody else removes an empty one above:
    as who cleans an agent away does with one that all agents share."""
    until = time.monotonic() + _MAKING
    with libc.named("mkdir", path):
        while not path.is_dir():
            try:
                path.mkdir(mode=mode, parents=True)
            except (FileNotFoundError, FileExistsError):
                if path.is_file() or time.monotonic() > until:
                    raise


def make_directory(path: Path, *, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
    """Make a directory and those above it; if it is there, it gets this mode and owner."""
    with libc.named("mkdir", path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if owner is not None:
            os.chown(path, *owner)


def write_file(path: Path, content: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write a file that is there whole or not at all, with its mode and owner from the start."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with libc.named("write", path):
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                if owner is not None:
                    os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def copy_sparse(source: Path, target: Path, *, mode: int) -> None:
    """A new file with what is written in `source`, within the kernel; what is not written takes no room there either.
    Blocks. Raises FileNotFoundError, FileExistsError."""
    with source.open("rb") as original:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, mode), "wb") as copy:
            size, end = os.fstat(original.fileno()).st_size, 0
            os.truncate(copy.fileno(), size)
            while (begin := _next_data(original.fileno(), end)) is not None:
                end = os.lseek(original.fileno(), begin, os.SEEK_HOLE)
                while begin < end:
                    begin += os.copy_file_range(original.fileno(), copy.fileno(), end - begin, begin, begin)


def _next_data(descriptor: int, offset: int) -> int | None:
    """See lseek(2), SEEK_DATA."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


@dataclass(frozen=True)
class MakeDirectory:
    """Undo takes the directory away with all in it, unless `keep` is set, for directories that others use too."""

    path: Path
    mode: int = 0o755
    owner: tuple[int, int] | None = None
    keep: bool = False

    def describe(self) -> str:
        return f"make directory {self.path}"

    async def do(self) -> None:
        make_directory(self.path, mode=self.mode, owner=self.owner)

    async def undo(self) -> None:
        if not self.keep:
            await in_thread(_remove_tree, self.path)


@dataclass(frozen=True)
class WriteFile:
    path: Path
    content: bytes
    mode: int = 0o644
    owner: tuple[int, int] | None = None

    def describe(self) -> str:
        return f"write {self.path}"

    async def do(self) -> None:
        await in_thread(write_file, self.path, self.content, mode=self.mode, owner=self.owner)

    async def undo(self) -> None:
        self.path.unlink(missing_ok=True)


def _remove_tree(path: Path) -> None:
    """Raises Conflict if something is mounted there: removing would empty another file system."""
    mounted = [str(point.path) for point in table() if point.path.is_relative_to(path)]
    if mounted:
        raise Conflict(f"{path} is not removed: {', '.join(mounted)} is mounted", hint=f"umount {mounted[-1]}")
    if path.exists():
        shutil.rmtree(path)
