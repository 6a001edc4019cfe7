"""A strict reader of the little of ELF that BPF objects need: sections and symbols of 64-bit little-endian files.

Format: System V ABI, chapters 4 and 5 (Elf64_Ehdr, Elf64_Shdr, Elf64_Sym).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from whit.base.errors import InputError, Place

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_SHT_SYMTAB = 2
_SHT_NOBITS = 8
_EM_BPF = 247


@dataclass(frozen=True)
class Section:
    index: int
    name: str
    kind: int
    data: bytes
    link: int


@dataclass(frozen=True)
class Symbol:
    """`offset` is in bytes from the start of the section."""

    name: str
    section: str
    offset: int
    size: int


class Elf:
    """The sections and named symbols of one BPF object. Raises InputError, which names `origin`, if it is not one."""

    def __init__(self, data: bytes, origin: str = "") -> None:
        self._place = Place(file=origin)
        try:
            self.sections = self._read_sections(data)
            self.symbols = list(self._read_symbols())
        except (struct.error, IndexError, ValueError) as error:
            raise InputError("is a damaged ELF file", place=self._place, hint="build it anew") from error

    def section(self, name: str) -> Section:
        """Raises InputError if there is none of that name."""
        for section in self.sections:
            if section.name == name:
                return section
        raise InputError(f"has no section {name}", place=self._place, hint="compile it with -g for the BPF target")

    def _read_sections(self, data: bytes) -> list[Section]:
        if data[:6] != b"\x7fELF\x02\x01":
            raise InputError("is not a 64-bit little-endian ELF file", place=self._place)
        header = _EHDR.unpack_from(data)
        machine, start, entry_size, count, names_index = header[2], header[6], header[11], header[12], header[13]
        if machine != _EM_BPF or entry_size != _SHDR.size:
            raise InputError("is not an object of the BPF target", place=self._place)
        headers = [_SHDR.unpack_from(data, start + index * entry_size) for index in range(count)]
        names = _content(data, headers[names_index])
        return [
            Section(index, string_at(names, header[0]), header[1], _content(data, header), header[6])
            for index, header in enumerate(headers)
        ]

    def _read_symbols(self) -> Iterator[Symbol]:
        for table in self.sections:
            if table.kind != _SHT_SYMTAB:
                continue
            names = self.sections[table.link].data
            for name, _, _, section, value, size in _SYM.iter_unpack(table.data):
                if name and 0 < section < len(self.sections):
                    yield Symbol(string_at(names, name), self.sections[section].name, value, size)


def string_at(table: bytes, offset: int) -> str:
    """The zero-terminated string at `offset`. Raises ValueError if it does not end."""
    return table[offset : table.index(0, offset)].decode()


def _content(data: bytes, header: tuple[int, ...]) -> bytes:
    kind, offset, size = header[1], header[4], header[5]
    if kind == _SHT_NOBITS:
        return b""
    if offset + size > len(data):
        raise ValueError("a section ends behind the file")
    return data[offset : offset + size]
