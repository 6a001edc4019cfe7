"""Python: a project's requirements, and the project itself, become trees that Debian's python3 finds.

Wheels go to /usr/local/lib/python3.X/dist-packages, commands to /usr/local/bin with the image's interpreter, a
project without packaging to /app. Byte code is compiled by bytecode.py. What pip leaves that depends on where it ran
is taken out. Runs in the worker, on copies.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError, Unavailable
from whit.image.oci import manifest
from whit.image.provenance import depends
from whit.image.rootfs.tree import MERGED_USR, Entry, Tree
from whit.image.sources import bytecode, directory
from whit.model.lock import Locked, LockedWheel
from whit.tools import pip

APP = "app"
_PREFIX = "usr/local"
_OUTSIDE = ("bin", "share", "etc", "include")
"""What pip puts beside the packages, and where it goes below /usr/local."""
_SHELL_TRICK = re.compile(rb"^#!/bin/sh\n'''exec' [^\n]*\n' '''\n")
_SHEBANG = re.compile(rb"^#![^\n]*python[^\n]*\n")
_INTERPRETER = b"#!/usr/bin/python3\n"


@dataclass(frozen=True)
class Installer:
    """Installs for one Python. `env` is the host's pip configuration, `scratch` a directory that may be filled.

    Wheels that are in `wheels` and `builders` already are not fetched; those that were are left there. Builders run
    here, so they are for this machine whatever the target.
    """

    target: pip.Target
    env: Mapping[str, str]
    scratch: Path
    wheels: Path
    builders: Path

    def check(self) -> None:
        """Raises Unavailable if this process runs another Python: markers and byte code would be of the wrong one.

        Byte code is the same on every architecture.
        """
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        if running != self.target.python:
            hint = f"run Whit with Python {self.target.python}"
            raise Unavailable(f"Whit runs on Python {running}, the image has {self.target.python}", hint=hint)

    async def requirements(self, files: Mapping[str, str], locked: Sequence[LockedWheel]) -> Tree:
        """What the requirement files ask for, or exactly the wheels that they are locked to."""
        names = [name for name in ("requirements.txt", "pyproject-dependencies.txt") if name in files]
        for name, text in files.items():
            path = self.scratch / "requirements" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        options = [option for name in names for option in ("-r", name)]
        if locked:
            await self._locked(locked, self.wheels, self.target)
        else:
            await self._download(self.wheels, options, self.scratch / "requirements", self.target)
        return await self._installed()

    async def project(
        self, source: Path, builders: Sequence[str], locked: Locked | None, *, dependencies: bool
    ) -> Tree:
        """The project's own wheel, with what it depends on if that is not known before it is built."""
        here = pip.Target(self.target.python, manifest.architecture())
        if locked:
            await self._locked(locked.builders, self.builders, here)
        elif builders:
            await self._download(self.builders, builders, self.scratch, here)
        built = await pip.wheel(source, self.scratch / "built", builders=self.builders, env=self.env, fetch=not locked)
        if self.target != here:
            _require_pure(built, self.target)
        if locked:
            await self._locked(locked.wheels, self.wheels, self.target)
        elif dependencies:
            await self._download(self.wheels, [str(built)], self.scratch, self.target)
            (self.wheels / built.name).unlink(missing_ok=True)
        return await self._installed(built)

    async def _locked(self, wanted: Sequence[LockedWheel], directory: Path, target: pip.Target) -> None:
        """What is not there already is fetched by its digest."""
        missing = [one for one in wanted if not (directory / one.file).exists()]
        if missing:
            lines = self.scratch / "locked.txt"
            lines.write_text("".join(f"{one.requirement}\n" for one in missing))
            what = ["--require-hashes", "-r", str(lines)]
            await self._download(directory, what, self.scratch, target, dependencies=False)

    async def _installed(self, *built: Path) -> Tree:
        installed = self.scratch / "target"
        installed.mkdir()
        wheels = [*sorted(self.wheels.glob("*.whl")), *built]
        if wheels:
            await pip.install(installed, wheels, self.target, env=self.env, cwd=self.scratch)
        return self._collect(installed)

    def files(self, source: Path) -> Tree:
        """The project's files below /app, readable to whatever user the app runs as."""
        tree = Tree()
        tree.add(Entry(APP, "directory", 0o755))
        for entry in directory.scan(source).entries(APP):
            tree.add(dataclasses.replace(entry, mode=_readable(entry)))
        bytecode.add_caches(tree, [entry for entry in tree.under(APP) if _is_source(entry)])
        return tree

    async def _download(
        self, directory: Path, what: Sequence[str], cwd: Path, target: pip.Target, *, dependencies: bool = True
    ) -> None:
        await pip.download(directory, what, target, env=self.env, cwd=cwd, dependencies=dependencies)

    def _collect(self, installed: Path) -> Tree:
        tree = Tree(MERGED_USR)
        packages = f"{_PREFIX}/lib/python{self.target.python}/dist-packages"
        tree.add(Entry(packages, "directory", 0o755))
        owners = _owners(installed)
        for entry in directory.scan(installed).entries():
            tree.add(dataclasses.replace(_placed(entry, packages), origin=owners.get(entry.path, "")))
        bytecode.add_caches(tree, [entry for entry in tree.under(packages) if _is_source(entry)])
        for entry in tree.under(packages):
            if entry.path.endswith(".dist-info/RECORD"):
                tree.add(dataclasses.replace(entry, content=_record(entry.data())))
            elif entry.path.endswith(".dist-info/direct_url.json"):
                tree.remove(entry.path)
        return tree


def metadata(tree: Tree) -> dict[str, str]:
    """The METADATA of each distribution in the tree, by the distribution's name."""
    found = (entry for entry in tree if entry.path.endswith(".dist-info/METADATA"))
    return {entry.path.split("/")[-2].partition("-")[0]: entry.data().decode(errors="replace") for entry in found}


def _require_pure(built: Path, target: pip.Target) -> None:
    """Raises InputError if the project's own wheel (PEP 427) has what was compiled here."""
    if built.stem.rpartition("-")[2] != "any":
        raise InputError(
            f"the project compiles code for this machine ({built.name}), and it is built for {target.architecture}",
            hint=f"build its wheel on a machine of {target.architecture} (pip wheel), and ask for it as a requirement",
            code="project-not-pure",
        )


def _owners(installed: Path) -> dict[str, str]:
    """The id of the distribution that brought each file, as pip recorded it (PEP 376); commands as ../../bin/x."""
    owners = {}
    for record in installed.glob("*.dist-info/RECORD"):
        name = f"pypi:{depends.canonical(record.parent.name.partition('-')[0])}"
        for row in csv.reader(record.read_text(errors="replace").splitlines()):
            if row:
                owners[row[0].removeprefix("../../")] = name
    return owners


def _is_source(entry: Entry) -> bool:
    return entry.kind == "file" and entry.path.endswith(".py")


def _readable(entry: Entry) -> int:
    """The mode with everyone's right to read, whatever the umask of whoever wrote the file."""
    if entry.kind == "symlink":
        return entry.mode
    return 0o755 if entry.kind == "directory" or entry.mode & 0o100 else 0o644


def _placed(entry: Entry, packages: str) -> Entry:
    first = entry.path.split("/")[0]
    place = f"{_PREFIX}/{entry.path}" if first in _OUTSIDE else f"{packages}/{entry.path}"
    placed = dataclasses.replace(entry, path=place, mode=_readable(entry))
    if first == "bin" and entry.kind == "file":
        return dataclasses.replace(placed, content=_interpreted(entry.data()), mode=0o755)
    return placed


def _interpreted(script: bytes) -> bytes:
    """The script with the image's interpreter; pip wrote its own, in either of two forms."""
    return _SHEBANG.sub(_INTERPRETER, _SHELL_TRICK.sub(_INTERPRETER, script, count=1), count=1)


def _record(data: bytes) -> bytes:
    """RECORD without what was changed after pip wrote it."""
    rows = csv.reader(io.StringIO(data.decode()))
    output = io.StringIO()
    kept = [row for row in rows if row and not row[0].startswith("../") and not row[0].endswith("/direct_url.json")]
    csv.writer(output, lineterminator="\n").writerows(sorted(kept))
    return output.getvalue().encode()
