"""Directory: the files below a directory of the host as entries of a tree, and their digest.

Modes are kept, owners become root. Links are copied, never followed; one that leads out of the directory is refused.
`.whitignore` names what stays out: one pattern a line as for fnmatch(3), matched against the path and against each
name in it; a pattern with a slash at its start is matched against the path alone.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.image.rootfs.tree import Entry, Extent
from whit.model import lock

IGNORE_FILE = ".whitignore"
ALWAYS_IGNORED = (".git", "__pycache__", "*.pyc", f"/{IGNORE_FILE}", f"/{lock.FILE}")
"""The lock says what an image was made of, so it would be another image once the lock is written."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Directory:
    """A snapshot: paths and what lstat(2) said. `root` has no links in it."""

    root: Path
    found: tuple[tuple[str, os.stat_result], ...]

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Sorted by path, below `prefix`. Raises InputError for what cannot be in an image."""
        for path, status in self.found:
            yield self._entry(path, posixpath.join(prefix, path), status)

    def digest(self) -> str:
        """Changes with each path, mode, link and content, and with nothing else. Reads every file."""
        whole = hashlib.sha256()
        for path, status in self.found:
            kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
            whole.update(f"{path}\0{kind:o}\0{mode:o}\0{status.st_size if stat.S_ISREG(kind) else 0}\0".encode())
            if stat.S_ISLNK(kind):
                whole.update(os.fsencode((self.root / path).readlink()))
            elif stat.S_ISREG(kind):
                whole.update(_content_digest(self.root / path))
        return whole.hexdigest()

    def _entry(self, path: str, target: str, status: os.stat_result) -> Entry:
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            return Entry(target, "directory", mode)
        if stat.S_ISLNK(status.st_mode):
            return Entry(target, "symlink", 0o777, target=self._link(path))
        if stat.S_ISREG(status.st_mode):
            return Entry(target, mode=mode, content=Extent(self.root / path, 0, status.st_size))
        raise InputError(
            "is neither a file, nor a directory, nor a link",
            place=Place(str(self.root / path)),
            hint=f"remove it, or name it in {IGNORE_FILE}",
            code="directory-special-file",
        )

    def _link(self, path: str) -> str:
        target = str((self.root / path).readlink())
        landed = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not target.startswith("/") and (landed == ".." or landed.startswith("../")):
            raise InputError(
                f"is a link to {target}, outside of the directory",
                place=Place(str(self.root / path)),
                hint=f"copy the file into the directory, or name the link in {IGNORE_FILE}",
                code="directory-link-out",
            )
        return target


def scan(path: Path, ignored: Sequence[str] = ()) -> Directory:
    """Look at everything below `path` that is not ignored. Raises InputError if it is not a directory."""
    root = path.resolve()
    if not root.is_dir():
        raise InputError(
            "is not a directory",
            place=Place(str(path)),
            hint="check the path in the app file",
            code="part-no-directory",
        )
    patterns = [*ALWAYS_IGNORED, *ignored, *_read_ignored(root)]
    return Directory(root, tuple(sorted(_walk(root, "", patterns), key=lambda item: item[0].split("/"))))


def take(path: Path, target: str = "", ignored: Sequence[str] = ()) -> Iterator[Entry]:
    """The entries of a directory below `target`, or of one file at it. Raises InputError."""
    if target and path.is_file():
        source = path.resolve()
        status = source.stat()
        yield Entry(target, mode=stat.S_IMODE(status.st_mode), content=Extent(source, 0, status.st_size))
        return
    yield from scan(path, ignored).entries(target)


def digest(path: Path, target: str = "", ignored: Sequence[str] = ()) -> str:
    """Of what `take` gives, but for `target`. Raises InputError."""
    if target and path.is_file():
        source = path.resolve()
        return f"{stat.S_IMODE(source.stat().st_mode):o} {_content_digest(source).hex()}"
    return scan(path, ignored).digest()


def _walk(root: Path, below: str, patterns: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as items:
        for item in items:
            path = posixpath.join(below, item.name)
            if any(_matches(path, item.name, pattern) for pattern in patterns):
                continue
            yield path, item.stat(follow_symlinks=False)
            if item.is_dir(follow_symlinks=False):
                yield from _walk(root, path, patterns)


def _matches(path: str, name: str, pattern: str) -> bool:
    if pattern.startswith("/"):
        return fnmatch.fnmatchcase(path, pattern[1:])
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern)


def _read_ignored(root: Path) -> list[str]:
    file = root / IGNORE_FILE
    if not file.is_file():
        return []
    lines = (line.strip() for line in file.read_text().splitlines())
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _content_digest(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
