"""Plan: the parts of an image become steps, each of which makes layers and has a key that its result is found by.

A key is a digest of everything that the step depends on, so it is computed without starting anything: the same
key is the same layer. Raise VERSION when the same inputs are to give other layers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whit.base.errors import InputError, NotLocked
from whit.image.linking.link import Rule
from whit.image.oci import archive, manifest
from whit.image.provenance import needs
from whit.image.provenance.needs import Graph, Node
from whit.image.rootfs import layer
from whit.image.sources import directory, project
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, LayoutPart, PythonPart
from whit.model.lock import FILE, Lock, Locked, asked_debian, asked_python
from whit.tools import apt_sources, qemu_user

VERSION = 4
LINKING = 1
"""As VERSION, for what linking leaves of the same layers."""


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
    asked: str = ""
    """What the lock file calls it; empty if nothing is fetched for it."""
    locked: Locked | None = None
    architecture: str = ""
    """Which machines it is for; empty is this one's."""
    target: str = ""
    ignored: tuple[str, ...] = ()
    """Of a directory: where in the image its files go, and what of it stays out."""
    parts: tuple[str, ...] = ()
    """Ids of the nodes that it links; for reasons, and no part of the key."""

    @property
    def key(self) -> str:
        facts = [
            VERSION,
            self.kind,
            self.architecture or manifest.architecture(),
            layer.timestamp(),
            self.merged_usr,
            *self.inputs,
        ]
        if self.locked:
            facts += ["locked", *self.locked.digests]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    codename: str
    sources: str
    python: str
    graph: Graph
    rules: dict[str, Rule]
    spec: BuildSpec
    observed: tuple[str, ...] = ()
    """Paths that were opened in a run, and stay."""
    calls: tuple[str, ...] = ()
    """System calls that were made in it."""

    @property
    def key(self) -> str:
        """How it is linked and what proves it counts where something is left out, or proven."""
        facts: list[object] = [VERSION, *(step.key for step in self.steps)]
        if self.linked or self.spec.check:
            rules = [[name, rule.link, rule.include, rule.exclude] for name, rule in self.rules.items()]
            facts += [
                LINKING,
                self.observed,
                *([self.calls] if self.calls else ()),
                rules,
                self.spec.run.model_dump(),
                [check.model_dump() for check in self.spec.check],
            ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def linked(self) -> bool:
        """Something may be left out, so the layers of the steps are written anew."""
        return any(rule.link != "whole" or rule.exclude for rule in self.rules.values())

    @property
    def projects(self) -> list[project.Project]:
        return [step.project for step in self.steps if step.project]


def make(spec: BuildSpec, lock: Lock | None = None) -> Plan:
    """Read what the parts are made from and lay out the steps. Reads files; changes and starts nothing.

    Raises:
        InputError: a part does not exist or is not what it says.
        Unavailable: the host cannot provide Debian packages.
    """
    if spec.closed and not spec.check:
        hint = "add build.check: what is left out is only guessed, until the image passes it"
        raise InputError(
            "a part is linked by closure, and nothing proves that the image works", hint=hint, code="closure-unproven"
        )
    _refuse_foreign(spec)
    architecture = spec.architecture or manifest.architecture()
    graph = needs.resolve(spec)
    names = graph.packages
    codename = apt_sources.release() if names else ""
    text = apt_sources.host_sources(codename, architecture) if names else ""
    python = project.python_version(codename) if any(isinstance(part, PythonPart) for part in spec.parts) else ""
    packaged = tuple(node.id for node in graph.nodes if node.packages)
    title = f"Debian {codename}: {', '.join(names)}"
    asked = asked_debian(codename, architecture, names)
    system = Step("debian", title, (codename, text, *names), names=names, parts=packaged, asked=asked)
    # Where only a need brings packages, they are what everything else lies on.
    steps: list[Step] = [system] if names and not any(_is_packaged(part) for part in spec.parts) else []
    for node in graph.nodes:
        if _is_packaged(node.part) and system not in steps:
            steps.append(system)
        steps += _steps(node, python, architecture, bool(names))
    steps = [replace(step, architecture=spec.architecture) for step in steps]
    steps = [replace(step, locked=lock.find(step.asked)) for step in steps] if lock else steps
    return Plan(tuple(steps), codename, text, python, graph, {node.id: _rule(node) for node in graph.nodes}, spec)


def _refuse_foreign(spec: BuildSpec) -> None:
    """What only a machine of that kind could do. Raises InputError, or Unavailable where checks could not run."""
    if spec.architecture in ("", manifest.architecture()):
        return
    if spec.check:
        qemu_user.emulator(spec.architecture)
    for part in spec.parts:
        if isinstance(part, LayoutPart):
            hint = "Debian packages, Python projects and directories are; build it on such a machine"
            raise InputError(
                f"layers of an image are not linked for {spec.architecture} here", hint=hint, code="foreign-part"
            )


def require_locked(planned: Plan) -> None:
    """Raises NotLocked if the lock file does not have what a step asks for."""
    missing = [step.asked for step in planned.steps if step.asked and step.locked is None]
    if missing:
        raise NotLocked(f"{FILE} does not have {'; '.join(missing)}", hint="make it anew with: whit build --lock")


def _rule(node: Node) -> Rule:
    part = node.part
    return Rule(node.link, part.include, part.exclude) if part else Rule(node.link)


def _is_packaged(part: object) -> bool:
    """It stands on Debian's packages, so the step that links them comes before it."""
    return isinstance(part, DebianPart | PythonPart)


def _steps(node: Node, python: str, architecture: str, merged: bool) -> list[Step]:
    part, named = node.part, (node.id,)
    if isinstance(part, PythonPart):
        return _python_steps(part, python, architecture, named)
    if isinstance(part, DirectoryPart):
        digest = directory.digest(part.path, part.target, part.ignored)
        inputs = (digest, part.target) if part.target else (digest,)
        step = Step("directory", "files of a directory", inputs, path=part.path, merged_usr=merged, parts=named)
        return [replace(step, target=part.target, ignored=part.ignored)]
    if isinstance(part, LayoutPart):
        chosen = archive.choose(archive.source(part.path), part.reference)
        inputs = (chosen.digest,)
        return [Step("layout", "layers of an image", inputs, path=part.path, reference=part.reference, parts=named)]
    return []


def _python_steps(part: PythonPart, python: str, architecture: str, named: tuple[str, ...]) -> list[Step]:
    """Requirements first, so that a change of the code leaves their layer as it is."""
    if not part.path.is_dir():
        raise InputError(f"there is no directory {part.path}", hint="check the path in the app file", code="part-gone")
    found = project.read(part.path)
    steps = []
    if any(text.strip() for text in found.requirements.values()):
        texts = [text for item in found.requirements.items() for text in item]
        asked = asked_python(python, architecture, texts[1::2])
        inputs = (python, *texts)
        steps.append(Step("requirements", "Python requirements", inputs, project=found, parts=named, asked=asked))
    digest = directory.scan(part.path, project.IGNORED).digest()
    inputs = (python, digest, str(found.installed), str(found.dynamic))
    asked = asked_python(python, architecture, found.builders) if found.installed else ""
    return [*steps, Step("project", "Python project", inputs, project=found, path=part.path, parts=named, asked=asked)]
