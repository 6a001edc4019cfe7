"""Depends: which packages of a set depend on which others of it, read from their metadata.

Debian's fields: Debian policy 7.1; those of Python distributions: core metadata, PEP 566 and PEP 508.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from whit.image.provenance.bill import Package
from whit.tools import apt

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9+._-]*")
_FIELD = re.compile(r"^(Pre-Depends|Depends|Provides): *(.*)$", re.MULTILINE)
_REQUIRES = re.compile(r"^Requires-Dist: *([A-Za-z0-9._-]+)(.*)$", re.MULTILINE)


def of_debian(packages: Iterable[apt.Package]) -> tuple[Package, ...]:
    """Sorted by name. Of alternatives, those that are in the set count."""
    present = {package.name: _fields(package.control) for package in packages}
    providers: dict[str, str] = {name: name for name in present}
    for name, fields in present.items():
        for provided in _names(fields.get("Provides", "")):
            providers.setdefault(provided, name)
    return tuple(
        Package(
            package.name,
            package.version,
            architecture=package.architecture,
            sha256=package.sha256,
            needs=tuple(sorted(set(_met(present[package.name], providers)) - {package.name})),
        )
        for package in sorted(packages, key=lambda package: package.name)
    )


def _fields(control: str) -> dict[str, str]:
    return dict(_FIELD.findall(control))


def _met(fields: Mapping[str, str], providers: Mapping[str, str]) -> Iterator[str]:
    for field in ("Pre-Depends", "Depends"):
        for name in _names(fields.get(field, "")):
            if name in providers:
                yield providers[name]


def _names(field: str) -> Iterator[str]:
    for item in re.split(r"[,|]", field):
        if found := _NAME.match(item.strip()):
            yield found[0]


def canonical(name: str) -> str:
    """A Python distribution's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of_python(metadata: Mapping[str, str], digests: Mapping[str, str]) -> tuple[Package, ...]:
    """`metadata` are the METADATA files of all distributions by their name, `digests` of their wheels."""
    ids = {f"pypi:{canonical(name)}" for name in metadata}
    found = []
    for name, text in metadata.items():
        version = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
        needs = {f"pypi:{canonical(need)}" for need, rest in _REQUIRES.findall(text) if "extra ==" not in rest}
        found.append(
            Package(
                canonical(name),
                version[1] if version else "",
                kind="pypi",
                sha256=digests.get(canonical(name), ""),
                needs=tuple(sorted(needs & ids)),
            )
        )
    return tuple(sorted(found, key=lambda package: package.name))
