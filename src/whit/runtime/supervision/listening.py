"""Whether an instance still listens where it did. Its process may live on without: a server that failed to take its
port again, or that lets its connections end before it goes.

Only what was seen to listen can stop: an instance is not asked to. Where the kernel of the instance is not the node's,
nothing can be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from whit.kernel.network.listeners import Listeners

AGAIN = 0.05
"""Seconds between looks for a listener that is to come back: the kernel tells of the end of sockets alone."""
OFTEN, SELDOM = 0.05, 30.0
"""Seconds between looks for one that has not been seen yet: a quarter of the time that it has taken, within these."""


@dataclass(frozen=True)
class Hearing:
    """What was seen of the ports of one instance. `wanted` are those that its service has; none is whichever it has."""

    wanted: frozenset[int]
    known: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    """Of the known ones, those on which nobody listens any more. Whichever it has are lost when all are."""

    def after(self, ports: frozenset[int], ended: frozenset[int] = frozenset()) -> Hearing:
        """`ports` are listened on, sockets of `ended` are gone."""
        if self.wanted:
            known = self.known | self.wanted & (ports | ended)
            return replace(self, known=known, lost=known - ports)
        return replace(self, known=ports or self.known, lost=frozenset() if ports else self.known)

    @property
    def is_complete(self) -> bool:
        return bool(self.known) and self.known >= self.wanted


async def watch(namespace: Path, wanted: frozenset[int], changed: Callable[[frozenset[int]], Awaitable[None]]) -> None:
    """For ever; cancel to end. `changed` gets the ports that are lost, whenever others are than before.

    Raises:
        SystemCallError: the kernel has no inet_diag.
        NotFound: there is no such namespace.
    """
    with await asyncio.to_thread(Listeners.inside, namespace) as listeners:
        told = asyncio.Event()
        ended: set[int] = set()
        loop = asyncio.get_running_loop()

        def hear() -> None:
            ended.update(listeners.ended())
            told.set()

        loop.add_reader(listeners.events, hear)
        try:
            hearing, began = Hearing(wanted), loop.time()
            while True:
                told.clear()
                before, hearing = hearing, hearing.after(listeners.ports(), frozenset(ended))
                ended.clear()
                if hearing.lost != before.lost:
                    await changed(hearing.lost)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), patience(hearing, loop.time() - began))
        finally:
            loop.remove_reader(listeners.events)


def patience(hearing: Hearing, age: float) -> float | None:
    """Seconds until the next look if nothing is told; None: there is no need of one."""
    if hearing.lost:
        return AGAIN
    return None if hearing.is_complete else max(OFTEN, min(SELDOM, age / 4))
