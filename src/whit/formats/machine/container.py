"""Containers of a machine file: the entries of `onboot`, `onshutdown` and `services`, and the label of their images.

What LinuxKit's schema has is read as it is; `build`, `restart`, `after`, `ready`, `stop_grace_period` and `timeout` are
Whit's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.capabilities import KNOWN, capability
from whit.formats.app.parts import read_build
from whit.formats.machine import resources
from whit.formats.machine.image import read_image
from whit.formats.machine.keys import Key, absolute, absolutes, between, coded, fault, needed, read_keys, strings
from whit.formats.machine.keys import string_map as pairs
from whit.formats.nodes import Table, Value, parse
from whit.formats.problems import Problems, make
from whit.formats.quantities import duration
from whit.model.machine import ContainerSpec, ImageSource, Restart, Stage
from whit.model.machine_container import ContainerDefaults, ReadySpec

LABEL = "org.mobyproject.config"
BIND_OPTIONS = frozenset(
    (
        *("rw", "ro", "bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave"),
        *("unbindable", "runbindable", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"),
        *("mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime"),
    )
)
_ID_MAX = 2**32 - 2
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
_PROPAGATION = {"rprivate": "private", "rslave": "slave", "rshared": "shared", "runbindable": "unbindable"}


def _capabilities(value: Value) -> tuple[str, ...]:
    """`[all]`, `[none]`, or names."""
    found = tuple(shapes.text(item) for item in shapes.items(value))
    if [name.lower() for name in found] == ["none"]:
        return ()
    names = tuple(shapes.parsed(item, capability) for item in shapes.items(value))
    return tuple(sorted(KNOWN)) if "ALL" in names else names


def _binds(value: Value) -> tuple[str, ...]:
    return tuple(_bind(shapes.text(item), item.place) for item in shapes.items(value))


def _bind(text: str, place: Place) -> str:
    words = text.split(":")
    if len(words) not in (2, 3):
        raise InputError(f"{text!r} is not SOURCE:DESTINATION[:OPTIONS]", place=place)
    if not words[1].startswith("/") or ".." in words[1].split("/"):
        raise InputError(f"{words[1]!r} is not a path from the root", place=place)
    if not words[0].startswith("/") and not re.fullmatch("[a-z0-9_-]+", words[0]):
        hint = "write a path from the root, or a volume's name"
        raise InputError(f"nothing can be bound from {words[0]!r}", place=place, hint=hint)
    for option in filter(None, words[2].split(",") if len(words) == 3 else ()):
        if option not in BIND_OPTIONS:
            raise InputError(f"{option!r} is no option of a bind", place=place, hint="as ro, rbind, rslave")
    return text


def _tmpfs(value: Value) -> tuple[str, ...]:
    found = strings(value)
    for text, item in zip(found, shapes.items(value), strict=True):
        if not text.startswith("/") or text.count(":") > 1:
            raise InputError(f"{text!r} is not DESTINATION[:OPTIONS]", place=item.place)
    return found


def _namespace(*words: str) -> Callable[[Value], str]:
    def read(value: Value) -> str:
        found = shapes.text_or_empty(value)
        if found in ("", *words) or found.startswith("/"):
            return found or "host"
        raise InputError(f"{found!r} is no namespace", place=value.place, hint=f"{', '.join(words)} or a path")

    return read


def _env(value: Value) -> tuple[str, ...]:
    for item in shapes.items(value):
        if "=" not in shapes.text(item) or shapes.text(item).startswith("="):
            raise InputError(f"{shapes.text(item)!r} is not NAME=value", place=item.place)
    return strings(value)


def owner(value: Value) -> int | str:
    """A number, or the name of a service."""
    found = shapes.text(value)
    if found.isdecimal() and int(found) <= _ID_MAX:
        return int(found)
    if not found[:1].isalpha() or not _NAME.fullmatch(found):
        hint = "a number, or the name of a service whose user it is"
        raise InputError(f"{found!r} is neither a number nor a service", place=value.place, hint=hint)
    return found


def _owners(value: Value) -> tuple[int | str, ...]:
    return tuple(owner(item) for item in shapes.items(value))


def _propagation(value: Value) -> str:
    found = shapes.one_of(value, (*_PROPAGATION, *_PROPAGATION.values()))
    return _PROPAGATION.get(found, found)


def _sysctl(value: Value) -> dict[str, str]:
    for entry in shapes.table(value).entries.values():
        if not re.fullmatch(r"[a-zA-Z0-9_*-]+([./][a-zA-Z0-9_*-]+)+", entry.key):
            raise InputError("is no setting of the kernel", place=entry.place, hint="write it as net.ipv4.ip_forward")
    return {key.replace("/", "."): found for key, found in pairs(value).items()}


def _seconds(value: Value) -> float:
    return shapes.parsed(value, duration)


KEYS: dict[str, Key] = {
    "capabilities": Key("capabilities", "list; `[all]`, `[none]`", _capabilities),
    "capabilities.add": Key("capabilities_add", "list", _capabilities),
    "ambient": Key("ambient", "list", _capabilities),
    "binds": Key("binds", "list of `SOURCE:DESTINATION[:OPTIONS]`", _binds),
    "binds.add": Key("binds_add", "list", _binds),
    "mounts": Key("mounts", "list of `{destination, type, source, options}`", resources.mounts),
    "tmpfs": Key("tmpfs", "list of `DESTINATION[:OPTIONS]`", _tmpfs),
    "devices": Key("devices", "list of `{path, type, major, minor, mode}`", resources.devices),
    "command": Key("command", "list", strings),
    "env": Key("env", "list of `NAME=value`", _env),
    "cwd": Key("cwd", "path", absolute),
    "net": Key("net", "`host`, `new`, `none` or a path", _namespace("host", "new", "none")),
    "pid": Key("pid", "`host`, `new` or a path", _namespace("host", "new")),
    "ipc": Key("ipc", "`host`, `new` or a path", _namespace("host", "new")),
    "uts": Key("uts", "`host`, `new` or a path", _namespace("host", "new")),
    "userns": Key("userns", "`host`, `new` or a path", _namespace("host", "new")),
    "uidMappings": Key("uid_mappings", "list of `{containerID, hostID, size}`", resources.mappings),
    "gidMappings": Key("gid_mappings", "list of `{containerID, hostID, size}`", resources.mappings),
    "uid": Key("uid", "number or service", owner),
    "gid": Key("gid", "number or service", owner),
    "additionalGids": Key("additional_gids", "list", _owners),
    "readonly": Key("readonly", "truth", shapes.truth),
    "maskedPaths": Key("masked_paths", "list of paths", absolutes),
    "readonlyPaths": Key("readonly_paths", "list of paths", absolutes),
    "noNewPrivileges": Key("no_new_privileges", "truth", shapes.truth),
    "hostname": Key("hostname", "text", shapes.text),
    "oomScoreAdj": Key("oom_score_adj", "-1000 to 1000", between(-1000, 1000)),
    "rootfsPropagation": Key("rootfs_propagation", "`private`, `slave`, `shared`, `unbindable`", _propagation),
    "cgroupsPath": Key("cgroups_path", "path", shapes.text),
    "annotations": Key("annotations", "table of texts", pairs),
    "sysctl": Key("sysctl", "table of texts", _sysctl),
    "rlimits": Key("rlimits", "list of `NAME,SOFT,HARD`", resources.rlimits),
    "resources": Key("resources", "limits of runtime-spec", resources.resources),
    "runtime": Key("runtime", "`cgroups`, `mounts`, `mkdir`, `interfaces`, `bindNS`", resources.runtime_spec),
}
"""What a container or its image may say."""

_ENTRY = ("name", "image", "build")
_OF_STAGE = {
    "services": ("restart", "after", "ready", "stop_grace_period"),
    "onboot": ("timeout",),
    "onshutdown": ("timeout",),
}
OWN_KEYS: dict[str, Key] = {
    "restart": Key("restart", "`no`, `on-failure`, `always`", lambda found: shapes.one_of(found, get_args(Restart))),
    "after": Key("after", "list of services", strings),
    "ready": Key("ready", "`{tcp, path, timeout}`", lambda found: _ready(found)),
    "stop_grace_period": Key("stop_grace_period", "duration", _seconds),
    "timeout": Key("timeout", "duration", _seconds),
}
"""What LinuxKit does not have."""


def read_container(value: Value, stage: Stage, directory: Path, problems: Problems) -> ContainerSpec:
    """One entry of a stage. Raises InputError; mistakes of its keys are among the problems."""
    table = shapes.table(value)
    own = {name: OWN_KEYS[name] for name in _OF_STAGE[stage]}
    named = {"name": Key("name", "text", _name), "build": Key("", "", lambda _: None)}
    image = {"image": Key("", "", lambda _: None)}
    found = Problems()
    fields, places = read_keys(table, "container", {**named, **image, **KEYS, **own}, found)
    fields.pop("", None), places.pop("", None)
    with found.guard():
        needed(table, "name")
    with coded("build" if "build" in table.entries else "image", found):
        fields["source"] = _source(table, directory, found)
    if stage == "services" and resources_say_no_restart(table):
        fields.setdefault("restart", "no")
    found.check()
    return make(ContainerSpec, value.place, places, fields)


def resources_say_no_restart(table: Table) -> bool:
    entry = table.entries.get("runtime")
    try:
        return entry is not None and resources.no_restart(entry.value)
    except InputError:  # told by the reader of the key
        return False


def read_label(text: str, image: str) -> ContainerDefaults:
    """What an image says of itself in its label, JSON or YAML. Raises InputError."""
    problems = Problems()
    place = Place(f"{image}, label {LABEL}")
    value = parse(text, place.file, lambda found, _: found, problems)
    fields, places = read_keys(shapes.table(value), "container", KEYS, problems)
    problems.check()
    return make(ContainerDefaults, place, places, fields)


def _source(table: Table, directory: Path, problems: Problems) -> ImageSource:
    given = [table.entries[key] for key in ("image", "build") if key in table.entries]
    if not given:
        raise fault("no-image", "has no image", place=table.place, hint="add image: NAME, or build: with parts")
    if len(given) == 2:
        hint = "keep one of the two"
        raise fault("image-and-build", "has both image and build", place=given[1].place, hint=hint)
    entry = given[0]
    where = f"{entry.value.place.file}:{entry.value.place.line}"
    if entry.key == "build":
        return ImageSource(build=read_build(entry.value, directory, problems), place=where)
    return read_image(entry.value, directory)


def _name(value: Value) -> str:
    found = shapes.text(value)
    if not _NAME.fullmatch(found):
        hint = "letters, digits, _ . and -, a letter or digit first, at most 64"
        raise InputError(f"{found!r} is no name", place=value.place, hint=hint)
    return found


def _ready(value: Value) -> ReadySpec:
    keys = {
        "tcp": Key("tcp", "port", between(1, 65535)),
        "path": Key("path", "path", absolute),
        "timeout": Key("timeout", "duration", _seconds),
    }
    problems = Problems()
    fields, places = read_keys(shapes.table(value), "services[].ready", keys, problems)
    problems.check()
    if ("tcp" in fields) == ("path" in fields):
        raise InputError("has exactly one of tcp and path", place=value.place)
    return make(ReadySpec, value.place, places, fields)


def readers() -> dict[str, Any]:
    """Every key of a container, for the reference."""
    return {**KEYS, **OWN_KEYS}
