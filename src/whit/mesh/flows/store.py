"""Keeps flows on disk: the datapath's records as they came, in segments, of which the oldest makes room for the newest.

A segment is a file named for the number of its first record. It begins with MAGIC and goes on in frames: length (u16),
kind (u8), payload. What a record cannot be read without stands before it in the same segment: the boot time, names of
links, names that were asked for. A frame that was not finished ends its segment; the next start begins a new one.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from whit.datapath import abi
from whit.mesh.flows.naming import Context

MAGIC = b"whit flows %d\n" % abi.ABI_VERSION
SEGMENTS = 16
"""Of the limit: so much is lost at once when the oldest segment goes."""
SMALLEST = 64 * 1024
_FRAME = struct.Struct("<HB")
_RECORD, _BOOT, _LINK, _ASKED = range(4)
_TIME = struct.Struct("<d")
_INDEX = struct.Struct("<I")
_PAIR = 32
_SUFFIX = ".flows"


@dataclass
class Batch:
    """What came since the last time: records, and what is new in their context."""

    records: list[bytes] = field(default_factory=list)
    links: dict[int, str] = field(default_factory=dict)
    asked: dict[bytes, str] = field(default_factory=dict)


class FlowStore:
    """The segments of one directory. One thread at a time may append; any may read meanwhile."""

    def __init__(self, directory: Path, limit: int) -> None:
        """`limit` is in bytes, of all segments together."""
        self.directory = directory
        self.size = max(limit // SEGMENTS, SMALLEST)
        self.limit = max(limit, 2 * self.size)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._starts = sorted(int(path.stem, 16) for path in directory.glob(f"*{_SUFFIX}"))
        self.next = self._first_free()
        """The number of the next record."""
        self._segment = -1
        self._written = 0
        self._lock = threading.Lock()

    def _first_free(self) -> int:
        if not self._starts:
            return 0
        last = self._starts[-1]
        return last + sum(1 for _ in _records(_read(self._path(last)))) + 1

    def append(self, batch: Batch, context: Context) -> None:
        """`context` is the whole one, which a new segment begins with."""
        if not batch.records:
            return
        with self._lock:
            if self._segment < 0 or self._written >= self.size:
                self._begin(context)
            frames = [*_context_frames(batch.links, batch.asked), *(_frame(_RECORD, one) for one in batch.records)]
            data = b"".join(frames)
            try:
                self._write(data)
            finally:
                self.next += len(batch.records)

    def _write(self, data: bytes) -> None:
        """If it fails, nothing more comes into this segment: its numbers would be wrong."""
        segment, self._segment = self._segment, -1
        with self._path(segment).open("ab") as file:
            file.write(data)
        self._segment = segment
        self._written += len(data)

    def backwards(self, before: int | None = None) -> Iterator[tuple[bytes, Context]]:
        """The records with numbers below `before`, the newest first. A context is good until the next one comes."""
        limit = self.next if before is None else before
        for start in reversed(tuple(self._starts)):
            if start < limit:
                found = list(_records(_read(self._path(start))))
                yield from reversed(found[: limit - start])

    def bytes(self) -> int:
        """What all segments take."""
        return sum(path.stat().st_size for path in map(self._path, tuple(self._starts)) if path.exists())

    def _begin(self, context: Context) -> None:
        """A new segment; the oldest go until all have room."""
        self._segment = self.next
        boot = _frame(_BOOT, _TIME.pack(context.boot.timestamp()))
        head = b"".join((MAGIC, boot, *_context_frames(context.links, context.asked)))
        self._path(self._segment).write_bytes(head)
        self._written = len(head)
        self._starts.append(self._segment)
        while len(self._starts) > 1 and self.bytes() + self.size > self.limit:
            with contextlib.suppress(FileNotFoundError):
                self._path(self._starts[0]).unlink()
            del self._starts[0]

    def _path(self, start: int) -> Path:
        return self.directory / f"{start:016x}{_SUFFIX}"


def _context_frames(links: Mapping[int, str], asked: Mapping[bytes, str]) -> Sequence[bytes]:
    return [
        *(_frame(_LINK, _INDEX.pack(index) + name.encode()) for index, name in links.items()),
        *(_frame(_ASKED, pair + name.encode()) for pair, name in asked.items()),
    ]


def _frame(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), kind) + payload


def _read(path: Path) -> bytes:
    """Empty if it has gone, or is of another version."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    return data if data.startswith(MAGIC) else b""


def _records(data: bytes) -> Iterator[tuple[bytes, Context]]:
    """Oldest first. What is said of links and names holds for the whole segment: numbers are used again much later."""
    context, position = Context(), len(MAGIC)
    while position + _FRAME.size <= len(data):
        length, kind = _FRAME.unpack_from(data, position)
        position += _FRAME.size
        payload = data[position : position + length]
        position += length
        if len(payload) < length:
            return
        if kind == _RECORD:
            yield payload, context
        else:
            _learn(context, kind, payload)


def _learn(context: Context, kind: int, payload: bytes) -> None:
    if kind == _BOOT:
        context.boot = datetime.fromtimestamp(_TIME.unpack(payload)[0], UTC)
    elif kind == _LINK:
        context.links[_INDEX.unpack_from(payload)[0]] = payload[_INDEX.size :].decode()
    elif kind == _ASKED:
        context.asked[payload[:_PAIR]] = payload[_PAIR:].decode()
