"""Bare: modules of Python that are nothing but imported come in as byte code alone, where their sources would lie.

The interpreter takes `x.pyc` beside where `x.py` would be (the import system's SourcelessFileLoader); what is lost are
the lines of source in tracebacks. A source that something opens as a file stays as it is, and so does the app's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from whit.image.rootfs.tree import Entry
from whit.image.sources import bytecode

IN_PLACE = "its byte code stands in its place"
ENDING = "c"
"""What the name of a source gets as byte code."""


@dataclass(frozen=True)
class Bare:
    """A source, its cache, and the entry that stands for both."""

    source: str
    cache: str
    entry: Entry


def without_sources(entries: Mapping[str, Entry], modules: Iterable[str]) -> Iterator[Bare]:
    """Those of the modules that have byte code beside them, and nothing at the place where it goes."""
    for path in sorted(modules):
        cache = entries.get(bytecode.cache_path(path))
        if entries[path].kind == "file" and cache is not None and f"{path}{ENDING}" not in entries:
            yield Bare(path, cache.path, dataclasses.replace(cache, path=f"{path}{ENDING}"))
