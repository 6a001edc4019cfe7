"""Capstanfile: a command line, files by their path in the image, and a directory that is the image's root."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.naming import valid_name
from whit.formats.capstan import command, keys
from whit.formats.nodes import Entry, Scalar, Table, parse
from whit.formats.paths import absolute
from whit.formats.problems import Problems
from whit.model.build import DirectoryPart, Part

ROOTFS = "ROOTFS"
"""The directory that is taken where `rootfs` names none, if it is there."""


@dataclass
class Program:
    """What Capstan's files say is run, and of what."""

    name: str
    argv: tuple[str, ...] = ()
    runtime: str = "native"
    environment: dict[str, str] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def read(file: Path, problems: Problems) -> Program:
    """What cannot be read is among the problems. Raises InputError if it is no table."""
    directory = file.parent.resolve()
    table = shapes.table(parse(file.read_text(encoding="utf-8"), str(file), lambda text, _: text, problems))
    keys.refuse(table, "Capstanfile", keys.CAPSTANFILE, problems)
    program = Program(valid_name(directory.name))
    entries = table.entries
    with problems.guard():
        program.runtime = _base(entries.get("base")) or "native"
    with problems.guard():
        program.argv = _command(table, program.runtime)
    with problems.guard():
        program.parts.extend(_rootfs(entries.get("rootfs"), directory))
    if "files" in entries:
        with problems.guard():
            program.parts.extend(_files(entries["files"], directory, problems))
    return program


def _base(entry: Entry | None) -> str:
    return keys.runtime_of(shapes.text(entry.value), entry.value.place) if entry else ""


def _command(table: Table, runtime: str) -> tuple[str, ...]:
    if "cmdline" not in table.entries:
        raise InputError("has no cmdline", place=table.place, hint="add cmdline: with the program and its arguments")
    return command.of_line(table.entries["cmdline"].value, runtime)


def _rootfs(entry: Entry | None, directory: Path) -> Iterator[Part]:
    if entry is None:
        if (directory / ROOTFS).is_dir():
            yield DirectoryPart(path=directory / ROOTFS, label=ROOTFS)
        return
    text = shapes.text(entry.value)
    path = absolute(text, entry.value.place, directory)
    if not path.is_dir():
        raise InputError(f"there is no directory {path}", place=entry.value.place, hint=f"paths start at {directory}")
    yield DirectoryPart(path=path, label=f"rootfs: {text}")


def _files(entry: Entry, directory: Path, problems: Problems) -> Iterator[Part]:
    for found in shapes.table(entry.value).entries.values():
        with problems.guard():
            yield _file(found, directory)


def _file(entry: Entry, directory: Path) -> Part:
    """`/usr/bin/hello: build/&`: a path in the image, and where it is here; & is the last part of the first."""
    target = posixpath.normpath("/" + entry.key).strip("/")
    if not target:
        raise InputError("names the root", place=entry.place, hint="use rootfs for that")
    text = _source(entry.value, entry.place).replace("&", posixpath.basename(target))
    path = absolute(text, entry.value.place, directory)
    if not path.exists():
        hint = f"paths start at {directory}"
        raise InputError(f"there is no {path}", place=entry.value.place, hint=hint)
    return DirectoryPart(path=path, target=target, label=f"files: {entry.key}")


def _source(value: object, place: Place) -> str:
    if not isinstance(value, Scalar) or value.null:
        raise InputError("has no path", place=place, hint="write PATH-IN-IMAGE: PATH-HERE")
    return value.text
