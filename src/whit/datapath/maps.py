"""Typed maps: what the kernel holds as bytes, as the structs of abi.py. Opened by their pin, checked for their layout.

Single calls take 2-3 µs, batches about 1 µs an entry; dumping a large map belongs into a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from whit.base.errors import Conflict, MapFull, SystemCallError
from whit.datapath import libbpf
from whit.datapath.abi import MAGLEV_SIZE
from whit.datapath.codec import Codec

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M", bound="BpfMap[Any, Any]")

_ANY = 0
_NOEXIST = 1
_ARRAY = 2
_BATCH = 4096
_CURSOR = 512
"""Bytes of the opaque position of a batch look-up: at least those of a key."""
_TYPES = {
    1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash", 10: "lru_percpu_hash", 11: "lpm_trie",
    13: "hash_of_maps", 27: "ringbuf",
}  # fmt: skip


class BpfMap(Generic[K, V]):
    """What all maps have in common. `types` are the names of the kinds of map that a class is for."""

    types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, descriptor: int, key: Codec[K], value: Codec[V], name: str = "") -> None:
        """Takes over the descriptor. Raises Conflict if the map is of another kind or layout."""
        self.fd = descriptor
        self.name = name
        self._key, self._value = key, value
        info = libbpf.map_info(descriptor)
        kind = _TYPES.get(info.type, str(info.type))
        if kind not in self.types or (info.key_size, info.value_size) != (key.size, value.size):
            self.close()
            raise Conflict(
                f"map {name} is {kind} with {info.key_size} and {info.value_size} bytes, "
                f"not {' or '.join(self.types)} with {key.name} ({key.size}) and {value.name} ({value.size})",
                hint="it was made by another version of Whit: `whit doctor --clean` takes it away",
            )
        self.max_entries: int = info.max_entries
        self._room = self._stored_size()

    @classmethod
    def open(cls: type[M], path: Path, key: Codec[Any], value: Codec[Any]) -> M:
        """By its pin. Raises NotFound if nothing is pinned there."""
        return cls(libbpf.open_pin(path), key, value, path.name)

    def close(self) -> None:
        """Safe twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self) -> int:
        """Number of entries, by walking over all of them: some 1 µs each."""
        return sum(len(keys) // self._key.size for keys, _ in self._batches())

    def fill(self) -> float:
        """Share of the room that is taken, 0 to 1."""
        return self.count() / self.max_entries

    def dump(self) -> list[tuple[bytes, bytes]]:
        """All entries as they lie in the kernel: keys and values, each in large pieces. To be looked at later."""
        return list(self._batches())

    def batches(self, size: int = _BATCH) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values as they lie in the kernel, about so many entries at a time, each piece when it is asked for.

        Entries that come and go meanwhile may be missed or seen twice.
        """
        return self._batches(size)

    def delete_packed(self, keys: bytes) -> None:
        """Delete keys as `batches` gives them; those that are not there are passed over."""
        self._delete_raw(keys)

    def clear(self) -> None:
        """Delete what is there now."""
        for keys, _ in list(self._batches()):
            self._delete_raw(keys)

    def _stored_size(self) -> int:
        return self._value.size

    def _lookup(self, key: K) -> bytes | None:
        buffer = ctypes.create_string_buffer(self._room)
        result: int = libbpf.function("bpf_map_lookup_elem")(self.fd, self._key.pack(key), buffer)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            raise self._error("look-up in", result)
        return buffer.raw

    def _update(self, key: K, value: V, flags: int) -> int:
        """0, or EEXIST, which only some flags can cause."""
        packed = self._key.pack(key), self._value.pack(value)
        result: int = libbpf.function("bpf_map_update_elem")(self.fd, *packed, flags)
        if result < 0 and result != -errno.EEXIST:
            raise self._error("update of", result)
        return -result

    def _delete(self, key: K) -> bool:
        result: int = libbpf.function("bpf_map_delete_elem")(self.fd, self._key.pack(key))
        if result < 0 and result != -errno.ENOENT:
            raise self._error("deletion from", result)
        return result >= 0

    def _batches(self, size: int = _BATCH) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, each in one piece. Entries that come and go meanwhile may be missed or seen twice."""
        cursor, first = ctypes.create_string_buffer(_CURSOR), True
        size = min(size, max(self.max_entries, 1))
        while True:
            keys = ctypes.create_string_buffer(size * self._key.size)
            values = ctypes.create_string_buffer(size * self._room)
            count = ctypes.c_uint32(size)
            start = None if first else cursor
            result = libbpf.function("bpf_map_lookup_batch")(
                self.fd, start, cursor, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # one bucket of the hash has more entries than fit
                size *= 2
                continue
            if result < 0 and result != -errno.ENOENT:
                raise self._error("batch look-up in", result)
            if count.value:
                yield keys.raw[: count.value * self._key.size], values.raw[: count.value * self._room]
            if result < 0:
                return
            first = False

    def _delete_raw(self, keys: bytes) -> None:
        """Delete packed keys; those that are not there are passed over."""
        position, total = 0, len(keys) // self._key.size
        while position < total:
            count = ctypes.c_uint32(total - position)
            rest = keys[position * self._key.size :]
            result = libbpf.function("bpf_map_delete_batch")(self.fd, rest, ctypes.byref(count), None)
            if result == -errno.ENOENT:
                position += 1  # the batch stops at the first key that is missing
            elif result < 0:
                raise self._error("batch deletion from", result)
            position += count.value

    def _error(self, what: str, result: int) -> SystemCallError:
        if result in (-errno.E2BIG, -errno.ENOSPC):
            return MapFull(what, -result, self.name, self.max_entries)
        return SystemCallError(what, -result, f"map {self.name}")


class HashMap(BpfMap[K, V]):
    """Hash and LRU hash."""

    types: ClassVar[tuple[str, ...]] = ("hash", "lru_hash")

    def get(self, key: K) -> V | None:
        data = self._lookup(key)
        return None if data is None else self._value.unpack(data)

    def put(self, key: K, value: V) -> None:
        """Add or replace. Raises MapFull."""
        self._update(key, value, _ANY)

    def add(self, key: K, value: V) -> bool:
        """Add; False if the key is there already, and the map is as it was."""
        return self._update(key, value, _NOEXIST) == 0

    def delete(self, key: K) -> bool:
        """Whether it was there."""
        return self._delete(key)

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries, in no order. Those that come and go meanwhile may be missed or seen twice."""
        for keys, values in self._batches():
            for key, value in zip(_pieces(keys, self._key.size), _pieces(values, self._room), strict=True):
                yield self._key.unpack(key), self._value.unpack(value)

    def put_many(self, entries: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """Add or replace many. Not atomic: readers may see a part of it, and MapFull leaves a part."""
        pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            keys = b"".join(self._key.pack(key) for key, _ in part)
            values = b"".join(self._value.pack(value) for _, value in part)
            count = ctypes.c_uint32(len(part))
            result = libbpf.function("bpf_map_update_batch")(self.fd, keys, values, ctypes.byref(count), None)
            if result < 0:
                raise self._error("batch update of", result)

    def delete_many(self, keys: Iterable[K]) -> None:
        """Delete those of the keys that are there."""
        self._delete_raw(b"".join(self._key.pack(key) for key in keys))


class LpmMap(HashMap[K, V]):
    """Longest prefix match: `get` gives the entry with the longest prefix that covers the key."""

    types: ClassVar[tuple[str, ...]] = ("lpm_trie",)


class ArrayMap(BpfMap[int, V]):
    """Every index has a value, zero at first."""

    types = ("array",)

    def get(self, index: int) -> V:
        """Raises IndexError."""
        data = self._lookup(index)
        if data is None:
            raise IndexError(f"map {self.name} has {self.max_entries} entries, not {index}")
        return self._value.unpack(data)

    def put(self, index: int, value: V) -> None:
        if not 0 <= index < self.max_entries:
            raise IndexError(f"map {self.name} has {self.max_entries} entries, not {index}")
        self._update(index, value, _ANY)

    def items(self) -> Iterator[tuple[int, V]]:
        for index in range(self.max_entries):
            yield index, self.get(index)


class PerCpuMap(BpfMap[K, V]):
    """Counters: each CPU has its own value, which is read as the sum over all, field by field."""

    types = ("percpu_hash", "lru_percpu_hash", "percpu_array")

    def get(self, key: K) -> V | None:
        """The sum over all CPUs."""
        data = self._lookup(key)
        return None if data is None else self._sum(data)

    def per_cpu(self, key: K) -> list[V]:
        """By number of the CPU; empty if the key is not there."""
        data = self._lookup(key)
        return [] if data is None else self._split(data)

    def items(self) -> Iterator[tuple[K, V]]:
        return self.decoded(self._batches())

    def decoded(self, dump: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[K, V]]:
        """The entries of a dump of this map."""
        for keys, values in dump:
            for key, value in zip(_pieces(keys, self._key.size), _pieces(values, self._room), strict=True):
                yield self._key.unpack(key), self._sum(value)

    def delete(self, key: K) -> bool:
        """Whether it was there."""
        return self._delete(key)

    def _stored_size(self) -> int:
        """The kernel rounds the value of each CPU up to 8 bytes, and copies those of all possible CPUs."""
        self._stride = (self._value.size + 7) & ~7
        return self._stride * libbpf.call("libbpf_num_possible_cpus")

    def _split(self, data: bytes) -> list[V]:
        return [self._value.unpack(piece[: self._value.size]) for piece in _pieces(data, self._stride)]

    def _sum(self, data: bytes) -> V:
        values = self._split(data)
        total: Any = values[0]
        for value in values[1:]:
            total = _added(total, value)
        return total  # type: ignore[no-any-return]


def _added(left: Any, right: Any) -> Any:
    """The sum of two integers, or of two structs of integers; arrays are not added, they stand one after the other."""
    if isinstance(left, int | bytes):
        return left + right
    return type(left)(*(getattr(left, field.name) + getattr(right, field.name) for field in fields(left)))


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


class MaglevMap(BpfMap[int, int]):
    """By service, an array of MAGLEV_SIZE numbers of backends. A new table takes the old one's place at once."""

    types = ("hash_of_maps",)

    def put(self, service: int, table: Sequence[int]) -> None:
        """Raises ValueError if the table has another length."""
        if len(table) != MAGLEV_SIZE:
            raise ValueError(f"a Maglev table has {MAGLEV_SIZE} slots, not {len(table)}")
        descriptor = libbpf.call("bpf_map_create", _ARRAY, b"maglev_table", 4, 4, MAGLEV_SIZE, None)
        try:
            self._fill(descriptor, table)
            self._update(service, descriptor, _ANY)
        finally:
            os.close(descriptor)

    def delete(self, service: int) -> bool:
        """Whether it had one."""
        return self._delete(service)

    def services(self) -> set[int]:
        """Those that have one."""
        return {self._key.unpack(key) for keys, _ in self._batches() for key in _pieces(keys, self._key.size)}

    def _fill(self, descriptor: int, table: Sequence[int]) -> None:
        count = ctypes.c_uint32(len(table))
        keys, values = struct.pack(f"<{count.value}I", *range(count.value)), struct.pack(f"<{count.value}I", *table)
        result = libbpf.function("bpf_map_update_batch")(descriptor, keys, values, ctypes.byref(count), None)
        if result < 0:
            raise self._error("filling of a table of", result)
