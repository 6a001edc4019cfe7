"""The flow log: what the datapath tells of connections. The last records are in memory, those before them on disk.

The datapath never wakes anybody for an event; `pump` looks every 25 ms while something happens, and less often while
nothing does. What is kept are the records as they came; they are named when somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from whit.base.errors import Permanent
from whit.datapath import abi
from whit.datapath.events import RingReader, event_of, kind_of
from whit.mesh.flows.naming import Context, Dictionary, flow_of
from whit.mesh.flows.store import Batch, FlowStore
from whit.model.flow import Flow

log = logging.getLogger(__name__)

CAPACITY = 32_768
POLL_SECONDS = 0.025
IDLE_SECONDS = 0.2
"""At most so long between looks while nothing happens: a ring holds the events of 50,000 flows a second for as long."""
KEEP_SECONDS = 1.0
"""After which records are on disk."""
FOLLOWER_ROOM = 4096
ASKED_ROOM = 4096
_IFINDEX = struct.Struct("=I")
_IFINDEX_OFFSET = next(offset for name, offset, _ in abi.LAYOUT["flow_event"][1] if name == "ifindex")

DISORDER = timedelta(seconds=5)
"""Records of several processors, and of two agents, are not quite in the order of their times."""
_TIME = struct.Struct("<Q")

Sieve = Callable[[bytes], bool]
"""Tells from a record whether it is worth while to name it."""


def everything(record: bytes) -> bool:
    return True


def _time_of(record: bytes, context: Context) -> datetime:
    return context.boot + timedelta(microseconds=_TIME.unpack_from(record)[0] / 1000)


class FlowLog:
    """The last flows, and those to come."""

    def __init__(self, capacity: int = CAPACITY, store: FlowStore | None = None) -> None:
        self.words = Dictionary()
        self.context = Context(datetime.now(UTC) - timedelta(seconds=time.monotonic()))
        self.store = store
        self.lag = 0.0
        """Seconds by which the event loop was late at worst since somebody last set this to 0."""
        self._records: deque[bytes] = deque(maxlen=capacity)
        self._next = store.next if store else 0
        self._fresh = Batch()
        self._followers: set[asyncio.Queue[bytes]] = set()
        self._hop_listeners: set[Callable[[abi.HopEvent], None]] = set()

    def __len__(self) -> int:
        return len(self._records)

    # ---- taking ----

    def collect(self, events: RingReader) -> int:
        """Take what the ring holds. Returns how many."""
        records = events.read()
        self.add(records)
        return len(records)

    def add(self, records: list[bytes]) -> None:
        """Events as they lie in the ring."""
        flows = self._without_hops(records)
        self._records.extend(flows)
        self._next += len(flows)
        self._name_links(flows)
        if self.store:
            self._fresh.records += flows
        for follower in self._followers:
            for record in flows[: follower.maxsize - follower.qsize()]:
                follower.put_nowait(record)

    def learn_name(self, asker: bytes, address: bytes, name: str) -> None:
        """That an instance asked for a name and was given this address; both in 16 bytes."""
        pair = asker + address
        if self.context.asked.pop(pair, None) != name and self.store:
            self._fresh.asked[pair] = name
        self.context.asked[pair] = name
        if len(self.context.asked) > ASKED_ROOM:
            del self.context.asked[next(iter(self.context.asked))]

    async def pump(self, events: RingReader, before: Callable[[], None] = lambda: None) -> None:
        """Collect for ever. `before` is called before each look: what it learns is known to the flows that follow."""
        pause = POLL_SECONDS
        kept = time.monotonic()
        while True:
            before()
            pause = POLL_SECONDS if self.collect(events) or self._hop_listeners else min(2 * pause, IDLE_SECONDS)
            now = time.monotonic()
            if self._fresh.records and now - kept > KEEP_SECONDS:
                await asyncio.to_thread(self._write, *self._take())
                kept = now
            slept = time.monotonic()
            await asyncio.sleep(pause)
            self.lag = max(self.lag, time.monotonic() - slept - pause)

    def keep(self) -> None:
        """Have on disk what came since the last time."""
        self._write(*self._take())

    def _take(self) -> tuple[Batch, Context]:
        """What is to be written. In the thread that adds: what comes from now on is for the next time."""
        fresh, self._fresh = self._fresh, Batch()
        links = {index: self.words.link(name) for index, name in self.context.links.items()}
        fresh.links = {index: links[index] for index in fresh.links}
        return fresh, Context(self.context.boot, links, dict(self.context.asked))

    def _write(self, fresh: Batch, context: Context) -> None:
        """A full disk loses flows, nothing else."""
        try:
            if self.store:
                self.store.append(fresh, context)
        except OSError as error:
            log.error("%d flows are not kept: %s", len(fresh.records), error)

    # ---- telling ----

    def past(
        self,
        wanted: Callable[[Flow], bool],
        limit: int = 0,
        sieve: Sieve = everything,
        since: datetime | None = None,
    ) -> list[Flow]:
        """The flows that are wanted, oldest first: all since then, or the last `limit` of them.

        Takes some 15 µs for each that passes the sieve: half a second for a full memory. May be called in any thread.
        """
        found: deque[Flow] = deque()
        for record, context in self.backwards(since):
            if not sieve(record):
                continue
            flow = self._flow(record, context)
            if flow and wanted(flow):
                found.appendleft(flow)
                if len(found) == limit:
                    break
        return list(found)

    async def follow(self, wanted: Callable[[Flow], bool]) -> AsyncIterator[Flow]:
        """Those to come, until closed. A reader that is too slow misses some."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=FOLLOWER_ROOM)
        self._followers.add(queue)
        try:
            while True:
                flow = self._flow(await queue.get(), self.context)
                if flow and wanted(flow):
                    yield flow
        finally:
            self._followers.discard(queue)

    def listen(self, listener: Callable[[abi.HopEvent], None]) -> Callable[[], None]:
        """Have `listener` told every hop of traced packets. Returns what ends it."""
        self._hop_listeners.add(listener)
        return lambda: self._hop_listeners.discard(listener)

    def backwards(self, since: datetime | None = None) -> Iterator[tuple[bytes, Context]]:
        """The records since then, and some before, the newest first. A context is good until the next one comes."""
        for record, context in self._backwards():
            if since and _time_of(record, context) < since - DISORDER:
                break
            yield record, context

    def _backwards(self) -> Iterator[tuple[bytes, Context]]:
        records, following = tuple(self._records), self._next
        for record in reversed(records):
            yield record, self.context
        if self.store:
            yield from self.store.backwards(following - len(records))

    def _flow(self, record: bytes, context: Context) -> Flow | None:
        """None for what another version of Whit left."""
        try:
            return flow_of(event_of(record), self.words, context)
        except (Permanent, TypeError):
            return None

    def _without_hops(self, records: list[bytes]) -> list[bytes]:
        hops = [record for record in records if kind_of(record) == abi.EventKind.HOP]
        if not hops:
            return records
        for record in hops:
            for listener in tuple(self._hop_listeners):
                listener(abi.HopEvent.unpack(record))
        return [record for record in records if kind_of(record) != abi.EventKind.HOP]

    def _name_links(self, records: list[bytes]) -> None:
        """While they are there: an index is not given to another link before all others have been used."""
        known: Mapping[int, str] = self.context.links
        for index in {_IFINDEX.unpack_from(record, _IFINDEX_OFFSET)[0] for record in records} - known.keys():
            try:
                name = socket.if_indextoname(index)
            except OSError:
                name = str(index)
            self.context.links[index] = self._fresh.links[index] = name
