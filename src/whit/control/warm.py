"""Decides who sleeps: puts instances to sleep that nobody asks for, and wakes them when somebody does.

Level-triggered, as all else here: what sleeps is seen on the machine, and whether it was asked for meanwhile is written
at its endpoint by the datapath, so that an agent may die at any moment and the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from whit.base.errors import Conflict, Unavailable, WhitError
from whit.control import budget, sleep
from whit.control.desired import Wanted
from whit.control.held import Held
from whit.control.instances import Instances, Record
from whit.datapath import abi
from whit.datapath.datapath import Datapath
from whit.datapath.knocks import packet_of
from whit.kernel.thread import in_thread
from whit.mesh import warm
from whit.mesh.warm import Watch
from whit.model.service import Idle, ScaleSpec

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often it is looked whether somebody may sleep; more often if somebody is to do so sooner."""
LEAST_SECONDS = 0.05
WATCHES = {"frozen": Watch.TELL, "created": Watch.HOLD, "stopped": Watch.HOLD, "snapshot": Watch.HOLD}
"""What is done about packets at each level."""


class Complaints:
    """Why instances stay awake, as it was told last: each is tried again up to twenty times a second. What this machine
    lacks is told once, for all. Nothing is kept of a record that has gone."""

    def __init__(self) -> None:
        self._told: WeakKeyDictionary[object, str] = WeakKeyDictionary()
        self._lacking: WeakKeyDictionary[object, str] = WeakKeyDictionary()

    def is_new(self, record: object, error: WhitError) -> bool:
        text = str(error)
        told = self._lacking if isinstance(error, Unavailable) else self._told
        if told.get(record) == text:
            return False
        known = told is self._lacking and text in told.values()
        told[record] = text
        return not known

    def settle(self, record: object) -> None:
        """It slept: whatever there was about it is news if it comes again."""
        self._told.pop(record, None)


class Warmth:
    """Of one node. `wanted` are the instances that should be there, by name."""

    def __init__(self, datapath: Datapath, instances: Instances, wanted: Callable[[], Mapping[str, Wanted]]) -> None:
        self.datapath = datapath
        self.instances = instances
        self.wanted = wanted
        self.held = Held(instances)
        self._budget = instances.drivers.settings.warm_mib << 20
        self._names: dict[int, str] = {}
        """By link."""
        self._moving: set[str] = set()
        """Those that are falling asleep or getting up."""
        self._knocked: set[str] = set()
        """Those that were asked for while they fell asleep."""
        self._complaints = Complaints()

    async def run(self) -> None:
        """Until cancelled."""
        self.datapath.control.watch(self._listen)
        try:
            self._recall()
            while True:
                await asyncio.sleep(self._patience())
                try:
                    self._look()
                    if self._budget:
                        await self._make_room()
                except WhitError as error:
                    log.error("looking who may sleep: %s", error)
        finally:
            self.datapath.control.unwatch()
            self.held.close()

    def _patience(self) -> float:
        """A tenth of the time after which the first one may sleep."""
        spans = [want.scale.after / 10 for want in self.wanted().values() if want.scale]
        return max(LEAST_SECONDS, min([LOOK_SECONDS, *spans]))

    def _recall(self) -> None:
        """Of those that slept when we came, those that were asked for since are woken; and what the agent before us
        died over is gone on with."""
        for record in self.instances.records.values():
            link = warm.link_of(self.datapath, record.spec)
            if link is not None:
                self._names[link] = record.spec.name
            wanted = WATCHES.get(record.status.state)
            if record.status.state == "running" and warm.is_held(self.datapath, record.spec):
                self._move(record, self._go_on(record))
            elif wanted is not None and warm.watched(self.datapath, record.spec) is not wanted:
                self.wake(record)
        self._listen()

    async def _go_on(self, record: Record) -> None:
        """It runs, but what comes for it is held: it was about to end for its sleep, or has just begun."""
        match self.instances.drivers.layout(record.spec.name).sleeps_as():
            case "created" | "stopped" as level:
                await self._sleep(record, level)
            case _:
                await self.held.wait_and_hand_over(record)
                self._awake(record)

    # ---- to sleep ----

    def _look(self) -> None:
        for name, record in self.instances.records.items():
            want = self.wanted().get(name)
            if want is None or record.task is not None or record.leaving or record.users:
                continue
            if want.scale is None and record.status.state in WATCHES:
                self.wake(record)
            elif want.scale is not None and record.status.state == "running" and record.ready:
                link = warm.watch(self.datapath, record.spec, Watch.NOTE)
                if link is None:
                    continue
                self._names[link] = name
                if warm.silence(self.datapath, link) > want.scale.after:
                    self._knocked.discard(name)
                    self._move(record, self._sleep_if_idle(record, want.scale, link))

    def _move(self, record: Record, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def moving() -> None:
            try:
                await work
            finally:
                self._moving.discard(record.spec.name)

        self._moving.add(record.spec.name)
        return self.instances.work(record, moving())

    async def _make_room(self) -> None:
        """What is frozen, or waits with a kernel of its own, holds memory: the oldest gives back what is too much."""
        drivers = self.instances.drivers
        found = await in_thread(budget.sleepers, list(self.instances.records.values()), drivers)
        for name in budget.too_many(found, self._budget):
            record, want = self.instances.records.get(name), self.wanted().get(name)
            if record is None or want is None or want.scale is None or record.task is not None:
                continue
            if budget.holds_memory(record, drivers):
                self._fall(record)

    def _fall(self, record: Record) -> None:
        """To a level without memory. Who comes from now on waits for the start."""
        self._knocked.discard(record.spec.name)
        warm.watch(self.datapath, record.spec, Watch.HOLD)
        # Who came before that is connected with its kernel already, and wakes it as it is.
        self._listen()
        if record.task is not None or not budget.holds_memory(record, self.instances.drivers):
            return
        log.info("%s: instances that sleep hold more than %d MiB", record.spec.name, self._budget >> 20)
        # What is `created` has a machine in which nothing of the instance runs: there is nothing to be kept.
        level: Idle = "snapshot" if record.spec.detached and record.status.state == "frozen" else "stopped"
        self._move(record, self._sleep(record, level))

    async def _sleep_if_idle(self, record: Record, scale: ScaleSpec, link: int) -> None:
        if not await self._listens(record) or await in_thread(warm.has_clients, self.datapath.flows, record.spec):
            return
        warm.watch(self.datapath, record.spec, WATCHES[scale.idle])
        # A packet that came before that was let through without a word, but its time was noted.
        if warm.silence(self.datapath, link) <= scale.after:
            warm.watch(self.datapath, record.spec, Watch.NOTE)
            return
        await self._sleep(record, scale.idle)

    async def _listens(self, record: Record) -> bool:
        try:
            return await self.held.may_listen(record)
        except WhitError as error:
            self._complain(record, error)
            return False

    def _complain(self, record: Record, error: WhitError) -> None:
        if self._complaints.is_new(record, error):
            log.warning("%s stays awake: %s", record.spec.name, error)

    async def _sleep(self, record: Record, level: Idle) -> None:
        name = record.spec.name
        try:
            if level == "frozen":
                await sleep.freeze(self.instances, record)
            elif level == "snapshot":
                await sleep.store(self.instances, record)
            else:
                await sleep.lay_down(self.instances, record, level)
        except WhitError as error:
            self._awake(record)
            if record.status.state != "running":
                raise
            self._complain(record, error)
        else:
            log.info("%s has fallen asleep: %s", name, level)
            self._complaints.settle(record)
        if name in self._knocked:
            await self._rise(record)

    async def put_to_sleep(self, record: Record) -> None:
        """Now, whoever is connected. Returns when it sleeps, or when it was asked for again already.

        Raises:
            Conflict: it has no `scale`, or something else is being done to it.
        """
        name, want = record.spec.name, self.wanted().get(record.spec.name)
        if record.status.state in WATCHES:
            return
        if want is None or want.scale is None:
            raise Conflict(f"{name} does not sleep", hint="give its service `scale`, or take it away with `whit down`")
        if record.task is not None or record.status.state != "running":
            raise Conflict(f"{name} is {record.status.state}", hint="wait until it runs")
        link = warm.watch(self.datapath, record.spec, WATCHES[want.scale.idle])
        if link is not None:
            self._names[link] = name
        self._knocked.discard(name)
        await asyncio.wait([self._move(record, self._sleep(record, want.scale.idle))])

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
        record = self.instances.records.get(self._names.get(knock.ifindex, ""))
        if record is None:
            return
        if knock.length:
            self.held.keep(record, packet_of(knock))
        if record.status.state == "running" and record.spec.name not in self._moving:
            # It was on its way to us while that changed.
            self.held.hand_over(record)
        else:
            self.wake(record)

    @contextlib.asynccontextmanager
    async def used(self, record: Record) -> AsyncIterator[None]:
        """Awake, until the end of the context."""
        record.users += 1
        try:
            await self.awaken(record)
            yield
        finally:
            record.users -= 1
            warm.note(self.datapath, record.spec)

    async def awaken(self, record: Record) -> None:
        """Returns when it runs, and listens; or when that failed."""
        self.wake(record)
        if record.spec.name in self._moving and record.task is not None:
            await asyncio.wait([record.task])

    def wake(self, record: Record) -> None:
        """Let it run, if it sleeps; if it is just falling asleep, as soon as it has."""
        if record.task is not None:
            self._knocked.add(record.spec.name)
        elif record.status.state == "frozen":
            # At once: every task in between is time that somebody waits.
            try:
                sleep.thaw(self.instances, record)
            except WhitError as error:
                log.error("%s cannot be woken: %s", record.spec.name, error)
            self._awake(record)
        elif record.status.state in WATCHES:
            self._move(record, self._rise(record))

    async def _rise(self, record: Record) -> None:
        try:
            await self._get_up(record)
        except Exception:
            # But not if it was cancelled: the next agent goes on with it, and until then packets are held.
            self._awake(record)
            raise
        self._awake(record)

    async def _get_up(self, record: Record) -> None:
        if record.status.state == "frozen":
            sleep.thaw(self.instances, record)
        elif record.status.state in WATCHES:
            log.info("%s is woken", record.spec.name)
            await sleep.get_up(self.instances, record)
            await self.held.wait_and_hand_over(record)
            sleep.stand(self.instances, record)

    def _awake(self, record: Record) -> None:
        """What comes for it is delivered from now on, and what was held is, too."""
        warm.note(self.datapath, record.spec)
        warm.watch(self.datapath, record.spec, Watch.NOTE)
        # What was held until just now may still be in the ring.
        self._listen()
        self.held.hand_over(record)
