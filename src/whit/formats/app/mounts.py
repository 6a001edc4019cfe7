"""Mounts: `volumes` and `tmpfs` of a service, short and long, as the Compose Specification has them (05-services.md).

Nothing is created here: the directory of a bind mount is made, where create_host_path allows it, when it is mounted.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Table, Value
from whit.formats.paths import absolute
from whit.formats.problems import Problems, make
from whit.formats.quantities import size
from whit.model.service import MountSpec

KINDS = ("volume", "bind", "tmpfs")
LONG = ("type", "source", "target", "read_only", "bind", "volume", "tmpfs")
_WHERE = "services.*.volumes[]"
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MODES = {"rw": False, "ro": True}


def read_mount(value: Value, directory: Path, problems: Problems) -> MountSpec:
    """The mount of one item of `volumes`; paths start at `directory`. Raises InputError."""
    if isinstance(value, Table):
        return _long(value, directory, problems)
    return _short(shapes.text(value), value.place, directory)


def read_tmpfs(value: Value) -> MountSpec:
    """The mount of one item of `tmpfs`, as `/run:size=64m,mode=1770`. Raises InputError."""
    target, _, options = shapes.text(value).partition(":")
    fields: dict[str, Any] = {"kind": "tmpfs", "target": _target(target, value.place)}
    for option in filter(None, options.split(",")):
        fields |= _tmpfs_option(option, value.place)
    return make(MountSpec, value.place, {}, fields)


def is_volume_name(text: str) -> bool:
    return bool(_VOLUME_NAME.fullmatch(text))


def _short(text: str, place: Place, directory: Path) -> MountSpec:
    source, colon, rest = text.partition(":")
    target, _, modes = rest.partition(":")
    if not colon or not source:
        raise InputError("has no source", place=place, hint=f"name a volume, as data:{text.lstrip(':')}")
    read_only = False
    for mode in filter(None, modes.split(",")):
        if mode not in _MODES:
            raise InputError(f"the option {mode} is not honoured", place=place, hint="use ro or rw")
        read_only = _MODES[mode]
    is_path = source.startswith((".", "/", "~"))
    fields = {
        "kind": "bind" if is_path else "volume",
        "source": str(absolute(source, place, directory)) if is_path else _volume_name(source, place),
        "target": _target(target, place),
        "read_only": read_only,
    }
    return make(MountSpec, place, {}, fields)


def _long(table: Table, directory: Path, problems: Problems) -> MountSpec:
    refuse(table, _WHERE, LONG, problems)
    entries = table.entries
    for key in ("type", "target"):
        if key not in entries:
            raise InputError(f"has no {key}", place=table.place, hint=f"types: {', '.join(KINDS)}")
    kind = shapes.one_of(entries["type"].value, KINDS)
    target = entries["target"].value
    fields: dict[str, Any] = {"kind": kind, "target": _target(shapes.text(target), target.place)}
    if "read_only" in entries:
        fields["read_only"] = shapes.truth(entries["read_only"].value)
    if kind != "tmpfs":
        fields["source"] = _source(table, kind, directory)
    elif "source" in entries:
        raise InputError("a tmpfs has no source", place=entries["source"].place, hint="leave it out")
    for key in KINDS:
        if key in entries:
            fields |= _options(key, kind, entries[key], fields, problems)
    return make(MountSpec, table.place, {key: entry.value.place for key, entry in entries.items()}, fields)


def _source(table: Table, kind: str, directory: Path) -> str:
    if "source" not in table.entries:
        raise InputError("has no source", place=table.place, hint=f"name the {'path' if kind == 'bind' else 'volume'}")
    value = table.entries["source"].value
    text = shapes.text(value)
    return str(absolute(text, value.place, directory)) if kind == "bind" else _volume_name(text, value.place)


def _options(key: str, kind: str, entry: Entry, fields: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """What the sub-table named after a kind adds to the fields."""
    table = shapes.table(entry.value)
    honoured = {"bind": ("create_host_path",), "tmpfs": ("size", "mode"), "volume": ()}[key]
    refuse(table, f"{_WHERE}.{key}", honoured, problems)
    if key != kind:
        raise InputError(f"is for another type than {kind}", place=entry.place, hint="leave it out")
    found: dict[str, Any] = {}
    for option in table.entries.values():
        if option.key == "create_host_path":
            _check_exists(fields["source"], option)
        elif option.key == "size":
            found["size"] = shapes.parsed(option.value, size)
        elif option.key == "mode":
            found["mode"] = shapes.parsed(option.value, _octal)
    return found


def _check_exists(source: str, option: Entry) -> None:
    if not shapes.truth(option.value) and not Path(source).exists():
        raise InputError(f"{source} does not exist", place=option.place, hint="make it, or leave create_host_path true")


def _tmpfs_option(option: str, place: Place) -> dict[str, Any]:
    key, _, text = option.partition("=")
    try:
        if key == "size":
            return {"size": size(text)}
        if key == "mode":
            return {"mode": _octal(text)}
    except ValueError as error:
        raise InputError(str(error), place=place) from error
    if option in _MODES:
        return {"read_only": _MODES[option]}
    raise InputError(f"the option {option} is not honoured", place=place, hint="use size, mode, ro or rw")


def _octal(text: str) -> int:
    digits = text.removeprefix("0o")
    if not re.fullmatch("[0-7]{1,5}", digits) or int(digits, 8) > 0o7777:
        raise ValueError(f"{text!r} is not a mode; write it in octal, as 1777")
    return int(digits, 8)


def _target(text: str, place: Place) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        hint = "write an absolute path below /, without .."
        raise InputError(f"nothing can be mounted at {text!r}", place=place, hint=hint)
    return text


def _volume_name(text: str, place: Place) -> str:
    if not is_volume_name(text):
        hint = "begin with ./ for a path; a volume's name has letters, digits, _ . and -"
        raise InputError(f"{text!r} is no volume's name", place=place, hint=hint)
    return text
