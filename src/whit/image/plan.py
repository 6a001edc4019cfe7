"""Plan: the parts of an image become steps, each of which makes layers and has a key that its result is found by.

A key is a digest of everything that the step depends on, so it is computed without starting anything: the same
key is the same layer. Raise VERSION when the same inputs are to give other layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import InputError
from whit.image import archive, debian, directory, layer, manifest, project, sources
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, LayoutPart, PythonPart

VERSION = 1


@dataclass(frozen=True)
class Step:
    """`inputs` is what the key is made of; the other fields are what the work needs.

    `title` becomes the layer's history, so it must not depend on where the parts are.
    """

    kind: Literal["debian", "requirements", "project", "directory", "layout"]
    title: str
    inputs: tuple[str, ...]
    names: tuple[str, ...] = ()
    project: project.Project | None = None
    path: Path = Path()
    reference: str | None = None
    merged_usr: bool = False

    @property
    def key(self) -> str:
        facts = [VERSION, self.kind, manifest.architecture(), layer.timestamp(), self.merged_usr, *self.inputs]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    codename: str
    sources: str
    python: str

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([VERSION, *(step.key for step in self.steps)]).encode()).hexdigest()

    @property
    def projects(self) -> list[project.Project]:
        return [step.project for step in self.steps if step.project]


def make(spec: BuildSpec) -> Plan:
    """Read what the parts are made from and lay out the steps. Reads files; changes and starts nothing.

    Raises:
        InputError: a part does not exist or is not what it says.
        Unavailable: the host cannot provide Debian packages.
    """
    names = _debian_names(spec)
    codename = sources.release() if names else ""
    text = sources.host_sources(codename, manifest.architecture()) if names else ""
    python = project.python_version(codename) if any(isinstance(part, PythonPart) for part in spec.parts) else ""
    system = Step("debian", f"Debian {codename}: {', '.join(names)}", (codename, text, *names), names=names)
    steps: list[Step] = []
    for part in spec.parts:
        if isinstance(part, DebianPart | PythonPart) and system not in steps:
            steps.append(system)
        steps += _steps(part, python, bool(names))
    return Plan(tuple(steps), codename, text, python)


def _debian_names(spec: BuildSpec) -> tuple[str, ...]:
    """What apt resolves in one go. Python projects bring Debian's Python; wheels may use its C++ library (PEP 600)."""
    wanted = {debian.wanted(part) for part in spec.parts if isinstance(part, DebianPart)}
    named = {name.partition("=")[0] for name in wanted}
    if any(isinstance(part, PythonPart) for part in spec.parts):
        wanted |= {name for name in ("libstdc++6", *_python(named)) if name not in named}
    return tuple(sorted(wanted))


def _python(named: set[str]) -> Sequence[str]:
    return () if named & {"python3", "python3-full", "python3-dev"} else debian.PYTHON


def _steps(part: DebianPart | PythonPart | DirectoryPart | LayoutPart, python: str, merged: bool) -> list[Step]:
    if isinstance(part, PythonPart):
        return _python_steps(part, python)
    if isinstance(part, DirectoryPart):
        digest = directory.scan(part.path).digest()
        return [Step("directory", "files of a directory", (digest,), path=part.path, merged_usr=merged)]
    if isinstance(part, LayoutPart):
        chosen = archive.choose(archive.source(part.path), part.reference)
        return [Step("layout", "layers of an image", (chosen.digest,), path=part.path, reference=part.reference)]
    return []


def _python_steps(part: PythonPart, python: str) -> list[Step]:
    """Requirements first, so that a change of the code leaves their layer as it is."""
    if not part.path.is_dir():
        raise InputError(f"there is no directory {part.path}", hint="check the path in the app file")
    found = project.read(part.path)
    steps = []
    if any(text.strip() for text in found.requirements.values()):
        texts = [text for item in found.requirements.items() for text in item]
        steps.append(Step("requirements", "Python requirements", (python, *texts), project=found))
    digest = directory.scan(part.path, project.IGNORED).digest()
    inputs = (python, digest, str(found.installed), str(found.dynamic))
    return [*steps, Step("project", "Python project", inputs, project=found, path=part.path)]
