"""Ignition configs, versions 3.0 to 3.5 (coreos/ignition, docs/configuration-v3_5.md): files, directories and links,
and the keys of the user who may log in. Contents are in the config itself (data:, RFC 2397): nothing is fetched."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from whit.base.errors import InputError, Place
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
from whit.formats.machine.keys import Key, between
from whit.formats.nodes import Value, parse
from whit.formats.problems import Problems, make
from whit.model.first_boot import FirstBootSpec, WrittenFile

VERSIONS = ("3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0")

_FETCH = "nothing is fetched; leave it out"
_DISKS = "mount it by a container of onboot"
_USER = "users belong to containers; only sshAuthorizedKeys of core or root is honoured"

UNSUPPORTED: dict[str, str] = {
    "ignition.config": "write what it would bring into this config",
    "ignition.timeouts": _FETCH,
    "ignition.security": _FETCH,
    "ignition.proxy": _FETCH,
    "storage.disks": _DISKS,
    "storage.raid": _DISKS,
    "storage.luks": _DISKS,
    "storage.filesystems": _DISKS,
    "systemd": "a machine has no systemd; write a service into its file",
    "passwd.groups": "groups belong to containers; leave it out",
    "kernelArguments": "write them to kernel.cmdline in the machine's file",
    "resource.httpHeaders": _FETCH,
    **{
        f"passwd.users[].{key}": _USER
        for key in (
            *("passwordHash", "uid", "gecos", "homeDir", "noCreateHome", "primaryGroup", "groups", "noUserGroup"),
            *("noLogInit", "shell", "shouldExist", "system"),
        )
    },
}
_HASH = re.compile(r"(sha256|sha512)-([0-9a-f]+)")
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),(.*)", re.DOTALL)
_LOGINS = ("core", "root")


def read(text: str, file: str) -> FirstBootSpec:
    """What a config says. Raises InvalidApp."""
    problems = Problems()
    files: list[WrittenFile] = []
    with problems.guard():
        # JSON is YAML but for tabs, which stand only between its words.
        table = shapes.table(parse(text.replace("\t", " "), file, lambda found, _: found, problems))
        fields = read_all(table, "", KEYS, UNSUPPORTED, problems)
        with problems.guard():
            needed(table, "ignition")
        files = [*fields.get("storage", ())]
        if lines := fields.get("keys"):
            files.append(keys_file(lines))
    problems.check()
    name = next((one.contents.decode(errors="replace").strip() for one in files if one.path == "/etc/hostname"), "")
    return FirstBootSpec(hostname=name, files=tuple(files))


def _table(value: Value, parent: str, keys: dict[str, Key], *wanted: str) -> dict[str, Any]:
    """What a table says, with all of its mistakes. Raises InvalidApp."""
    table = shapes.table(value)
    problems = Problems()
    fields = read_all(table, parent, keys, UNSUPPORTED, problems)
    for name in wanted:
        with problems.guard():
            needed(table, name)
    problems.check()
    return fields


def _ignition(value: Value) -> str:
    version = Key("version", "3.x.0", lambda found: shapes.one_of(found, VERSIONS))
    return str(_table(value, "ignition", {"version": version}, "version")["version"])


def _storage(value: Value) -> list[WrittenFile]:
    """Directories before files before links, as Ignition makes them; a place is written once."""
    keys = {
        "directories": Key("directories", "list", _each(_directory)),
        "files": Key("files", "list", _each(_file)),
        "links": Key("links", "list", _each(_link)),
    }
    fields = _table(value, "storage", keys)
    found = [one for name in keys for group in fields.get(name, ()) for one in group]
    seen: dict[str, str] = {}
    for one in found:
        if not one.append and seen.setdefault(one.path, one.kind) != one.kind:
            raise mistake("conflict", f"{one.path} is a {seen[one.path]} and a {one.kind}", value.place, "keep one")
    return found


def _each(reader: Callable[[Value], list[WrittenFile]]) -> Callable[[Value], list[list[WrittenFile]]]:
    def read_list(value: Value) -> list[list[WrittenFile]]:
        problems = Problems()
        found: list[list[WrittenFile]] = []
        for item in shapes.items(value):
            with problems.guard():
                made = reader(item)
                if any(made[0].path == other[0].path for other in found):
                    raise mistake("twice", f"{made[0].path} is there twice", item.place, "keep one of them")
                found.append(made)
        problems.check()
        return found

    return read_list


def _node(item: Value, parent: str, own: dict[str, Key], *wanted: str) -> dict[str, Any]:
    """What files, directories and links have in common."""
    keys = {
        "path": Key("path", "path", lambda value: place_of(shapes.text(value), value.place)),
        "overwrite": Key("overwrite", "truth", shapes.truth),
        "user": Key("uid", "id", _owner),
        "group": Key("gid", "id", _owner),
    }
    return _table(item, parent, {**keys, **own}, "path", *wanted)


def _owner(value: Value) -> int:
    names = Key("name", "root", lambda found: shapes.one_of(found, ("root",)))
    fields = _table(value, "owner", {"id": Key("id", "number", between(0, 2**32 - 2)), "name": names})
    return int(fields.get("id", 0))


def _directory(item: Value) -> list[WrittenFile]:
    fields = _node(item, "storage.directories[]", {"mode": _MODE})
    return [make(WrittenFile, item.place, {}, {"mode": 0o755, "overwrite": False, **fields, "kind": "directory"})]


def _link(item: Value) -> list[WrittenFile]:
    own = {"target": Key("target", "path", shapes.text), "hard": Key("hard", "truth", shapes.truth)}
    fields = _node(item, "storage.links[]", own, "target")
    kind = "link" if fields.pop("hard", False) else "symlink"
    if kind == "link":
        place_of(fields["target"], item.place)
    return [make(WrittenFile, item.place, {}, {"overwrite": False, **fields, "kind": kind})]


def _file(item: Value) -> list[WrittenFile]:
    """The file, then what is appended to it."""
    own = {
        "contents": Key("contents", "resource", _resource),
        "append": Key("append", "resources", lambda value: [_resource(one) for one in shapes.items(value)]),
        "mode": _MODE,
    }
    fields = {"overwrite": False, **_node(item, "storage.files[]", own)}
    parts = fields.pop("append", [])
    if "contents" in fields and parts:
        hint = "keep one of the two"
        raise mistake("append-and-contents", f"{fields['path']} has both contents and append", item.place, hint)
    if not parts:
        return [make(WrittenFile, item.place, {}, fields)]
    fields.pop("overwrite")
    return [make(WrittenFile, item.place, {}, {**fields, "contents": part, "append": True}) for part in parts]


def _resource(value: Value) -> bytes:
    hashes = Key("hash", "hash", shapes.text)
    keys = {
        "source": Key("source", "data: URL", lambda found: (shapes.text_or_empty(found), found.place)),
        "compression": Key("compression", "gzip", lambda found: _compression(found)),
        "verification": Key("hash", "table", lambda found: _table(found, "verification", {"hash": hashes}).get("hash")),
    }
    fields = _table(value, "resource", keys)
    url, place = fields.get("source", ("", value.place))
    data = _of_url(url, place) if url else b""
    if fields.get("compression"):
        data = unzipped(data, place)
    if fields.get("hash"):
        _verify(data, fields["hash"], place)
    return data


def _compression(value: Value) -> str:
    return "" if not shapes.text_or_empty(value) else shapes.one_of(value, ("gzip",))


def _of_url(url: str, place: Place) -> bytes:
    found = _DATA.fullmatch(url)
    if not found:
        hint = "write the content itself, as data:,text or data:;base64,…"
        raise mistake("source", f"{url.partition(':')[0]}: is not fetched", place, hint)
    if ";base64" in found[2]:
        return from_base64(urllib.parse.unquote(found[3]), place)
    return urllib.parse.unquote_to_bytes(found[3])


def _verify(data: bytes, wanted: str, place: Place) -> None:
    found = _HASH.fullmatch(wanted)
    if not found:
        raise mistake("hash", f"{wanted[:20]!r} is neither sha256-… nor sha512-…", place, "write it in hex")
    if hashlib.new(found[1], data).hexdigest() != found[2]:
        raise mistake("digest-mismatch", "the content is not what its hash says", place, "write the right one")


def _passwd(value: Value) -> tuple[str, ...]:
    users = Key("users", "list", lambda found: [_user(item) for item in shapes.items(found)])
    return tuple(line for user in _table(value, "passwd", {"users": users}).get("users", ()) for line in user)


def _user(item: Value) -> tuple[str, ...]:
    keys = {
        "name": Key("name", "core or root", _login),
        "sshAuthorizedKeys": Key(
            "keys", "list", lambda found: tuple(key_line(shapes.text(one), one.place) for one in shapes.items(found))
        ),
    }
    found: tuple[str, ...] = _table(item, "passwd.users[]", keys, "name").get("keys", ())
    return found


def _login(value: Value) -> str:
    found = shapes.text(value)
    if found not in _LOGINS:
        raise InputError(f"{found!r} is no user of the machine", place=value.place, hint=_USER)
    return found


_MODE = Key("mode", "decimal number", between(0, 0o7777))
"""JSON has no octal numbers: 420 is 0644."""

KEYS: dict[str, Key] = {
    "ignition": Key("version", "`version`: 3.0.0 to 3.5.0", _ignition),
    "storage": Key("storage", "`files`, `directories`, `links`; sources are data: URLs", _storage),
    "passwd": Key("keys", "`users` core and root with `sshAuthorizedKeys`", _passwd),
}
