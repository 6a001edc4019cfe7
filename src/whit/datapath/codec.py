"""How keys and values of maps become bytes: the structs of abi.py, and plain integers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar

T = TypeVar("T")


class AbiStruct(Protocol):
    """What every struct of abi.py offers."""

    SIZE: ClassVar[int]

    def pack(self) -> bytes: ...

    @classmethod
    def unpack(cls, data: bytes) -> Self: ...


S = TypeVar("S", bound=AbiStruct)


@dataclass(frozen=True)
class Codec(Generic[T]):
    name: str
    size: int
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]


def struct_codec(kind: type[S]) -> Codec[S]:
    """The codec of a struct of abi.py."""
    return Codec(kind.__name__, kind.SIZE, kind.pack, kind.unpack)


def _integer(name: str, format_: str) -> Codec[int]:
    packer = struct.Struct(format_)
    return Codec(name, packer.size, packer.pack, lambda data: int(packer.unpack(data)[0]))


U32 = _integer("u32", "<I")
U64 = _integer("u64", "<Q")
