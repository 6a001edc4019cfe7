"""Values that both ways to describe a first boot have: keys of SSH, paths, encoded contents; and their mistakes."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Any

from whit.base.errors import InputError, Place
from whit.formats.app.unsupported import refuse
from whit.formats.machine.keys import Key, code_of, coded
from whit.formats.nodes import Table
from whit.formats.problems import Problems
from whit.model.first_boot import WrittenFile

AUTHORIZED_KEYS = "/run/config/ssh/authorized_keys"
"""Where LinuxKit's metadata package puts keys, and its sshd looks for them."""
LARGEST = 64 << 20
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?")


def mistake(code: str, message: str, place: Place, hint: str = "") -> InputError:
    error = InputError(message, place=place, hint=hint)
    error.code = f"first-boot-{code}"
    return error


def read_all(
    table: Table,
    parent: str,
    keys: Mapping[str, Key],
    unsupported: Mapping[str, str],
    problems: Problems,
) -> dict[str, Any]:
    """What the keys of a table say, by the noun's fields. Mistakes, with the key's code, are among the problems."""
    refuse(table, parent, keys, problems, unsupported)
    fields: dict[str, Any] = {}
    for name, key in keys.items():
        if name in table.entries:
            with coded(name, problems, "first-boot"):
                fields[key.field] = key.read(table.entries[name].value)
    return fields


def needed(table: Table, name: str) -> None:
    if name not in table.entries:
        raise mistake(f"no-{code_of(name)}", f"has no {name}", table.place, f"add {name}")


def place_of(text: str, place: Place) -> str:
    """A path from the root that stays below it, and is seen when the machine has booted."""
    parts = text.split("/")[1:]
    if not text.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"{text!r} is not a path from the root", place=place, hint="as /etc/motd")
    if parts[0] in ("proc", "sys", "dev"):
        raise InputError(f"{text!r} is the kernel's", place=place, hint="use sysctl in the machine file")
    return text


def key_line(text: str, place: Place) -> str:
    """A public key as authorized_keys has it; sshd(8)."""
    if not _KEY.fullmatch(text.strip()):
        raise InputError("is no public key of SSH", place=place, hint="as ssh-ed25519 AAAA… name")
    return text.strip()


def keys_file(lines: tuple[str, ...]) -> WrittenFile:
    text = "".join(f"{line}\n" for line in lines)
    return WrittenFile(path=AUTHORIZED_KEYS, contents=text.encode(), mode=0o600)


def from_base64(text: str, place: Place) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise mistake("base64", f"is not base64: {error}", place, "write it with: base64 FILE") from error


def unzipped(data: bytes, place: Place) -> bytes:
    """At most LARGEST bytes."""
    try:
        decompressor = zlib.decompressobj(wbits=31)
        found = decompressor.decompress(data, LARGEST)
    except zlib.error as error:
        raise mistake("gzip", f"is not gzip: {error}", place, "leave the encoding out, or compress it") from error
    if not decompressor.eof:
        hint = "put so much into the image"
        raise mistake("gzip", f"is not whole, or has more than {LARGEST} bytes", place, hint)
    return found
