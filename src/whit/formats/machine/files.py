"""`files` and `volumes` of a machine file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.machine.container import owner
from whit.formats.machine.image import read_image
from whit.formats.machine.keys import Key, fault, needed, read_keys
from whit.formats.machine.resources import octal
from whit.formats.nodes import Value
from whit.formats.paths import absolute
from whit.formats.problems import Problems, make
from whit.model.machine import VOLUME_NAME, ContainerSpec, FileSpec, VolumeSpec

_CONTENTS = ("directory", "symlink", "contents", "source", "metadata")

FILE_KEYS: dict[str, Key] = {
    "path": Key("path", "path", lambda value: _inside(value)),
    "directory": Key("directory", "truth", shapes.truth),
    "symlink": Key("symlink", "text", shapes.text),
    "contents": Key("contents", "text", shapes.text_or_empty),
    "source": Key("source", "path of the builder", shapes.text),
    "metadata": Key("metadata", "`yaml`", lambda value: shapes.one_of(value, ("yaml",))),
    "optional": Key("optional", "truth", shapes.truth),
    "mode": Key("mode", "octal text", lambda value: shapes.parsed(value, octal)),
    "uid": Key("uid", "number or service", owner),
    "gid": Key("gid", "number or service", owner),
}
VOLUME_KEYS: dict[str, Key] = {
    "name": Key("name", "text", lambda value: _volume_name(value)),
    "image": Key("image", "image", lambda value: value),
    "readonly": Key("readonly", "truth", shapes.truth),
    "format": Key("format", "`filesystem`, `oci`", lambda value: shapes.one_of(value, ("filesystem", "oci"))),
}


def read_file(value: Value, directory: Path) -> FileSpec:
    """One entry of `files`; a source starts at `directory`. Raises InputError."""
    table = shapes.table(value)
    problems = Problems()
    fields, places = read_keys(table, "files[]", FILE_KEYS, problems)
    with problems.guard():
        needed(table, "path")
    problems.check()
    _check_one(fields, places, value.place)
    if "source" in fields:
        fields["source"] = _source(fields, places["source"], directory)
    return make(FileSpec, value.place, places, fields)


def read_volume(value: Value, directory: Path) -> VolumeSpec:
    """One entry of `volumes`. Raises InputError."""
    table = shapes.table(value)
    problems = Problems()
    fields, places = read_keys(table, "volumes[]", VOLUME_KEYS, problems)
    with problems.guard():
        needed(table, "name")
    if image := fields.pop("image", None):
        with problems.guard():
            fields["source"] = read_image(image, directory)
    problems.check()
    if fields.get("format") == "oci" and "source" not in fields:
        hint = "add image:, or leave the format out"
        raise fault("volume-format", "an oci volume has an image", place=places["format"], hint=hint)
    return make(VolumeSpec, value.place, places, fields)


def check_volumes(
    volumes: Sequence[VolumeSpec], containers: Sequence[tuple[ContainerSpec, Place]], problems: Problems
) -> None:
    """A problem for each bind of a volume that is not there, or that would write to a read-only one."""
    known = {volume.name: volume for volume in volumes}
    for container, place in containers:
        for bind in (*(container.binds or ()), *(container.binds_add or ())):
            words = bind.split(":")
            if words[0].startswith("/"):
                continue
            with problems.guard():
                _check_bind(known, words[0], words[-1].split(","), container, place)


def _check_bind(
    known: dict[str, VolumeSpec], source: str, options: Sequence[str], container: ContainerSpec, place: Place
) -> None:
    volume = known.get(source)
    if volume is None:
        hint = f"volumes: {', '.join(sorted(known)) or 'there are none'}"
        raise fault("no-volume", f"{container.name} binds {source}, which is no volume", place=place, hint=hint)
    if volume.readonly and "ro" not in options:
        hint = "bind it with :ro, or make the volume writable"
        raise fault(
            "readonly-volume", f"{container.name} would write to the read-only volume {source}", place=place, hint=hint
        )


def _inside(value: Value) -> str:
    """A path of the machine, with or without a slash at its start; never its root."""
    found = shapes.text(value).strip("/")
    if not found or any(part in ("", ".", "..") for part in found.split("/")):
        hint = "write it as etc/motd, without . and .."
        raise InputError(f"{shapes.text(value)!r} is no place of a file", place=value.place, hint=hint)
    return found


def _check_one(fields: dict[str, Any], places: dict[str, Place], place: Place) -> None:
    """Raises InputError unless the file is exactly one thing."""
    given = [name for name in _CONTENTS if fields.get(name) not in (None, False)]
    if not given:
        hint = f"add one of {', '.join(_CONTENTS)}"
        raise fault("empty-file", f"{fields['path']} is nothing", place=place, hint=hint)
    if len(given) > 1:
        text = f"{fields['path']} has {' and '.join(given)}"
        raise fault("ambiguous-file", text, place=places[given[1]], hint="keep one of them")
    if fields.get("optional") and "source" not in fields:
        hint = "leave it out"
        raise fault("optional", "only what has a source is optional", place=places["optional"], hint=hint)


def _source(fields: dict[str, Any], place: Place, directory: Path) -> Path:
    path = absolute(fields["source"], place, directory)
    if not os.access(path, os.R_OK) and not fields.get("optional"):
        hint = "add optional: true if it need not be there"
        raise fault("file-source", f"{path} cannot be read", place=place, hint=hint)
    return path


def _volume_name(value: Value) -> str:
    found = shapes.text(value)
    if not re.fullmatch(VOLUME_NAME, found):
        hint = "lower-case letters, digits, _ and -"
        raise InputError(f"{found!r} is no volume's name", place=value.place, hint=hint)
    return found
