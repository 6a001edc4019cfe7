"""`files` of a machine as entries of its tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from whit.base.errors import InputError
from whit.image.rootfs.tree import Entry, Extent, Tree
from whit.image.sources import directory
from whit.model.machine import FileSpec

HIDDEN = ("dev", "proc", "run", "sys", "tmp")
"""Directories over which something is mounted when the machine boots."""


def add(tree: Tree, files: tuple[FileSpec, ...], text: str, ids: Mapping[str, int]) -> None:
    """Add the files in order. Parents that are not there get the file's mode, with the right to enter where it reads.

    Raises:
        InputError: a source cannot be read, or nobody would ever see the file.
    """
    for file in files:
        if file.path.partition("/")[0] in HIDDEN:
            hint = "put it elsewhere, and bind it there"
            text = f"{file.path} is hidden by what the machine mounts there"
            raise InputError(text, hint=hint, code="machine-hidden-file")
        for entry in _entries(file, text):
            owned = replace(entry, uid=_number(file.uid, ids), gid=_number(file.gid, ids), origin="files")
            _add_parents(tree, owned)
            tree.add(owned)


def _entries(file: FileSpec, text: str) -> Iterator[Entry]:
    mode = (0o700 if file.directory else 0o600) if file.mode is None else file.mode
    if file.directory:
        yield Entry(file.path, "directory", mode)
    elif file.symlink is not None:
        yield Entry(file.path, "symlink", 0o777, target=file.symlink)
    elif file.source is not None:
        yield from _from_source(file, mode)
    else:
        contents = text if file.metadata else file.contents or ""
        yield Entry(file.path, mode=mode, content=contents.encode())


def _from_source(file: FileSpec, mode: int) -> Iterator[Entry]:
    """A file of the builder, or a directory with all that is in it, whose modes are kept."""
    assert file.source is not None
    if not os.access(file.source, os.R_OK):
        if not file.optional:
            raise InputError(f"{file.source} cannot be read", hint="add optional: true if it need not be there")
    elif file.source.is_dir():
        yield Entry(file.path, "directory", 0o755)
        yield from directory.scan(file.source).entries(file.path)
    else:
        yield Entry(file.path, mode=mode, content=Extent(file.source, 0, file.source.stat().st_size))


def _add_parents(tree: Tree, entry: Entry) -> None:
    parts = entry.path.split("/")[:-1]
    reads = entry.mode & 0o444 or 0o400
    mode = 0o755 if entry.kind == "symlink" else (entry.mode & 0o777) | reads >> 2
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        if path not in tree and not tree.under(path):
            tree.add(Entry(path, "directory", mode, entry.uid, entry.gid, origin="files"))


def _number(owner: int | str, ids: Mapping[str, int]) -> int:
    return owner if isinstance(owner, int) else ids[owner]
