"""One BPF object between its file and the kernel: constants, sizes, adopted maps, loading, pinning.

What is pinned where, and what is adopted, is decided by datapath.py.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from whit.base.errors import Conflict, InputError, Place
from whit.datapath import abi, libbpf
from whit.datapath.btf import Btf
from whit.datapath.elf import Elf, Symbol

RODATA = ".rodata"


class Packed(Protocol):
    def pack(self) -> bytes: ...


Constant: TypeAlias = int | bytes | Packed
"""A value of a `const volatile` variable. Integers of a `__be…` type are given in host order."""


def open_object(path: Path) -> BpfObject:
    """Read an object file and check that its types are those of abi.py.

    Raises:
        InputError: it is no BPF object, or was built from another abi.h.
    """
    return BpfObject(path)


class BpfObject:
    """Use as a context manager: what was not pinned is gone at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self.elf = Elf(self._data, str(path))
        self.btf = Btf.from_elf(self.elf, str(path))
        check_abi(self.btf, str(path))
        self._pointer: int = libbpf.call_for_pointer(
            "bpf_object__open_mem", self._data, len(self._data), None, path=str(path)
        )
        self._maps = {name: pointer for pointer, name in self._walk("map")}
        self._programs = {name: pointer for pointer, name in self._walk("program")}
        for pointer in self._maps.values():
            # What is pinned where is our decision, not that of the C source.
            libbpf.call("bpf_map__set_pin_path", pointer, None)

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything. Safe twice."""
        if self._pointer:
            libbpf.function("bpf_object__close")(self._pointer)
            self._pointer = 0

    @property
    def map_names(self) -> list[str]:
        """Without the maps that the compiler makes for sections."""
        return [name for name in self._maps if "." not in name]

    @property
    def program_names(self) -> list[str]:
        return list(self._programs)

    @property
    def constant_names(self) -> list[str]:
        return [symbol.name for symbol in self._constants()]

    def set_constants(self, values: Mapping[str, Constant]) -> None:
        """Set `const volatile` variables, before `load`.

        Raises:
            InputError: there is no such variable, or the value does not fit.
        """
        symbols = {symbol.name: symbol for symbol in self._constants()}
        for name, value in values.items():
            if name not in symbols:
                raise self._unknown("constant", name, symbols)
            self._write_constant(symbols[name], value)

    def set_max_entries(self, name: str, entries: int) -> None:
        """Size of a map, before `load`; of a ring buffer in bytes (a power of two of at least a page)."""
        libbpf.call("bpf_map__set_max_entries", self._map(name), entries, path=name)

    def reuse_map(self, name: str, descriptor: int) -> None:
        """Adopt an existing map, before `load`. The caller may close the descriptor then.

        Raises:
            Conflict: it is of another kind or layout.
        """
        info, pointer = libbpf.map_info(descriptor), self._map(name)
        wanted = self._definition(pointer)
        found = (info.type, info.key_size, info.value_size, info.map_flags)
        if wanted != found:
            raise Conflict(
                f"the pinned map {name} has (type, key, value, flags) {found}, but {self.path.name} wants {wanted}",
                hint="raise ABI_VERSION in abi.h when a layout changes; until then `whit doctor --clean`, and anew",
            )
        libbpf.call("bpf_map__reuse_fd", pointer, descriptor, path=name)

    def load(self) -> None:
        """Give everything to the kernel. Raises LoadError with the end of the verifier's log."""
        libbpf.load_object(self._pointer, str(self.path))

    def map_fd(self, name: str) -> int:
        """After `load`; belongs to the object."""
        return libbpf.call("bpf_map__fd", self._map(name), path=name)

    def program_fd(self, name: str) -> int:
        """After `load`; belongs to the object."""
        return libbpf.call("bpf_program__fd", self._program(name), path=name)

    def pin_map(self, name: str, path: Path) -> None:
        libbpf.pin(self.map_fd(name), path)

    def pin_program(self, name: str, path: Path) -> None:
        libbpf.pin(self.program_fd(name), path)

    def _walk(self, what: str) -> Iterator[tuple[int, str]]:
        following, name_of = libbpf.function(f"bpf_object__next_{what}"), libbpf.function(f"bpf_{what}__name")
        pointer = following(self._pointer, None)
        while pointer:
            yield pointer, os.fsdecode(name_of(pointer))
            pointer = following(self._pointer, pointer)

    def _map(self, name: str) -> int:
        if name not in self._maps:
            raise self._unknown("map", name, self.map_names)
        return self._maps[name]

    def _program(self, name: str) -> int:
        if name not in self._programs:
            raise self._unknown("program", name, self._programs)
        return self._programs[name]

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> InputError:
        listed = ", ".join(sorted(known)) or "none"
        return InputError(f"has no {what} {name}", place=Place(file=str(self.path)), hint=f"it has {listed}")

    def _definition(self, pointer: int) -> tuple[int, ...]:
        calls = ("bpf_map__type", "bpf_map__key_size", "bpf_map__value_size", "bpf_map__map_flags")
        return tuple(libbpf.call(name, pointer) for name in calls)

    def _constants(self) -> list[Symbol]:
        return [entry for entry in self.elf.symbols if entry.section == RODATA and entry.name in self.btf.variables]

    def _write_constant(self, symbol: Symbol, value: Constant) -> None:
        data = self._encode(symbol, value)
        section = next(pointer for name, pointer in self._maps.items() if name.endswith(RODATA))
        size = ctypes.c_size_t()
        address = libbpf.call_for_pointer("bpf_map__initial_value", section, ctypes.byref(size), path=symbol.name)
        if symbol.offset + len(data) > size.value:
            raise self._unknown("room for", symbol.name, [])
        ctypes.memmove(address + symbol.offset, data, len(data))

    def _encode(self, symbol: Symbol, value: Constant) -> bytes:
        big_endian = self.btf.plain(self.btf.variables[symbol.name]).name.startswith("__be")
        try:
            data = _bytes_of(value, symbol.size, big_endian=big_endian)
        except OverflowError:
            data = b""
        if len(data) != symbol.size:
            raise InputError(
                f"{value!r} does not fit into the {symbol.size} bytes of {symbol.name}",
                place=Place(file=str(self.path)),
            )
        return data


def _bytes_of(value: Constant, size: int, *, big_endian: bool) -> bytes:
    """Raises OverflowError if an integer does not fit."""
    if isinstance(value, int):
        return int(value).to_bytes(size, "big" if big_endian else "little", signed=value < 0)
    return value if isinstance(value, bytes) else value.pack()


def check_abi(btf: Btf, origin: str) -> None:
    """Compare the layouts of an object with abi.py. Raises InputError that names the first difference."""
    for name in sorted(btf.structs.keys() & abi.LAYOUT.keys()):
        found = btf.struct(name)
        layout = (found.size, tuple((field.name, field.offset, field.size) for field in found.fields))
        if layout != abi.LAYOUT[name]:
            raise _other_abi(f"struct {name}", layout, abi.LAYOUT[name], origin)
    for name in sorted(btf.enums.keys() & abi.ENUMS.keys()):
        values = dict(btf.enum(name).values)
        if values != abi.ENUMS[name]:
            raise _other_abi(f"enum {name}", values, abi.ENUMS[name], origin)


def _other_abi(what: str, found: object, wanted: object, origin: str) -> InputError:
    return InputError(
        f"its {what} is {found}, but abi.py says {wanted}",
        place=Place(file=origin),
        hint="run `python -m whit.datapath.build && python -m whit.datapath.generate`",
    )
