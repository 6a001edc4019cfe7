"""Directories for the time of one call, among the system's temporary files. What a killed process left of its own is
removed by the next one that needs a directory of the same kind."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SETTLED = 60.0
"""Seconds: a younger directory may belong to somebody who has not come to lock it yet."""


@contextmanager
def directory(kind: str) -> Iterator[Path]:
    """An empty directory `whit-KIND-…`, open to this user alone, removed at the end with all that is in it."""
    prefix = f"whit-{kind}-"
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        path = Path(name)
        with _locked(path, fcntl.LOCK_SH):
            for other in path.parent.glob(f"{prefix}*"):
                if other != path:
                    _remove_if_left(other)
            yield path


def _remove_if_left(path: Path) -> None:
    """A lock ends with the process that holds it."""
    with suppress(FileNotFoundError, NotADirectoryError, BlockingIOError, PermissionError):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mtime < time.time() - _SETTLED:
            with _locked(path, fcntl.LOCK_EX):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Raises BlockingIOError: somebody else holds it."""
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)
