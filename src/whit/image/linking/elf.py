"""ELF: what a program or library says about the files it needs: interpreter, libraries, search paths, dlopen notes.

Reads 32- and 64-bit files of either byte order by their program headers (System V gABI, chapters 4 and 5); notes on
dlopen: uapi-group.org/specifications/specs/elf_dlopen_metadata. Damaged files are not errors: they need nothing.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF"
_LOAD, _DYNAMIC, _INTERP, _NOTE = 1, 2, 3, 4
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_DLOPEN = (b"FDO", 0x407C0C0A)
_STRING = re.compile(rb"[\x20-\x7e]{3,512}(?=\0)")
_LIBRARY = re.compile(r"[A-Za-z0-9_+.-]+\.so(?:\.[0-9]+)*")


@dataclass(frozen=True)
class Needs:
    """`machine` is e_machine with the class: a library of another one does not meet a need of this file."""

    machine: tuple[int, int]
    interpreter: str = ""
    libraries: tuple[str, ...] = ()
    soname: str = ""
    search: tuple[str, ...] = ()
    """DT_RUNPATH, or DT_RPATH if there is none; $ORIGIN is not replaced."""
    notes: tuple[str, ...] = ()
    """Libraries that it says it may load (dlopen notes of any priority)."""


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read(data: bytes) -> Needs | None:
    """None if this is no ELF file, or one that cannot be read."""
    if data[:4] != MAGIC or len(data) < 52 or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError):
        return None


def _read(data: bytes) -> Needs:
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    segments = list(_segments(data, wide, order))
    machine = (data[4], struct.unpack_from(f"{order}H", data, 18)[0])
    interpreter = next((_text(data, one.offset) for one in segments if one.kind == _INTERP), "")
    notes = tuple(name for one in segments if one.kind == _NOTE for name in _notes(_part(data, one), order))
    dynamic = next((one for one in segments if one.kind == _DYNAMIC), None)
    if dynamic is None:
        return Needs(machine, interpreter, notes=notes)
    entries = list(struct.iter_unpack(f"{order}{'qQ' if wide else 'iI'}", _whole(_part(data, dynamic), wide)))
    table = _string_table(data, entries, segments)
    named = {tag: [_text(table, value) for found, value in entries if found == tag] for tag in (_NEEDED, _SONAME)}
    paths = next(
        (
            [_text(table, value) for found, value in entries if found == tag]
            for tag in (_RUNPATH, _RPATH)
            if any(found == tag for found, _ in entries)
        ),
        [],
    )
    search = tuple(path for text in paths for path in text.split(":") if path)
    return Needs(machine, interpreter, tuple(named[_NEEDED]), next(iter(named[_SONAME]), ""), search, notes)


def _segments(data: bytes, wide: bool, order: str) -> Iterator[_Segment]:
    if wide:
        start, (size, count) = struct.unpack_from(f"{order}Q", data, 32)[0], struct.unpack_from(f"{order}HH", data, 54)
    else:
        start, (size, count) = struct.unpack_from(f"{order}I", data, 28)[0], struct.unpack_from(f"{order}HH", data, 42)
    for index in range(count):
        at = start + index * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(f"{order}IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(f"{order}IIIII", data, at)
        yield _Segment(kind, offset, address, length)


def _string_table(data: bytes, entries: list[tuple[int, ...]], segments: list[_Segment]) -> bytes:
    """The dynamic string table stands at an address; the segment that is loaded there says where in the file."""
    values = {entry[0]: entry[1] for entry in entries}
    address = values.get(_STRTAB, 0)
    for one in segments:
        if one.kind == _LOAD and one.address <= address < one.address + one.size:
            offset = one.offset + address - one.address
            return data[offset : offset + values.get(_STRSZ, 0)]
    raise ValueError("no segment holds the string table")


def _notes(data: bytes, order: str) -> Iterator[str]:
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(f"{order}III", data, at)
        name = data[at + 12 : at + 12 + name_size].rstrip(b"\0")
        at += 12 + (name_size + 3) // 4 * 4
        if (name, kind) == _DLOPEN:
            for item in json.loads(data[at : at + size].rstrip(b"\0")):
                yield from (str(soname) for soname in item.get("soname", ()))
        at += (size + 3) // 4 * 4


def strings(data: bytes) -> set[str]:
    """Zero-terminated printable texts: paths, names of libraries and of programs that the code may use."""
    return {match[0].decode("ascii") for match in _STRING.finditer(data)}


def library_names(texts: set[str]) -> set[str]:
    """Texts that are names of shared objects, which dlopen(3) may be given."""
    return {text for text in texts if _LIBRARY.fullmatch(text)}


def _part(data: bytes, one: _Segment) -> bytes:
    return data[one.offset : one.offset + one.size]


def _whole(data: bytes, wide: bool) -> bytes:
    size = 16 if wide else 8
    return data[: len(data) // size * size]


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(0, offset)].decode("utf-8", "surrogateescape")
