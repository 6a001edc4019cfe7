"""Names of the DNS in policy: takes what the resolver is about to answer, and has it in the kernel before it does.

What is known is kept in the store and in the kernel's map, so a new agent begins with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from whit.base.errors import WhitError
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.control.network import NodeNetwork
from whit.control.observing.alarms import alarms_of_names
from whit.mesh.dns.announce import Announcement, Reception
from whit.mesh.dns.learned import MOST_SETS, Learned, LearnedNames, Timing
from whit.mesh.dns.named import can_be_named
from whit.mesh.policy.outside import names_matching
from whit.mesh.sweeper import Sweep
from whit.model.alarm import Alarm

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks for what is over, and two writings of what is new."""
KEEP_TIMES_SECONDS = 60.0
RECENT = 60.0


@dataclass
class Troubles:
    """Answers of the last minute that policy did not know in time, and addresses that found no room: when it was."""

    late: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    no_room: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def recent(self) -> tuple[int, int]:
        since = time.monotonic() - RECENT
        return sum(at > since for at in self.late), sum(at > since for at in self.no_room)


class OutsideNames:
    """Of one node. `write_maps` brings the kernel to all that is wanted; `seen` is told who asked for what."""

    def __init__(
        self,
        settings: Settings,
        documents: Documents,
        network: NodeNetwork,
        write_maps: Callable[[], Awaitable[None]],
        seen: Callable[[str, str, Sequence[str]], None],
    ) -> None:
        self.documents = documents
        self.network = network
        self.troubles = Troubles()
        self.slowest = 0.0
        """Seconds that the agent took for an answer, at most."""
        self._write_maps = write_maps
        self._seen = seen
        self._reception = Reception(settings.resolver_dir, self.hear)
        self._late = 0
        self._learning = asyncio.Lock()
        self._stored: LearnedNames | None = None
        self._kept = (-1, 0.0)
        """The version that was written down last, and when."""
        self._swept = 0.0

    async def load(self, timing: Timing | None = None) -> None:
        """What an agent before this one knew. Before the maps are written for the first time."""
        self._stored = await self.documents.get(LearnedNames, "learned")
        learned = self.network.named.learned = Learned(self._stored, timing)
        for address, members in self.network.named.left_behind(self.network.books.identities.names).items():
            if not learned.names_of(address):
                # It died before it wrote this down. A pattern stands for the name that is not known any more.
                for member in members:
                    if "/" not in member:
                        learned.learn(member, {address: 0.0}, time.time())

    def alarms(self) -> list[Alarm]:
        return alarms_of_names(*self.troubles.recent())

    async def open(self) -> None:
        """Once it is known which names policies speak of, answers can be told."""
        await self.network.written.wait()
        await self._reception.open()

    async def close(self) -> None:
        await self._reception.close()
        await self.keep()

    async def hear(self, said: Announcement) -> None:
        """Returns when policy knows it, or cannot."""
        began = time.monotonic()
        self._count_late(said.late)
        usable = {one: ttl for one, ttl in said.addresses.items() if can_be_named(one, self.network.books.addresses)}
        self._seen(said.asker, said.name, list(said.addresses))
        try:
            async with self._learning:
                await self._learn(said.name, usable)
        except WhitError as error:
            self.troubles.no_room.append(time.monotonic())
            log.error("%s cannot be reached by name: %s", said.name, error)
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def _learn(self, name: str, addresses: dict[str, float]) -> None:
        learned = self.network.named.learned
        if not names_matching(self.network.names_spoken_of, name):
            return
        dropped = learned.dropped
        fresh = learned.learn(name, addresses, time.time())
        if fresh and not await self.network.name_addresses(fresh):
            if len(self.network.shared_sets()) > MOST_SETS:
                learned.unlearn(name, fresh)
            else:
                await self._write_maps()
        self.troubles.no_room.extend([time.monotonic()] * (learned.dropped - dropped))

    def _count_late(self, late: int) -> None:
        """A resolver that was started anew counts from 0."""
        more = late - self._late if late >= self._late else late
        self._late = late
        self.troubles.late.extend([time.monotonic()] * min(more, 1000))

    async def look(self, sweep: Sweep) -> None:
        """What is over goes, with the sets that no flow leads to, as the last sweep of flows saw it."""
        learned = self.network.named.learned
        over = learned.expire(time.time())
        if sweep.began > self._swept:
            self._swept = sweep.began
            titles = self.network.books.identities.names
            borne = [frozenset(titles[number].split(" & ")) for number in sweep.named if number in titles]
            over = learned.release(borne, sweep.began) or over
        if over:
            await self._write_maps()
        await self.keep(all_times=False)

    async def keep(self, *, all_times: bool = True) -> None:
        """Write down what is not written yet; times that are longer by now alone only now and then."""
        learned, now = self.network.named.learned, time.monotonic()
        if learned.version == self._kept[0] and not all_times and now - self._kept[1] < KEEP_TIMES_SECONDS:
            return
        self._kept = learned.version, now
        document = learned.document()
        if document != (self._stored or LearnedNames()):
            await self.documents.put(document, "learned")
            self._stored = document

    async def watch(self, sweep: Callable[[], Sweep]) -> None:
        """Until cancelled."""
        await self.open()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look(sweep())
            except WhitError as error:
                log.error("names in policy: %s", error)
