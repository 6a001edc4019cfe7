"""Capstan app: a directory with a Capstanfile or a meta/run.yaml as an app of one service."""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats.capstan import capstanfile, keys, package
from whit.formats.capstan.capstanfile import Program
from whit.formats.problems import Problems, make
from whit.model.app import AppSpec
from whit.model.build import BuildSpec, Part
from whit.model.service import ServiceSpec

CAPSTANFILE = "Capstanfile"
FILES = (CAPSTANFILE, str(package.RUN))
"""In the order in which they are looked for."""


def is_capstan_file(file: Path) -> bool:
    """Whether it is called as one of Capstan's that say what is run."""
    return file.name == CAPSTANFILE or file.parts[-2:] == package.RUN.parts


def load_capstan(file: Path) -> AppSpec:
    """The app of a Capstanfile, or of a meta/run.yaml with the meta/package.yaml beside it.

    As under OSv nothing says what it reaches, so the app is open, and its root can be written.

    Raises:
        InputError: a file cannot be read.
        InvalidApp: its content is wrong, or has no meaning outside of OSv; all of it.
    """
    problems = Problems()
    directory = file.parent if file.name == CAPSTANFILE else file.parent.parent
    program = Program("app")
    with problems.guard():
        try:
            read = capstanfile.read(file, problems) if file.name == CAPSTANFILE else package.read(directory, problems)
        except (OSError, UnicodeDecodeError) as error:
            hint = "it has to be a text that this user may read"
            raise InputError(f"cannot be read: {error}", place=Place(str(file)), hint=hint) from error
        program = read
    problems.check()
    place = Place(str(file))
    service = make(ServiceSpec, place, {}, _fields(program, file))
    services = {program.name: service}
    fields = {"name": program.name, "directory": directory.resolve(), "services": services, "mode": "open"}
    return make(AppSpec, place, {}, fields)


def _fields(program: Program, file: Path) -> dict[str, object]:
    parts: tuple[Part, ...] = (*keys.PARTS.get(program.runtime, ()), *program.parts)
    if not parts:
        raise InputError("brings no files", place=Place(str(file)), hint="add files, or a directory ROOTFS")
    return {
        "build": BuildSpec(parts=parts, needs=keys.NEEDS.get(program.runtime, ())),
        "command": program.argv,
        "environment": program.environment,
        "labels": program.labels,
    }
