"""Byte code: Python sources of a tree are compiled ahead of time, so that instances start without compiling.

The caches are marked as unchecked (PEP 552): the times of the sources are normalised, so the usual check would throw
each cache away. The same source gives the same bytes in every process of one Python release; a test holds that.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import marshal
import os
import posixpath
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

from whit.image.rootfs.tree import Entry, Tree

_LIBRARY = re.compile(r"usr/lib/python3(?:\.(\d+))?/.*\.py$")
_FEW = 40
"""Sources that are compiled without starting processes for it."""


def compile_library(tree: Tree) -> None:
    """Compile Debian's own Python library and modules, if the tree has them for the Python that runs this."""
    if has_python(tree):
        found = (_linked(tree, entry) for entry in tree.under("usr/lib") if _LIBRARY.match(entry.path))
        add_caches(tree, [entry for entry in found if entry])


def has_python(tree: Tree) -> bool:
    return f"usr/bin/python3.{sys.version_info.minor}" in tree


def _linked(tree: Tree, entry: Entry) -> Entry | None:
    """The source, also if it is a link, as Debian's sitecustomize.py is: its cache stands beside the link."""
    if entry.kind != "symlink":
        return entry if entry.kind == "file" else None
    target = posixpath.normpath(posixpath.join("/", posixpath.dirname(entry.path), entry.target)).lstrip("/")
    source = tree.get(target)
    return dataclasses.replace(source, path=entry.path) if source and source.kind == "file" else None


def add_caches(tree: Tree, sources: Iterable[Entry]) -> None:
    """Add __pycache__ entries for `sources`; a source that does not compile (a template, another version) gets none."""
    entries = list(sources)
    for entry, cache in zip(entries, _compile_all(entries), strict=True):
        if cache is not None:
            cached = Entry(cache_path(entry.path), content=cache, mode=0o644, uid=entry.uid, gid=entry.gid)
            tree.add(dataclasses.replace(cached, origin=entry.origin))


def cache_path(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc".lstrip("/")


def source_path(cache: str) -> str:
    """The source of a cache; empty if it is none."""
    directory, _, name = cache.rpartition("/")
    start = directory.removesuffix("__pycache__")
    return f"{start}{name.split('.')[0]}.py" if start != directory and name.endswith(".pyc") else ""


def _compile_all(entries: Sequence[Entry]) -> list[bytes | None]:
    if len(entries) <= _FEW or (os.cpu_count() or 1) < 2:
        return [_compile_entry(entry) for entry in entries]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_compile_entry, entries, chunksize=16))


def _compile_entry(entry: Entry) -> bytes | None:
    return compile_source(entry.data(), f"/{entry.path}")


def compile_source(source: bytes, path: str) -> bytes | None:
    """The content of a .pyc for `source`, or None if it cannot be compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError, RecursionError):
            return None
    flags = 0b01  # a hash stands in for the time, and is not checked
    header = importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + importlib.util.source_hash(source)
    return header + marshal.dumps(code)
