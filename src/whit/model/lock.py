"""Lock: what the parts of an app were at one time: each Debian package and each wheel with its digest.

whit.lock stands beside the app file, as sorted JSON that is made for a version control system. A build takes exactly
what it says; with `--locked` it moreover fetches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, NotLocked, Place

FILE = "whit.lock"
VERSION = 1


@dataclass(frozen=True)
class LockedPackage:
    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True)
class LockedWheel:
    """A file of a package index."""

    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip takes it, with its digest (PEP 427 names the file)."""
        name, version = self.file.split("-")[:2]
        return f"{name}=={version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Locked:
    """What one step was made of. `builders` are the wheels that build a project, and are not in the image."""

    packages: tuple[LockedPackage, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    builders: tuple[LockedWheel, ...] = ()
    files: tuple[str, ...] = ()
    """Paths that only an observed run has found."""
    calls: tuple[str, ...] = ()
    """System calls that an observed run has made."""

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(one.sha256 for group in (self.packages, self.wheels, self.builders) for one in group)

    def document(self) -> dict[str, Any]:
        packages = [[one.name, one.version, one.architecture, one.sha256] for one in self.packages]
        wheels, builders = ([[one.file, one.sha256] for one in group] for group in (self.wheels, self.builders))
        rows: dict[str, list[Any]] = {"packages": packages, "wheels": wheels, "builders": builders}
        rows |= {"files": list(self.files), "calls": list(self.calls)}
        return {name: sorted(group) for name, group in rows.items() if group}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Locked:
        return cls(
            tuple(LockedPackage(*row) for row in document.get("packages", ())),
            tuple(LockedWheel(*row) for row in document.get("wheels", ())),
            tuple(LockedWheel(*row) for row in document.get("builders", ())),
            tuple(map(str, document.get("files", ()))),
            tuple(map(str, document.get("calls", ()))),
        )


@dataclass(frozen=True)
class Lock:
    """What each step was made of, by what it was asked for."""

    entries: Mapping[str, Locked] = field(default_factory=dict)

    def find(self, asked: str) -> Locked | None:
        return self.entries.get(asked)

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Raises ValueError, KeyError, TypeError, AttributeError for what is no lock of this version."""
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']}, not {VERSION}")
        return cls({asked: Locked.parse(row) for asked, row in document["entries"].items()})

    def encode(self) -> str:
        entries = {asked: locked.document() for asked, locked in sorted(self.entries.items())}
        rows = json.dumps({"version": VERSION, "entries": entries}, indent=1, sort_keys=True)
        return rows + "\n"


def asked_run(image: str) -> str:
    return f"observed run of {image}"


def asked_debian(codename: str, architecture: str, names: Iterable[str]) -> str:
    return f"debian {codename} {architecture}: {' '.join(names)}"


def asked_python(python: str, architecture: str, texts: Sequence[str]) -> str:
    """The requirements themselves: a change of them is another entry."""
    lines = (line.strip() for text in texts for line in text.splitlines())
    return f"python {python} {architecture}: {' '.join(line for line in lines if line and not line.startswith('#'))}"


def not_locked(missing: Sequence[str]) -> NotLocked:
    """Names what would have to be fetched."""
    hint = "build once without --locked, which fetches exactly what whit.lock says"
    return NotLocked(f"--locked fetches nothing, and these are not here: {', '.join(missing)}", hint=hint)


def read(directory: Path) -> Lock | None:
    """The lock beside an app file, if there is one. Raises InputError if it is damaged."""
    path = directory / FILE
    try:
        return Lock.parse(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "take it from version control again, or make it anew with: whit build --lock"
        raise InputError(f"is damaged: {error!r}", place=Place(str(path)), hint=hint, code="lock-damaged") from error
