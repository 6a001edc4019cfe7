"""cloud-config in the subset that CoreOS defined (coreos-cloudinit, Documentation/cloud-config.md), for a machine that
has no users, no package manager and no shell: its name, files, and keys that may log in."""

from __future__ import annotations

import re
from typing import Any

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.firstboot.values import (
    from_base64,
    key_line,
    keys_file,
    mistake,
    needed,
    place_of,
    read_all,
    unzipped,
)
from whit.formats.machine.keys import Key
from whit.formats.machine.resources import octal
from whit.formats.nodes import Value, parse
from whit.formats.problems import Problems, make
from whit.model.first_boot import FirstBootSpec, WrittenFile

_PACKAGES = "bring packages as parts of an image: build: {parts: [debian:NAME]}"
_COMMANDS = "a machine has no shell; run a container of its file in onboot"
_UNITS = "a machine has no systemd; write a service into its file"
_DISKS = "mount it by a container of onboot"

UNSUPPORTED: dict[str, str] = {
    "users": "users belong to containers; ssh_authorized_keys says whose keys may log in",
    "groups": "groups belong to containers; leave it out",
    "chpasswd": "nobody logs in with a password; leave it out",
    "password": "nobody logs in with a password; leave it out",
    "ssh_pwauth": "nobody logs in with a password; leave it out",
    "coreos": _UNITS,
    "packages": _PACKAGES,
    "package_update": _PACKAGES,
    "package_upgrade": _PACKAGES,
    "apt": _PACKAGES,
    "yum_repos": _PACKAGES,
    "runcmd": _COMMANDS,
    "bootcmd": _COMMANDS,
    "power_state": _COMMANDS,
    "disk_setup": _DISKS,
    "fs_setup": _DISKS,
    "mounts": _DISKS,
    "growpart": _DISKS,
    "swap": _DISKS,
    "ntp": "run a time service in the machine's file",
    "ca_certs": "bring them as a part, as debian:ca-certificates",
    "timezone": "bring /etc/localtime with write_files or a part",
    "locale": "set it in the containers' env",
    "write_files[].defer": "all files are written before anything runs; leave it out",
}
"""Also of mainline cloud-init, where people know them from."""

_ENCODINGS = {"": "", "text/plain": "", "base64": "b", "b64": "b", "gzip": "g", "gz": "g"}
_ENCODINGS |= {f"{zip_}+{coding}": "bg" for zip_ in ("gzip", "gz") for coding in ("base64", "b64")}
_ADDRESS = re.compile(r"\$(private|public)_ipv[46]")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.IGNORECASE)


def read(text: str, file: str) -> FirstBootSpec:
    """What user-data says. Raises InvalidApp."""
    problems = Problems()
    fields: dict[str, Any] = {}
    with problems.guard():
        table = shapes.table(parse(text, file, lambda found, _: found, problems))
        fields = read_all(table, "", KEYS, UNSUPPORTED, problems)
        if "hosts" in fields and "hostname" not in fields:
            hint = "add hostname:"
            raise mistake("hosts", "manage_etc_hosts needs a host name", table.entries["manage_etc_hosts"].place, hint)
    problems.check()
    files = [*fields.get("files", ())]
    if name := fields.get("hostname"):
        files.append(WrittenFile(path="/etc/hostname", contents=f"{name}\n".encode()))
    if fields.get("hosts"):
        hosts = f"127.0.0.1 localhost\n127.0.0.1 {name}\n::1 localhost\n"
        files.append(WrittenFile(path="/etc/hosts", contents=hosts.encode()))
    if keys := fields.get("keys"):
        files.append(keys_file(keys))
    return FirstBootSpec(hostname=name or "", files=tuple(files))


def _hostname(value: Value) -> str:
    found = shapes.text(value)
    if not _HOST_NAME.fullmatch(found) or len(found) > 64:
        raise InputError(f"{found!r} is no host name", place=value.place, hint="letters, digits, - and dots")
    return found


def _keys(value: Value) -> tuple[str, ...]:
    return tuple(key_line(shapes.text(item), item.place) for item in shapes.items(value))


def _files(value: Value) -> tuple[WrittenFile, ...]:
    problems = Problems()
    found: dict[str, WrittenFile] = {}
    for item in shapes.items(value):
        with problems.guard():
            file = _file(item)
            if file.path in found and not file.append:
                hint = "keep one of them"
                raise mistake("twice", f"{file.path} is written twice", item.place, hint)
            found[file.path if not file.append else f"{file.path}+{len(found)}"] = file
    problems.check()
    return tuple(found.values())


def _file(item: Value) -> WrittenFile:
    table = shapes.table(item)
    problems = Problems()
    fields = read_all(table, "write_files[]", FILE_KEYS, UNSUPPORTED, problems)
    with problems.guard():
        needed(table, "path")
    problems.check()
    coding = fields.pop("encoding", "")
    text, place = fields.pop("contents", ""), item.place
    if _ADDRESS.search(text):
        hint = "write the address itself: it is not known when the machine is made"
        raise mistake("address", f"{_ADDRESS.search(text)[0]} is not honoured", place, hint)  # type: ignore[index]
    data = from_base64(text, place) if "b" in coding else text.encode()
    uid, gid = fields.pop("owner", (0, 0))
    data = unzipped(data, place) if "g" in coding else data
    return make(WrittenFile, place, {}, {**fields, "contents": data, "uid": uid, "gid": gid})


def _owner(value: Value) -> tuple[int, int]:
    words = shapes.text(value).split(":")
    numbers = [0 if word == "root" else int(word) if word.isdecimal() else -1 for word in words]
    if len(words) > 2 or -1 in numbers:
        hint = "root, or a number: the machine has no other users"
        raise InputError(f"{shapes.text(value)!r} is no owner", place=value.place, hint=hint)
    return numbers[0], numbers[-1]


FILE_KEYS: dict[str, Key] = {
    "path": Key("path", "path", lambda value: place_of(shapes.text(value), value.place)),
    "content": Key("contents", "text", shapes.text_or_empty),
    "permissions": Key("mode", "octal", lambda value: shapes.parsed(value, octal)),
    "owner": Key("owner", "`root`, numbers", _owner),
    "encoding": Key("encoding", "coding", lambda value: _ENCODINGS[shapes.one_of(value, tuple(_ENCODINGS))]),
    "append": Key("append", "truth", shapes.truth),
}
KEYS: dict[str, Key] = {
    "hostname": Key("hostname", "name", _hostname),
    "ssh_authorized_keys": Key("keys", "list of keys", _keys),
    "manage_etc_hosts": Key("hosts", "`localhost`", lambda value: shapes.one_of(value, ("localhost",))),
    "write_files": Key("files", "list", _files),
}
