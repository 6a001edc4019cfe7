"""Merged: the one tree of an image: what its layers give when they lie on one another, each file with its provenance.

Layers are read as plain tars, their contents left there. Whiteouts of foreign layers are carried out (image-spec
layer.md). What stays of the tree is linking's business.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whit.image.provenance.bill import BilledFile, BilledPackage, BilledPart, Package, trace
from whit.image.provenance.needs import Graph
from whit.image.rootfs.tree import Entry, Tree, read_tar

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True)
class Source:
    """A layer of a step: its plain tar, which package brought each path, and the parts that the step links."""

    tar: Path
    parts: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True)
class Merged:
    """`layer_of` says for each path of the tree from which of the sources its entry is."""

    tree: Tree
    sources: tuple[Source, ...]
    layer_of: Mapping[str, int]
    packages: tuple[BilledPackage, ...]
    parts: tuple[BilledPart, ...]

    def part_of(self, entry: Entry) -> str:
        """The id of the part that brought it: its package's, else that of its layer."""
        billed = self._by_id.get(entry.origin)
        parts = self.sources[self.layer_of.get(entry.path, 0)].parts
        return billed.part if billed else (parts[0] if parts else "")

    @property
    def _by_id(self) -> Mapping[str, BilledPackage]:
        return {one.package.id: one for one in self.packages}

    def billed(self, entries: Sequence[Entry], reasons: Mapping[str, tuple[str, str]]) -> tuple[BilledFile, ...]:
        """The rows of a bill; `reasons` are (reason, via) by path, of those that have one."""
        by_id = self._by_id
        rows = []
        for entry in entries:
            parts = self.sources[self.layer_of[entry.path]].parts if entry.path in self.layer_of else ()
            part = by_id[entry.origin].part if entry.origin in by_id else (parts[0] if parts else "")
            reason, via = reasons.get(entry.path, ("", ""))
            size = entry.size if entry.kind == "file" else 0
            rows.append(BilledFile(entry.path, entry.kind, size, part, entry.origin, reason, via))
        return tuple(rows)


def merge(sources: Sequence[Source], graph: Graph) -> Merged:
    """Raises HostileArchive for a layer that cannot be."""
    tree = Tree()
    layer_of: dict[str, int] = {}
    for index, source in enumerate(sources):
        for entry in read_tar(source.tar, devices=True):
            _lay(tree, dataclasses.replace(entry, origin=source.origins.get(entry.path, "")), index, layer_of)
    return Merged(tree, tuple(sources), layer_of, _packages(sources, graph), billed_parts(graph))


def _lay(tree: Tree, entry: Entry, index: int, layer_of: dict[str, int]) -> None:
    directory, name = posixpath.split(entry.path)
    if name == _OPAQUE:
        for below in tree.under(directory):
            tree.remove(below.path)
    elif name.startswith(_WHITEOUT):
        tree.remove(posixpath.join(directory, name.removeprefix(_WHITEOUT)))
    else:
        tree.add(entry)
        layer_of[tree.locate(entry.path)] = index


def _packages(sources: Sequence[Source], graph: Graph) -> tuple[BilledPackage, ...]:
    """Each package once, with what led to it; those of Debian from the parts that name them."""
    named = [(name.partition("=")[0], node.id) for node in graph.nodes for name in node.packages]
    found: dict[str, BilledPackage] = {}
    for source in sources:
        needed = {need for package in source.packages for need in package.needs}
        roots = [(package.id, source.parts[0]) for package in source.packages if package.id not in needed]
        wanted = [*(pair for pair in named if pair[1] in source.parts), *(roots if source.parts else [])]
        for billed in trace(source.packages, wanted):
            found.setdefault(billed.package.id, billed)
    return tuple(found[name] for name in sorted(found))


def billed_parts(graph: Graph) -> tuple[BilledPart, ...]:
    def needs(node: str) -> tuple[tuple[str, str], ...]:
        return tuple((one.need, one.met_by) for one in graph.requirements if one.by == node)

    return tuple(BilledPart(node.id, node.kind, node.reason, node.link, needs(node.id)) for node in graph.nodes)
