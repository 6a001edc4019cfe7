"""Needs: which parts an image is made of, and why each: what the person names, and what those parts require.

A need is a word, as `shell`. A part of the build that provides it meets it; else the catalogue here says which Debian
packages do. Every part keeps who required it, so that a need nobody meets is told with the chain that led to it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from whit.base.errors import Unsatisfied
from whit.model.build import CATALOGUE, BuildSpec, DebianPart, Link, Part

APP = "the app"

PROVIDES: dict[str, tuple[str, ...]] = {
    "bash": ("shell",),
    "ca-certificates": ("certificates",),
    "dash": ("shell",),
    "dumb-init": ("init",),
    "libstdc++6": ("c++-library",),
    "media-types": ("mime-types",),
    "mime-support": ("mime-types",),
    "nodejs": ("node",),
    "perl": ("perl",),
    "perl-base": ("perl",),
    "python3": ("python",),
    "python3-dev": ("python",),
    "python3-full": ("python",),
    "tini": ("init",),
    "tzdata": ("timezones",),
}
"""Needs that a Debian package meets where a part names it."""


@dataclass(frozen=True)
class Requirement:
    """`by` (a part's id, or APP) requires `need`, which the part `met_by` provides."""

    by: str
    need: str
    met_by: str


@dataclass(frozen=True)
class Node:
    """A part of the image. `part` is None for one that the catalogue added; `packages` is what apt is asked for."""

    id: str
    kind: str
    reason: str
    link: Link = "whole"
    packages: tuple[str, ...] = ()
    part: Part | None = None


@dataclass(frozen=True)
class Graph:
    nodes: tuple[Node, ...]
    requirements: tuple[Requirement, ...]

    def document(self) -> dict[str, Any]:
        """For the worker, which needs no more of a part than its name."""
        nodes = [[node.id, node.kind, node.reason, node.link, node.packages] for node in self.nodes]
        return {"nodes": nodes, "requirements": [[one.by, one.need, one.met_by] for one in self.requirements]}

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Graph:
        nodes = tuple(Node(row[0], row[1], row[2], row[3], tuple(row[4])) for row in document["nodes"])
        return cls(nodes, tuple(Requirement(*row) for row in document["requirements"]))

    @property
    def packages(self) -> tuple[str, ...]:
        """What apt resolves in one go, sorted."""
        return tuple(sorted({name for node in self.nodes for name in node.packages}))


def resolve(spec: BuildSpec) -> Graph:
    """The parts with those that they require. Pure; the same whatever the order of equal needs.

    Raises:
        Unsatisfied: nobody provides a need.
    """
    resolver = _Resolver(spec.link)
    for index, part in enumerate(spec.parts):
        resolver.name(index, part)
    for need in sorted(set(spec.needs)):
        resolver.require(APP, need, (APP,))
    for node in list(resolver.nodes):
        for need in _requires(node.part):
            resolver.require(node.id, need, (APP, node.id))
    return Graph(tuple(resolver.nodes), tuple(resolver.requirements))


@dataclass
class _Resolver:
    link: Link
    nodes: list[Node] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)

    def name(self, index: int, part: Part) -> None:
        """A part that the person wrote; one that is written twice has a number behind its name."""
        node = _named(index, part)
        same = sum(1 for other in self.nodes if other.id.partition(" #")[0] == node.id)
        self.nodes.append(dataclasses.replace(node, id=f"{node.id} #{same + 1}") if same else node)

    def require(self, by: str, need: str, chain: tuple[str, ...]) -> None:
        provider = next((node.id for node in self.nodes if need in _provides(node) and node.id != by), None)
        if provider is None:
            provider = self._add(by, need, chain)
        self.requirements.append(Requirement(by, need, provider))

    def _add(self, by: str, need: str, chain: tuple[str, ...]) -> str:
        packages = CATALOGUE.get(need)
        if packages is None:
            raise unsatisfied(need, chain)
        # What a closure requires is linked by what is reached too, as are the packages that a closed one depends on.
        link = next((node.link for node in self.nodes if node.id == by), self.link)
        versioned = tuple(name for name in packages if not any(name == _bare(one) for one in self._asked()))
        self.nodes.append(Node(f"need:{need}", "debian", f"{by} needs {need}", link, versioned))
        return f"need:{need}"

    def _asked(self) -> Iterable[str]:
        return (name for node in self.nodes for name in node.packages)


def unsatisfied(need: str, chain: Iterable[str]) -> Unsatisfied:
    """Names the chain that led there, and what was perhaps meant."""
    near = difflib.get_close_matches(need, CATALOGUE, n=1)
    known = f"did you mean {near[0]}?" if near else f"name a part that provides it; known: {', '.join(CATALOGUE)}"
    return Unsatisfied(
        f"nothing provides {need!r}, which is needed by: {' <- '.join(reversed(list(chain)))}", hint=known
    )


def wanted(part: DebianPart) -> str:
    """As apt takes it."""
    return f"{part.name}={part.version}" if part.version else part.name


def _named(index: int, part: Part) -> Node:
    packages = (wanted(part),) if isinstance(part, DebianPart) else ()
    return Node(part.label or _label(index, part), part.kind, f"build.parts[{index}]", part.link, packages, part)


def _label(index: int, part: Part) -> str:
    if isinstance(part, DebianPart):
        return f"debian:{wanted(part)}"
    return f"{part.kind}:{index}"


_BY_NATURE = {"debian": ("base",), "python": ("base", "c++-library", "python")}


def _requires(part: Part | None) -> tuple[str, ...]:
    """What a part requires by its nature, and what it says. Wheels may use Debian's C++ library (PEP 600)."""
    if part is None:
        return ()
    return tuple(sorted({*_BY_NATURE.get(part.kind, ()), *part.requires}))


def _provides(node: Node) -> tuple[str, ...]:
    declared = node.part.provides if node.part else ()
    known = (need for name in node.packages for need in PROVIDES.get(_bare(name), ()))
    added = (node.id.removeprefix("need:"),) if node.part is None else ()
    return (*declared, *known, *added)


def _bare(name: str) -> str:
    return name.partition("=")[0]
