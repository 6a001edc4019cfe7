"""Parts: `build` of a service, as text, `parts` or `context`. What a part becomes is the image area's business."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.proofs import read_checks
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Scalar, Table, Value
from whit.formats.paths import absolute
from whit.formats.problems import Problems, make
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, KernelChoice, LayoutPart, Link, Part, PythonPart

log = logging.getLogger(__name__)

KEYS = ("parts", "context", "needs", "link", "include", "exclude", "check", "kernel")
"""The keys of `build`."""
_PART_KEYS = ("part", "link", "include", "exclude", "provides", "requires")
LINKS = get_args(Link)
_WORD = re.compile(r"[a-z][a-z0-9+.-]*")
PYTHON_FILES = ("pyproject.toml", "requirements.txt")
FORMS = "debian:NAME[=VERSION], python:DIR, ./DIR, dir:PATH, oci:PATH[:REF], oci-archive:PATH[:REF]"
_KIND = re.compile(r"([a-z][a-z-]*):(.+)", re.DOTALL)


def read_build(value: Value, directory: Path, problems: Problems) -> BuildSpec:
    """The build of a service; paths start at `directory`. Raises InputError."""
    if isinstance(value, Scalar):
        return BuildSpec(parts=(project(shapes.text(value), value.place, directory),))
    table = shapes.table(value)
    refuse(table, "services.*.build", KEYS, problems)
    given = [table.entries[key] for key in ("parts", "context") if key in table.entries]
    if len(given) != 1:
        raise InputError(
            "has exactly one of parts and context",
            place=table.place,
            hint=f"parts: {FORMS}",
            code="build-parts-or-context",
        )
    parts = tuple(_settled(part, table) for part in _parts(given[0], directory, problems))
    checks = tuple(read_checks(table.entries["check"].value, problems)) if "check" in table.entries else ()
    fields: dict[str, object] = {"parts": parts, "needs": _words_of(table, "needs"), "check": checks}
    if "link" in table.entries:
        fields["link"] = shapes.one_of(table.entries["link"].value, LINKS, "link-unknown")
    if "kernel" in table.entries:
        fields["kernel"] = shapes.one_of(table.entries["kernel"].value, get_args(KernelChoice))
    return make(BuildSpec, table.place, {}, fields)


def _settled(part: Part, table: Table) -> Part:
    """The part with what the build says for all: `link` for those that do not, but for directories, and globs."""
    update: dict[str, object] = {}
    if "link" in table.entries and "link" not in part.model_fields_set and not isinstance(part, DirectoryPart):
        update["link"] = shapes.one_of(table.entries["link"].value, LINKS, "link-unknown")
    for key, own in (("include", part.include), ("exclude", part.exclude)):
        if key in table.entries:
            update[key] = (*own, *_globs(table, key))
    return part.model_copy(update=update)


def _parts(entry: Entry, directory: Path, problems: Problems) -> tuple[Part, ...]:
    if entry.key == "context":
        return (project(shapes.text(entry.value), entry.value.place, directory),)
    found: list[Part] = []
    for item in shapes.items(entry.value):
        with problems.guard():
            found.append(read_part(item, directory, problems))
    if not shapes.items(entry.value):
        raise InputError("has no parts", place=entry.place, hint=f"parts: {FORMS}", code="build-no-parts")
    # With none left, each is a problem already; the build only has to be there for what follows.
    return tuple(found) or (DirectoryPart(path=directory),)


def read_part(value: Value, directory: Path, problems: Problems) -> Part:
    """A part as text, or as a table with it as `part`. Raises InputError."""
    if not isinstance(value, Table):
        text = shapes.text(value)
        return _text_part(text, value.place, directory).model_copy(update={"label": text})
    refuse(value, "services.*.build.parts[]", _PART_KEYS, problems)
    if "part" not in value.entries:
        raise InputError("has no part", place=value.place, hint=f"part: {FORMS}", code="part-missing")
    part = read_part(value.entries["part"].value, directory, problems)
    update: dict[str, object] = {key: _words_of(value, key) for key in ("provides", "requires")}
    update |= {key: _globs(value, key) for key in ("include", "exclude")}
    if "link" in value.entries:
        update["link"] = shapes.one_of(value.entries["link"].value, LINKS, "link-unknown")
    return part.model_copy(update=update)


def _globs(table: Table, key: str) -> tuple[str, ...]:
    if key not in table.entries:
        return ()
    return tuple(shapes.text(item) for item in shapes.one_or_more(table.entries[key].value))


def _words_of(table: Table, key: str) -> tuple[str, ...]:
    """Names of needs. Raises InputError."""
    if key not in table.entries:
        return ()
    found = shapes.one_or_more(table.entries[key].value)
    return tuple(shapes.parsed(item, _word, code="need-name") for item in found)


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of a need; lower-case letters, digits and . + -")
    return text


def _text_part(text: str, place: Place, directory: Path) -> Part:
    if text in (".", "..") or text.startswith(("./", "../", "/", "~/")):
        return DirectoryPart(path=_folder(text, place, directory))
    match = _KIND.fullmatch(text)
    if not match or match[1] not in _READERS:
        raise InputError(f"{text!r} is not a part", place=place, hint=FORMS, code="part-unknown")
    return _READERS[match[1]](match[2], place, directory)


def project(text: str, place: Place, directory: Path) -> Part:
    """The part that a directory is: a Python project if its files say so, else files. Raises InputError."""
    folder = _folder(text, place, directory)
    has_dockerfile = any((folder / name).exists() for name in ("Dockerfile", "Containerfile"))
    label = {"label": text}
    if _is_python(folder):
        if has_dockerfile:
            log.warning("%s: built as a Python project; the Dockerfile in %s is not read", place, folder)
        return PythonPart(path=folder).model_copy(update=label)
    if has_dockerfile:
        raise InputError(
            f"{folder} has a Dockerfile, which is not run",
            place=place,
            hint=f"say what it brings with build.parts: {FORMS}",
            code="part-dockerfile",
        )
    return DirectoryPart(path=folder).model_copy(update=label)


def _debian(text: str, place: Place, _directory: Path) -> Part:
    name, equals, version = text.partition("=")
    if equals and not version:
        hint = "write debian:NAME=VERSION, or debian:NAME for the newest"
        raise InputError("has no version after the =", place=place, hint=hint, code="debian-no-version")
    try:
        return make(DebianPart, place, {}, {"name": name, "version": version or None})
    except InputError as error:
        hint = "lower case letters, digits, + - and . as in: apt-cache search WORD"
        raise InputError(f"{name!r} is no package's name", place=place, hint=hint, code="debian-name") from error


def _python(text: str, place: Place, directory: Path) -> Part:
    folder = _folder(text, place, directory)
    if not _is_python(folder):
        raise InputError(
            f"{folder} has neither of {' and '.join(PYTHON_FILES)}",
            place=place,
            hint="add one of them",
            code="part-not-python",
        )
    return PythonPart(path=folder)


def _directory(text: str, place: Place, directory: Path) -> Part:
    return DirectoryPart(path=_folder(text, place, directory))


def _layout(text: str, place: Place, directory: Path) -> Part:
    path, _, reference = text.partition(":")
    return LayoutPart(path=_existing(path, place, directory), reference=reference or None)


_READERS: dict[str, Callable[[str, Place, Path], Part]] = {
    "debian": _debian,
    "python": _python,
    "dir": _directory,
    "oci": _layout,
    "oci-archive": _layout,
}


def _is_python(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PYTHON_FILES)


def _existing(text: str, place: Place, directory: Path) -> Path:
    path = absolute(text, place, directory)
    if not path.exists():
        raise InputError(f"{path} does not exist", place=place, hint=f"paths start at {directory}", code="part-no-path")
    return path


def _folder(text: str, place: Place, directory: Path) -> Path:
    path = _existing(text, place, directory)
    if not path.is_dir():
        hint = "name the directory that it is in"
        raise InputError(f"{path} is not a directory", place=place, hint=hint, code="part-no-directory")
    return path
