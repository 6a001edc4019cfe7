"""A strict reader of BTF, the type information of BPF objects: structs, enums and global variables.

Format: kernel documentation, Documentation/bpf/btf.rst. What Whit's ABI does not use (bit-fields) is refused when it is
asked for, not skipped.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.datapath.elf import Elf, string_at

_HEADER = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
_POINTER_SIZE = 8


class Kind(enum.IntEnum):
    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MODIFIERS = {Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}
_TRAILERS = {
    Kind.INT: struct.Struct("<I"),
    Kind.ARRAY: struct.Struct("<III"),
    Kind.VAR: struct.Struct("<I"),
    Kind.DECL_TAG: struct.Struct("<I"),
}
_MEMBERS = {
    Kind.STRUCT: struct.Struct("<III"),
    Kind.UNION: struct.Struct("<III"),
    Kind.ENUM: struct.Struct("<Ii"),
    Kind.FUNC_PROTO: struct.Struct("<II"),
    Kind.DATASEC: struct.Struct("<III"),
    Kind.ENUM64: struct.Struct("<III"),
}
_NOTHING = struct.Struct("")


@dataclass(frozen=True)
class Type:
    """One record. `size` is bytes or, for kinds that refer to a type, its number; `members` are raw."""

    kind: Kind
    name: str
    flag: bool
    size: int
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Field:
    """A member of a struct: offset and size in bytes; `type` is the name that the C source uses, as `__be16`.

    `count` is the number of elements of an array, 0 if it is none; `kind` is that of one element.
    """

    name: str
    offset: int
    size: int
    type: str
    kind: Kind
    count: int = 0


@dataclass(frozen=True)
class Struct:
    name: str
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Enum:
    name: str
    size: int
    values: tuple[tuple[str, int], ...]


class Btf:
    """The types of one object. Raises InputError, which names `origin`, if the section is damaged."""

    def __init__(self, data: bytes, origin: str = "") -> None:
        self._place = Place(file=origin)
        try:
            self._strings, self.types = _read(data)
        except (struct.error, IndexError, ValueError) as error:
            raise InputError(f"has damaged BTF: {error}", place=self._place, hint="build it anew") from error

    @classmethod
    def from_elf(cls, elf: Elf, origin: str = "") -> Btf:
        return cls(elf.section(".BTF").data, origin)

    @classmethod
    def from_file(cls, path: Path) -> Btf:
        return cls.from_elf(Elf(path.read_bytes(), str(path)), str(path))

    @cached_property
    def structs(self) -> dict[str, int]:
        """Numbers of the named structs."""
        return self._named(Kind.STRUCT)

    @cached_property
    def enums(self) -> dict[str, int]:
        """Numbers of the named enums."""
        return self._named(Kind.ENUM)

    @cached_property
    def variables(self) -> dict[str, int]:
        """Global variables: name to the number of their type."""
        return {type_.name: type_.size for type_ in self.types if type_.kind is Kind.VAR}

    def struct(self, name: str) -> Struct:
        """Layout of a struct. Raises InputError if there is none, or if it has bit-fields."""
        type_ = self._find(self.structs, "struct", name)
        return Struct(name, type_.size, tuple(self._field(name, type_.flag, member) for member in type_.members))

    def enum(self, name: str) -> Enum:
        """Values of an enum. Raises InputError if there is none."""
        type_ = self._find(self.enums, "enum", name)
        return Enum(name, type_.size, tuple((string_at(self._strings, entry[0]), entry[1]) for entry in type_.members))

    def plain(self, number: int) -> Type:
        """The type without const and volatile; a typedef stays one."""
        type_ = self.types[number]
        while type_.kind in _MODIFIERS:
            type_ = self.types[type_.size]
        return type_

    def resolve(self, number: int) -> Type:
        """The type behind typedefs, const and volatile."""
        type_ = self.plain(number)
        while type_.kind is Kind.TYPEDEF:
            type_ = self.plain(type_.size)
        return type_

    def size_of(self, number: int) -> int:
        """Bytes of a value of the type. Raises InputError for what has none, as a function."""
        type_ = self.resolve(number)
        if type_.kind is Kind.PTR:
            return _POINTER_SIZE
        if type_.kind is Kind.ARRAY:
            element, _, count = type_.members[0]
            return count * self.size_of(element)
        if type_.kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
            return type_.size
        raise InputError(f"a value of kind {type_.kind.name} has no size", place=self._place)

    def _named(self, kind: Kind) -> dict[str, int]:
        return {type_.name: number for number, type_ in enumerate(self.types) if type_.kind is kind and type_.name}

    def _find(self, names: dict[str, int], what: str, name: str) -> Type:
        if name not in names:
            raise InputError(f"has no type information of {what} {name}", place=self._place)
        return self.types[names[name]]

    def _field(self, owner: str, has_bits: bool, member: tuple[int, ...]) -> Field:
        name, number, bits = string_at(self._strings, member[0]), member[1], member[2]
        if (has_bits and bits >> 24) or bits % 8:
            raise InputError(f"struct {owner} has the bit-field {name}", place=self._place, hint="use whole bytes")
        type_, count = self.resolve(number), 0
        size = self.size_of(number)
        if type_.kind is Kind.ARRAY:
            number, _, count = type_.members[0]
            type_ = self.resolve(number)
        return Field(name, bits // 8, size, self.plain(number).name, type_.kind, count)


def _read(data: bytes) -> tuple[bytes, list[Type]]:
    """The strings, and the types by number; number 0 is void."""
    magic, version, _, header_size, types_at, types_size, strings_at, strings_size = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != 1:
        raise ValueError(f"magic {magic:#x}, version {version}")
    body = data[header_size:]
    if max(types_at + types_size, strings_at + strings_size) > len(body):
        raise ValueError("it ends too early")
    strings = body[strings_at : strings_at + strings_size]
    return strings, _read_types(body[types_at : types_at + types_size], strings)


def _read_types(data: bytes, strings: bytes) -> list[Type]:
    types = [Type(Kind.VOID, "void", False, 0, ())]
    position = 0
    while position < len(data):
        name, info, size = struct.unpack_from("<III", data, position)
        kind, count = Kind(info >> 24 & 0x1F), info & 0xFFFF
        position += 12
        record, count = (_TRAILERS[kind], 1) if kind in _TRAILERS else (_MEMBERS.get(kind, _NOTHING), count)
        end = position + record.size * count
        if end > len(data):
            raise ValueError("a type is cut off")
        members = tuple(record.iter_unpack(data[position:end])) if record.size else ()
        types.append(Type(kind, string_at(strings, name), bool(info >> 31), size, members))
        position = end
    return types
