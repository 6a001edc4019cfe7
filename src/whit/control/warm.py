"""Puts instances to sleep that nobody asks for, and wakes them when somebody does.

Level-triggered, as all else here: what sleeps is seen on the machine, and whether it was asked for meanwhile is written
at its endpoint by the datapath, so that an agent may die at any moment and the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from whit.base.errors import WhitError
from whit.control.desired import Wanted
from whit.control.instances import Instances, Record
from whit.datapath import abi
from whit.datapath.datapath import Datapath
from whit.kernel.thread import in_thread
from whit.mesh import warm
from whit.mesh.warm import Watch
from whit.model.service import ScaleSpec

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often it is looked whether somebody may sleep; more often if somebody is to do so sooner."""
LEAST_SECONDS = 0.05


class Warmth:
    """Of one node. `wanted` are the instances that should be there, by name."""

    def __init__(self, datapath: Datapath, instances: Instances, wanted: Callable[[], Mapping[str, Wanted]]) -> None:
        self.datapath = datapath
        self.instances = instances
        self.wanted = wanted
        self._sleeping: dict[int, str] = {}
        """Names by link, of those that a knock wakes."""
        self._knocked: set[str] = set()
        """Of those that are on their way to sleep, who was asked for meanwhile."""

    async def run(self) -> None:
        """Until cancelled."""
        self.datapath.control.watch(self._listen)
        try:
            self._recall()
            while True:
                await asyncio.sleep(self._patience())
                try:
                    self._look()
                except WhitError as error:
                    log.error("looking who may sleep: %s", error)
        finally:
            self.datapath.control.unwatch()

    def _patience(self) -> float:
        """A tenth of the time after which the first one may sleep."""
        spans = [want.scale.after / 10 for want in self.wanted().values() if want.scale]
        return max(LEAST_SECONDS, min([LOOK_SECONDS, *spans]))

    def _recall(self) -> None:
        """Of those that slept when we came, those that were asked for since are woken."""
        for record in self.instances.records.values():
            if record.status.state != "frozen":
                continue
            link = warm.link_of(self.datapath, record.spec)
            if link is not None:
                self._sleeping[link] = record.spec.name
            if warm.watched(self.datapath, record.spec) is not Watch.TELL:
                self.wake(record)
        self._listen()

    # ---- to sleep ----

    def _look(self) -> None:
        for name, record in self.instances.records.items():
            want = self.wanted().get(name)
            if want is None or record.task is not None or record.leaving or record.users:
                continue
            scale = want.scale
            if scale is None and record.status.state == "frozen":
                self.wake(record)
            elif scale is not None and record.status.state == "running" and record.ready:
                link = warm.watch(self.datapath, record.spec, Watch.NOTE)
                if link is not None and warm.silence(self.datapath, link) > scale.after:
                    self.instances.work(record, self._sleep(record, scale, link))

    async def _sleep(self, record: Record, scale: ScaleSpec, link: int) -> None:
        if await in_thread(warm.has_clients, self.datapath.flows, record.spec):
            return
        name = record.spec.name
        self._knocked.discard(name)
        self._sleeping[link] = name
        warm.watch(self.datapath, record.spec, Watch.TELL)
        # A packet that came before that was let through without a word, but its time was noted.
        if warm.silence(self.datapath, link) > scale.after:
            log.info("%s falls asleep", name)
            await self.instances.freeze(record)
        if name in self._knocked or record.status.state != "frozen":
            self.wake(record)

    # ---- awake ----

    def _listen(self) -> None:
        """Somebody asked for one that sleeps."""
        try:
            knocks = self.datapath.control.take()
        except WhitError as error:
            log.error("%s", error)
            return
        for knock in knocks:
            self._answer(knock)

    def _answer(self, knock: abi.WakeEvent) -> None:
        record = self.instances.records.get(self._sleeping.get(knock.ifindex, ""))
        if record is not None:
            self.wake(record)

    @contextlib.asynccontextmanager
    async def used(self, record: Record) -> AsyncIterator[None]:
        """Awake, until the end of the context."""
        record.users += 1
        try:
            self.wake(record)
            if record.spec.name in self._knocked and record.task is not None:
                await asyncio.wait([record.task])
            yield
        finally:
            record.users -= 1
            warm.note(self.datapath, record.spec)

    def wake(self, record: Record) -> None:
        """Let it run, if it sleeps; if it is just falling asleep, as soon as it has."""
        if record.task is not None and record.task is not asyncio.current_task():
            if record.spec.name in self._sleeping.values():
                self._knocked.add(record.spec.name)
            return
        try:
            self.instances.rouse(record)
            warm.note(self.datapath, record.spec)
            link = warm.watch(self.datapath, record.spec, Watch.NOTE)
            if link is not None:
                self._sleeping.pop(link, None)
        except WhitError as error:
            log.error("%s cannot be woken: %s", record.spec.name, error)
