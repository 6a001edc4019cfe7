"""Tree: the files of a layer before it is written, by path, from whatever source brings them.

Adding follows dpkg: a directory never replaces a link to a directory, a link never replaces a directory, and a path
whose parent is a link lands where the link leads. That is also all there is to merged /usr: the links are there first.
Contents stay where they are (`Extent`) until layer.py writes them.
"""

from __future__ import annotations

import dataclasses
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import HostileArchive

Kind = Literal["file", "directory", "symlink", "fifo"]

MERGED_USR = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
"""Links at the root of a Debian system (Debian policy 10.1; usrmerge)."""

_LINK_DEPTH = 40
_XATTR = "SCHILY.xattr."


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file on disk."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Content = bytes | Extent


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `path` has no slash at either end; files with the same `inode` are hard links of each other."""

    path: str
    kind: Kind = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    target: str = ""
    content: Content = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    inode: str = ""
    origin: str = ""
    """The package that brought it; provenance only, and no part of a layer."""

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read()

    def head(self, size: int) -> bytes:
        """The first bytes of a file."""
        if isinstance(self.content, bytes):
            return self.content[:size]
        return dataclasses.replace(self.content, size=min(size, self.content.size)).read()


class Tree:
    """Entries by path; where two bring the same path, the later one wins.

    `below` names links of the layers under this one, so that `bin/x` of a later part does not hide the link `/bin`.
    """

    def __init__(self, below: Mapping[str, str] | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._links: dict[str, str] = dict(below or {})

    def __iter__(self) -> Iterator[Entry]:
        """Sorted by path with a directory before what is in it; directories that nobody brought are made."""
        self._make_parents()
        for path in sorted(self._entries, key=lambda path: path.split("/")):
            yield self._entries[path]

    def __contains__(self, path: str) -> bool:
        return self.locate(path) in self._entries

    def get(self, path: str) -> Entry | None:
        return self._entries.get(self.locate(path))

    def under(self, directory: str) -> list[Entry]:
        """What is below `directory`, sorted by path."""
        prefix = self.locate(directory) + "/"
        return [self._entries[path] for path in sorted(self._entries) if path.startswith(prefix)]

    def add(self, entry: Entry) -> None:
        path = self.locate(entry.path)
        present = self._entries.get(path)
        if entry.kind == "directory" and path in self._links:
            return
        if entry.kind == "symlink" and present is not None and present.kind == "directory":
            return
        if present is not None and present.kind == "directory" and entry.kind != "directory":
            self._remove_below(path)
        if entry.kind == "symlink":
            self._links[path] = entry.target
        else:
            self._links.pop(path, None)
        self._entries[path] = dataclasses.replace(entry, path=path) if path != entry.path else entry

    def remove(self, path: str) -> None:
        path = self.locate(path)
        self._links.pop(path, None)
        self._entries.pop(path, None)
        self._remove_below(path)

    def locate(self, path: str) -> str:
        """Where `path` lands once the links in its parent are followed, inside the tree."""
        parent, _, name = path.rpartition("/")
        return posixpath.join(self._directory(parent, 0), name) if parent else path

    def _directory(self, path: str, depth: int) -> str:
        if not path:
            return ""
        if depth > _LINK_DEPTH:
            raise HostileArchive(f"too many symbolic links at {path}", code="archive-link-loop")
        parent, _, name = path.rpartition("/")
        base = self._directory(parent, depth)
        here = posixpath.join(base, name)
        target = self._links.get(here)
        if target is None:
            return here
        led = posixpath.normpath(posixpath.join("/", base, target)).lstrip("/")
        return self._directory(led, depth + 1)

    def _remove_below(self, path: str) -> None:
        for below in [other for other in self._entries if other.startswith(path + "/")]:
            del self._entries[below]
            self._links.pop(below, None)

    def _make_parents(self) -> None:
        for path in list(self._entries):
            parent = posixpath.dirname(path)
            while parent and parent not in self._entries:
                self._entries[parent] = Entry(parent, "directory", 0o755)
                parent = posixpath.dirname(parent)


def clean_path(name: str, where: str) -> str:
    """The path of a tar member relative to the root. Raises HostileArchive if it leads outside."""
    path = name.rstrip("/")
    while path.startswith("./"):
        path = path[2:]
    if path in ("", "."):
        return ""
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise HostileArchive(
            f"{where}: the path {name!r} leads outside of the archive",
            hint="do not use this archive",
            code="archive-outside",
        )
    return path


def read_tar(archive: Path, *, devices: bool = False) -> Iterator[Entry]:
    """The members of an uncompressed tar, their contents left in it. Raises HostileArchive.

    Device nodes are refused, or with `devices` passed over below /dev, where every runtime mounts its own.
    """
    files: dict[str, Entry] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if devices and (member.ischr() or member.isblk()) and clean_path(member.name, "").startswith("dev/"):
                    continue
                entry = _entry(archive, member, files)
                if entry is not None:
                    yield entry
    except tarfile.TarError as error:
        raise HostileArchive(f"{archive.name} is not a readable tar: {error}", code="archive-unreadable") from error


def _entry(archive: Path, member: tarfile.TarInfo, files: dict[str, Entry]) -> Entry | None:
    path = clean_path(member.name, archive.name)
    if not path:
        return None
    common = Entry(path, mode=member.mode & 0o7777, uid=member.uid, gid=member.gid, xattrs=_xattrs(member))
    if member.isdir():
        return dataclasses.replace(common, kind="directory")
    if member.issym():
        return dataclasses.replace(common, kind="symlink", mode=0o777, target=member.linkname)
    if member.islnk():
        return _hard_link(archive, common.path, clean_path(member.linkname, archive.name), files)
    if member.isfifo():
        return dataclasses.replace(common, kind="fifo")
    if not member.isreg() or member.issparse():
        raise HostileArchive(
            f"{archive.name}: {path} is neither file, directory, link nor fifo", code="archive-special-file"
        )
    extent = Extent(archive, member.offset_data, member.size)
    files[path] = dataclasses.replace(common, content=extent, inode=f"{archive}:{path}")
    return files[path]


def _hard_link(archive: Path, path: str, target: str, files: dict[str, Entry]) -> Entry:
    first = files.get(target)
    if first is None:
        raise HostileArchive(
            f"{archive.name}: {path} is a hard link to {target}, which does not come before it",
            code="archive-hard-link",
        )
    files[path] = dataclasses.replace(first, path=path)
    return files[path]


def _xattrs(member: tarfile.TarInfo) -> tuple[tuple[str, bytes], ...]:
    named = {key[len(_XATTR) :]: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)}
    return tuple((name, value.encode("utf-8", "surrogateescape")) for name, value in sorted(named.items()))
