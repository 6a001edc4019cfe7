"""Reads a pinned BPF ring buffer by polling: nobody is woken for an event, so events cost the datapath next to nothing.

The map's memory is the interface (Documentation/bpf/ringbuf.rst): a page with the consumer's position, a page with the
producer's, and the data twice in a row, so that a record never wraps. The position is kept in the map: a reader that
starts anew goes on where the last one stopped. There is one reader at a time.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import Conflict, Permanent, SystemCallError
from whit.datapath import abi, libbpf

_PAGE = mmap.PAGESIZE
_HEADER = 8
_BUSY = 1 << 31
_DISCARD = 1 << 30
_RINGBUF = 27
_LIMIT = 16384


class RingReader:
    """The records of one ring buffer, as bytes."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound if nothing is pinned at `path`, and Conflict if it is no ring buffer."""
        self.path = path
        descriptor = libbpf.open_pin(path)
        try:
            info = libbpf.map_info(descriptor)
            if info.type != _RINGBUF:
                raise Conflict(f"{path} is not a ring buffer")
            self.size: int = info.max_entries
            self._map(descriptor)
        finally:
            os.close(descriptor)
        self._fence = threading.Lock()

    def _map(self, descriptor: int) -> None:
        try:
            self._consumer_page = mmap.mmap(descriptor, _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._rest = mmap.mmap(descriptor, _PAGE + 2 * self.size, prot=mmap.PROT_READ, offset=_PAGE)
        except OSError as error:
            raise SystemCallError("mmap", error.errno or 0, str(self.path)) from error
        # Casts to native integers, because these are read and written whole; struct with "<" goes byte by byte.
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._whole = memoryview(self._rest)
        self._producer = self._whole[:_PAGE].cast("Q")
        self._data = self._whole[_PAGE:]
        self._words = self._data.cast("I")

    def close(self) -> None:
        """Safe twice."""
        for view in (self._words, self._data, self._producer, self._whole, self._consumer):
            view.release()
        self._rest.close()
        self._consumer_page.close()

    def __enter__(self) -> RingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, limit: int = _LIMIT) -> list[bytes]:
        """What is ready, at most `limit` records; never waits. A record that is still written to holds up those behind.

        If the caller dies between this and its use of the records, they are lost.
        """
        position = self._consumer[0]
        places, end = self._scan(position, limit)
        self._order()
        records = [bytes(self._data[start : start + length]) for start, length in places]
        self._order()
        if end != position:
            self._consumer[0] = end
        return records

    def pending(self) -> int:
        """Bytes that wait to be read, with the 8 of each record's header."""
        return self._producer[0] - self._consumer[0]

    def _scan(self, position: int, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Where the finished records are, without those that were discarded, and the position behind them."""
        places: list[tuple[int, int]] = []
        produced = self._producer[0]
        self._order()
        while position < produced and len(places) < limit:
            start = position & (self.size - 1)
            header = self._words[start // 4]
            if header & _BUSY:
                break
            length = header & ~(_BUSY | _DISCARD)
            if not header & _DISCARD:
                places.append((start + _HEADER, length))
            position += (length + _HEADER + 7) & ~7
        return places, position

    def _order(self) -> None:
        """What was read or written before this comes before what follows, also on processors that reorder (arm64).

        A release and a later acquire are in order; one lock alone would let both sides slip into it.
        """
        for _ in range(2):
            with self._fence:
                pass


Event = abi.FlowEvent | abi.EndEvent | abi.HttpEvent | abi.HopEvent

_KIND = 8
"""Where the kind stands in every record."""
_EVENTS: dict[int, type[Event]] = {
    abi.EventKind.FLOW: abi.FlowEvent,
    abi.EventKind.END: abi.EndEvent,
    abi.EventKind.HTTP: abi.HttpEvent,
    abi.EventKind.HOP: abi.HopEvent,
}


def kind_of(record: bytes) -> int:
    """The number of the record's kind, which may be one of a later release."""
    return record[_KIND]


def event_of(record: bytes) -> Event:
    """Raises Permanent if the record is of another version of Whit."""
    kind = _EVENTS.get(kind_of(record)) if len(record) > _KIND else None
    if kind is None or len(record) != kind.SIZE:
        raise Permanent(f"an event of {len(record)} bytes is of no known kind", hint="it is of another version")
    return kind.unpack(record)


class FlowEvents(RingReader):
    """The ring of events."""

    def every(self, limit: int = _LIMIT) -> Iterator[Event]:
        """All that are ready, oldest first."""
        return map(event_of, self.read(limit))

    def poll(self, limit: int = _LIMIT) -> Iterator[abi.FlowEvent]:
        """Those of flows that begin and of drops, oldest first; those of other kinds are gone then."""
        return (event for event in self.every(limit) if isinstance(event, abi.FlowEvent))
