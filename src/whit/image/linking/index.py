"""Index: a finished tree by path and by directory, with links followed as the kernel would inside of the image."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from whit.image.rootfs.tree import Entry, Tree

_DEPTH = 40
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Found:
    """Where a path leads, and the links on the way, which have to be there for it."""

    entry: Entry
    links: tuple[str, ...]


class Index:
    def __init__(self, tree: Tree) -> None:
        self.entries = {entry.path: entry for entry in tree}
        self._children: dict[str, list[str]] = {}
        for path in self.entries:
            self._children.setdefault(posixpath.dirname(path), []).append(path)

    def find(self, path: str) -> Found | None:
        """The file or directory that a path leads to; the root's slash may be left out."""
        links: list[str] = []
        here, rest = "", [part for part in path.split("/") if part and part != "."]
        while rest:
            part = rest.pop(0)
            here = posixpath.dirname(here) if part == ".." else posixpath.join(here, part)
            entry = self.entries.get(here)
            if entry is None and here:
                return None
            if entry is not None and entry.kind == "symlink":
                links.append(here)
                if len(links) > _DEPTH:
                    return None
                below = [part for part in entry.target.split("/") if part and part != "."]
                here, rest = "" if entry.target.startswith("/") else posixpath.dirname(here), below + rest
        found = self.entries.get(here)
        return Found(found, tuple(links)) if found else None

    def children(self, directory: str) -> list[str]:
        """Paths directly in a directory, sorted."""
        return self._children.get(directory, [])

    def below(self, directory: str) -> Iterator[Entry]:
        """Everything below a directory that is no directory itself."""
        for path in self.children(directory):
            if self.entries[path].kind == "directory":
                yield from self.below(path)
            else:
                yield self.entries[path]

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths that a shell's pattern leads to, part by part; links are followed on the way."""
        yield from self._glob("", [part for part in pattern.split("/") if part])

    def _glob(self, directory: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            yield directory
        elif not _MAGIC.search(parts[0]):
            path = posixpath.join(directory, parts[0])
            if self.find(path):
                yield from self._glob(path, parts[1:])
        elif found := self.find(directory) if directory else None:
            yield from self._matching(directory, self.children(found.entry.path), parts)
        else:
            yield from self._matching(directory, self.children(""), parts)

    def _matching(self, directory: str, children: Iterable[str], parts: list[str]) -> Iterator[str]:
        for child in children:
            name = posixpath.basename(child)
            if fnmatch.fnmatchcase(name, parts[0]):
                yield from self._glob(posixpath.join(directory, name), parts[1:])


def matches(path: str, patterns: Iterable[str]) -> bool:
    """A path in a part's include or exclude: the whole path, or a directory that it is below; * crosses slashes."""
    cleaned = (pattern.strip("/") for pattern in patterns)
    return any(fnmatch.fnmatchcase(path, one) or fnmatch.fnmatchcase(path, f"{one}/*") for one in cleaned)
