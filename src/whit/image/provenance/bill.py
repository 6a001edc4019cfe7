"""Bill: what an image is made of, and why: its parts, their packages, and every file with what led to it.

One document per image, written beside the store's layout and never part of the image: equal images may be built from
parts that are named differently. explain() answers why a file is there; sbom.py and graph.py draw it up differently.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from whit.base.errors import NotFound
from whit.image.rootfs.tree import MERGED_USR

_DEPTH = 64


@dataclass(frozen=True)
class Package:
    """A package of a distribution or of a language. `needs` are ids of others of the image that it depends on."""

    name: str
    version: str = ""
    kind: str = "deb"
    architecture: str = ""
    sha256: str = ""
    needs: tuple[str, ...] = ()
    inside: str = ""
    """Which image of a machine it is in; empty for the one image that a bill is of."""

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Package:
        return cls(**{**document, "needs": tuple(document.get("needs", ()))})

    @property
    def id(self) -> str:
        """Unique in an image: Debian and PyPI both have a `redis`."""
        own = self.name if self.kind == "deb" else f"{self.kind}:{self.name}"
        return f"{self.inside}/{own}" if self.inside else own

    @property
    def pinned(self) -> str:
        return f"{self.name}={self.version}"


@dataclass(frozen=True)
class BilledPart:
    """A part of the image. `reason` is where it was named, or who needs it."""

    id: str
    kind: str
    reason: str
    link: str = "whole"
    needs: tuple[tuple[str, str], ...] = ()
    """Each need of this part with the part that meets it."""
    inside: str = ""
    """Of a machine: the part that is this one's image."""


@dataclass(frozen=True)
class BilledPackage:
    """`part` is the part that brought it first; `via` the package that depends on it, empty if the part names it."""

    package: Package
    part: str
    via: str = ""


@dataclass(frozen=True)
class BilledFile:
    """`via` is the path that led to this one (empty: a root of the linking), `reason` how."""

    path: str
    kind: str
    size: int
    part: str
    package: str = ""
    reason: str = ""
    via: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Files of a package that did not come along, and why."""

    package: str
    reason: str
    files: int
    bytes: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bill:
    parts: tuple[BilledPart, ...]
    packages: tuple[BilledPackage, ...] = ()
    files: tuple[BilledFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    checks: tuple[str, ...] = ()
    """What was proven of it."""
    calls: tuple[str, ...] = ()
    """System calls that its checks were seen to make, of those that a kernel may lack."""
    _paths: dict[str, BilledFile] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._paths.update((file.path, file) for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> BilledFile:
        """Raises NotFound, saying whether it was left out."""
        clean = self._led_by_links(posixpath.normpath(path).lstrip("/"))
        if found := self._paths.get(clean) or self._paths.get(f"{clean}c"):  # byte code in the place of its source
            return found
        hint = next((f"left out of {one.package}: {one.reason}" for one in self.left_out if clean in one.examples), "")
        raise NotFound(f"/{clean} is not in the image", hint=hint or "whit image tree NAME lists what is")

    def _led_by_links(self, path: str) -> str:
        """/lib and its like are links into /usr."""
        first, slash, rest = path.partition("/")
        return f"{MERGED_USR[first]}/{rest}" if slash and first in MERGED_USR and first in self._paths else path

    def explain(self, path: str) -> list[str]:
        """Why the file is there, from the file itself to what the person wrote, a line each. Raises NotFound."""
        file = self.file(path)
        return [f"/{file.path}", *self._led_to(file), *self._package_chain(file.package), *self._part_chain(file.part)]

    def _led_to(self, file: BilledFile) -> Iterator[str]:
        seen: set[str] = set()
        while file.reason and len(seen) < _DEPTH and file.path not in seen:
            seen.add(file.path)
            yield f"{file.reason}{f' of /{file.via}' if file.via else ''}"
            if file.via not in self._paths:
                return
            file = self._paths[file.via]

    def _package_chain(self, name: str) -> Iterator[str]:
        by_name = {one.package.id: one for one in self.packages}
        seen: set[str] = set()
        while name in by_name and name not in seen:
            seen.add(name)
            billed = by_name[name]
            what = f"package {billed.package.pinned} ({billed.package.kind})"
            yield f"{what}, {billed.via} depends on it" if billed.via else what
            name = billed.via

    def _part_chain(self, identity: str) -> Iterator[str]:
        part = next((one for one in self.parts if one.id == identity), None)
        if part is not None:
            yield f"part {part.id} ({part.link}): {part.reason}"
            yield from self._part_chain(part.inside)

    def document(self) -> dict[str, Any]:
        """As JSON; `files` are rows, since there are thousands."""
        return {
            "version": 1,
            "parts": [asdict(part) for part in self.parts],
            "packages": [asdict(one.package) | {"part": one.part, "via": one.via} for one in self.packages],
            "files": [[one.path, one.kind, one.size, one.part, one.package, one.reason, one.via] for one in self.files],
            "left_out": [asdict(one) for one in self.left_out],
            "checks": list(self.checks),
            "calls": list(self.calls),
        }

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Bill:
        parts = [one | {"needs": tuple(tuple(pair) for pair in one["needs"])} for one in document["parts"]]
        return cls(
            tuple(BilledPart(**one) for one in parts),
            tuple(_package(one) for one in document["packages"]),
            tuple(BilledFile(*row) for row in document["files"]),
            tuple(LeftOut(**{**one, "examples": tuple(one["examples"])}) for one in document["left_out"]),
            tuple(document["checks"]),
            tuple(document.get("calls", ())),
        )


def _package(document: dict[str, Any]) -> BilledPackage:
    own = {key: value for key, value in document.items() if key not in ("part", "via")}
    return BilledPackage(Package.parse(own), document["part"], document["via"])


def trace(packages: Sequence[Package], wanted: Sequence[tuple[str, str]]) -> tuple[BilledPackage, ...]:
    """Each package with the part and the package that brought it, breadth first, so by the shortest chain.

    `wanted` are ids with the part that asks for them. What nobody asks for belongs to the first of the parts.
    """
    by_name = {package.id: package for package in packages}
    found: dict[str, BilledPackage] = {}
    queue = [(name, part, "") for name, part in wanted if name in by_name]
    while queue:
        following: list[tuple[str, str, str]] = []
        for name, part, via in queue:
            if name in found:
                continue
            found[name] = BilledPackage(by_name[name], part, via)
            following += [(need, part, name) for need in by_name[name].needs if need in by_name]
        queue = following
    base = wanted[0][1] if wanted else ""
    return tuple(found.get(name) or BilledPackage(by_name[name], base) for name in sorted(by_name))
