"""Packets that came for instances without a process: kept until somebody listens where they go, then delivered.

They were judged and translated when they came. Each beginning of a connection is kept once, the last one that was sent;
datagrams are kept all, up to a limit.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from weakref import WeakKeyDictionary

from whit.base.errors import WhitError
from whit.control.instances import Instances, Record
from whit.kernel.network import frames
from whit.kernel.network.sockets import Place

log = logging.getLogger(__name__)

MOST = 4096
"""Packets that are kept for one instance."""
PATIENCE = 30.0
"""Seconds after which what is held is delivered although nobody listens: its kernel will say so."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_TCP, _UDP = 6, 17
UNSEEN = 0.05
"""Seconds for which one has listened somewhere, after which sockets that it does not show are taken to be there too."""

Key = tuple[int, bytes, int, int, int]


class Held:
    """By instance, and no longer than that is there: another one of its name gets nothing of it."""

    def __init__(self, instances: Instances) -> None:
        self.instances = instances
        self._kept: WeakKeyDictionary[Record, dict[Key, bytes]] = WeakKeyDictionary()
        self._numbers = itertools.count(1)
        """Of datagrams: none of them stands for another, whatever was delivered meanwhile."""
        self._sender: frames.Sender | None = None

    def keep(self, record: Record, frame: bytes) -> None:
        """A frame as the datapath would have delivered it, but for checksums."""
        kept = self._kept.setdefault(record, {})
        segment = frames.segment_of(frame)
        if segment is None or len(kept) >= MOST:
            return
        number = 0 if segment.protocol == _TCP else next(self._numbers)
        key = (segment.protocol, segment.source, segment.source_port, segment.port, number)
        kept[key] = frames.with_checksum(frame, segment)

    def hand_over(self, record: Record, there: set[Place] | None = None) -> None:
        """Deliver what is for these places; None: all of it."""
        kept = self._kept.get(record, {})
        ready = [key for key in kept if there is None or (key[0], key[3]) in there]
        if ready:
            link = self.instances.drivers.settings.link(record.spec.network.number)
            try:
                self._sender = self._sender or frames.Sender()
                self._sender.send(link, [kept.pop(key) for key in ready])
            except WhitError as error:
                # Whoever sent them sends again.
                log.error("%s: %s", record.spec.name, error)
        if not kept:
            self._kept.pop(record, None)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
        self._sender = None

    async def may_listen(self, record: Record) -> bool:
        """False of one that listens nowhere, or not yet: nobody could wake it. Raises WhitError."""
        return bool(await self.instances.driver(record.spec).listening(record.spec.name))

    async def wait_and_hand_over(self, record: Record) -> None:
        """Deliver as soon as somebody listens. Returns when nothing is left and there is a listener at all, when the
        process has ended, or after PATIENCE."""
        driver, name = self.instances.driver(record.spec), record.spec.name
        began, heard = time.monotonic(), 0.0
        pause, lives = _FIRST_PAUSE, driver.pid_of(name) is not None
        await asyncio.sleep(driver.undisturbed)
        while time.monotonic() < began + PATIENCE and lives:
            there = await driver.listening(name)
            heard = heard or (time.monotonic() if there else 0.0)
            self.hand_over(record, there)
            if heard and not driver.shows_all_sockets and time.monotonic() > heard + UNSEEN:
                self._hand_over_datagrams(record)
            if there and record not in self._kept:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)
            lives = pause < _LONGEST_PAUSE or driver.pid_of(name) is not None

    def _hand_over_datagrams(self, record: Record) -> None:
        """Where not every UDP socket is shown, what listens elsewhere has to do as a sign."""
        self.hand_over(record, {(key[0], key[3]) for key in self._kept.get(record, {}) if key[0] == _UDP})
