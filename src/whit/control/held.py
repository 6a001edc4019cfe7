"""Packets that came for instances without a process: kept until somebody listens where they go, then delivered.

They were judged and translated when they came. Each beginning of a connection is kept once, the last one that was sent;
datagrams are kept all, up to a limit.
"""

from __future__ import annotations

import asyncio
import logging
import time

from whit.base.errors import WhitError
from whit.control.instances import Instances, Record
from whit.kernel import frames, sockets
from whit.kernel.sockets import Place

log = logging.getLogger(__name__)

MOST = 4096
"""Packets that are kept for one instance."""
PATIENCE = 30.0
"""Seconds after which what is held is delivered although nobody listens: its kernel will say so."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_TCP = 6

Key = tuple[int, bytes, int, int, int]


class Held:
    """By instance."""

    def __init__(self, instances: Instances) -> None:
        self.instances = instances
        self._kept: dict[str, dict[Key, bytes]] = {}

    def keep(self, record: Record, frame: bytes) -> None:
        """A frame as the datapath would have delivered it, but for checksums."""
        kept = self._kept.setdefault(record.spec.name, {})
        segment = frames.segment_of(frame)
        if segment is None or len(kept) >= MOST:
            return
        number = 0 if segment.protocol == _TCP else len(kept)
        key = (segment.protocol, segment.source, segment.source_port, segment.port, number)
        kept[key] = frames.with_checksum(frame, segment)

    def hand_over(self, record: Record, there: set[Place] | None = None) -> None:
        """Deliver what is for these places; None: all of it."""
        kept = self._kept.get(record.spec.name, {})
        ready = [key for key in kept if there is None or (key[0], key[3]) in there]
        if ready:
            link = self.instances.drivers.settings.link(record.spec.network.number)
            try:
                frames.hand_over(link, [kept.pop(key) for key in ready])
            except WhitError as error:
                # Whoever sent them sends again.
                log.error("%s: %s", record.spec.name, error)
        if not kept:
            self._kept.pop(record.spec.name, None)

    def may_listen(self, record: Record) -> bool:
        """False of one that listens nowhere, or is not known to do so yet: whoever woke it would be refused. Where its
        sockets are not seen, somebody must have had an answer of it."""
        if record.spec.isolation != "container":
            return record.spec.healthcheck is not None or record.answered
        process = self.instances.driver(record.spec).pid_of(record.spec.name)
        return process is not None and bool(sockets.listening(process))

    async def wait_and_hand_over(self, record: Record) -> None:
        """Deliver as soon as somebody listens. Returns when nothing is left and there is a listener at all, when the
        process has ended, or after PATIENCE."""
        until = time.monotonic() + PATIENCE
        pause = _FIRST_PAUSE
        process = self.instances.driver(record.spec).pid_of(record.spec.name)
        while time.monotonic() < until and process is not None:
            there = sockets.listening(process)
            self.hand_over(record, there)
            if there and record.spec.name not in self._kept:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)
            if pause == _LONGEST_PAUSE:
                process = self.instances.driver(record.spec).pid_of(record.spec.name)
