"""What this node sees of its mesh: flows, edges and what follows from them. The doors ask it, the agent feeds it.

Its loops cost next to nothing while nothing happens: events are polled, counters are looked at every half minute.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whit.base.errors import Unavailable, WhitError
from whit.base.settings import Settings
from whit.control.network import NodeNetwork
from whit.control.observing import alarms
from whit.control.observing.otlp import Export
from whit.control.observing.query import FlowQuery
from whit.control.observing.trace import Asked, Tracer
from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.dns.questions import Listener
from whit.mesh.flows import edges
from whit.mesh.flows.log import FlowLog
from whit.mesh.flows.store import FlowStore
from whit.mesh.sweeper import Sweep, Timeouts, sweep
from whit.model.alarm import Alarm, Fill
from whit.model.edge import Edge, difference
from whit.model.flow import Flow, Trace
from whit.model.instance import InstanceSpec, InstanceStatus

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 30.0
SAMPLES = 3
"""The oldest one is a minute old, or a little more."""
SWEEP_SECONDS, SWEEP_SHARE = 20.0, 200


@dataclass(frozen=True)
class Sample:
    """Counters as they were at one moment."""

    at: float
    edges: edges.Dump
    drops: Mapping[abi.DropKey, abi.DropValue]


class Observation:
    """Of one node."""

    def __init__(
        self, settings: Settings, network: NodeNetwork, instances: Callable[[], Sequence[InstanceStatus]]
    ) -> None:
        self.settings = settings
        self.network = network
        self.instances = instances
        store = FlowStore(settings.flows_dir, settings.flows_mib << 20) if settings.flows_mib else None
        self.flow_log = FlowLog(store=store)
        self.questions = Listener(settings.resolver_dir)
        self.tracer = Tracer(network, self.flow_log)
        self.sweep = Sweep()
        self.more_alarms: Callable[[], Sequence[Alarm]] = tuple
        """Those that others of the agent have."""
        self.fills: list[Fill] = []
        self.alarms: list[Alarm] = []
        self.drops: dict[str, int] = {}
        """Packets by reason, in the last minute."""
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """To be run as long as the agent lives."""
        pump = self.flow_log.pump(self.network.datapath.events, self._learn_names)
        return [pump, self._sample(), self._sweep(), *([self._export()] if self.settings.otlp_endpoint else [])]

    async def _export(self) -> None:
        """Until cancelled; what waits is sent then."""
        try:
            export = await Export.start(self.settings)
        except Unavailable as error:
            log.error("%s; %s", error.message, error.hint)
            return
        try:
            await asyncio.gather(export.tell_flows(self.flow_log), export.tell_edges(self.edges))
        finally:
            await asyncio.to_thread(export.close)

    def close(self) -> None:
        """Keep what is not on disk yet."""
        self.flow_log.collect(self.network.datapath.events)
        self.flow_log.keep()
        self.questions.close()

    def learn(self, specs: Sequence[InstanceSpec]) -> None:
        """What numbers mean now."""
        words = self.flow_log.words
        words.identities = self.network.books.identities
        words.rules = self.network.books.rules.texts()
        words.links = {spec.network.number: spec.name for spec in specs}

    def _learn_names(self) -> None:
        for answer in self.questions.read():
            self.learn_name(str(answer.asker), answer.name, list(map(str, answer.addresses)))

    def learn_name(self, asker: str, name: str, addresses: Sequence[str]) -> None:
        """An instance asks by one of its addresses, and may go by the other."""
        for one in self.instances():
            own = [text for text in (one.address, one.address6) if text]
            for here, there in itertools.product(own if asker in own else (), addresses):
                pair = Address.from_ip(here), Address.from_ip(there)
                self.flow_log.learn_name(pair[0].packed, pair[1].packed, name)

    async def flows(self, query: FlowQuery, *, follow: bool) -> AsyncIterator[Flow]:
        query = query.with_addresses(self.instances())
        self.flow_log.collect(self.network.datapath.events)
        # A full log takes seconds to read.
        past = self.flow_log.past
        for flow in await asyncio.to_thread(past, query.matches, query.limit, query.sieve(), query.since):
            yield flow
        if follow:
            async for flow in self.flow_log.follow(query.matches):
                yield flow

    async def edges(self, app: str = "", *, recent: bool = False) -> list[Edge]:
        """All that were counted, or what was counted of them in the last minute or so."""
        return await asyncio.to_thread(self._edges, app, recent)

    def _edges(self, app: str, recent: bool) -> list[Edge]:
        now = self._take()
        found = self._named(now)
        if recent:
            before = self._samples[0] if self._samples else now
            found = difference(found, self._named(before), max(now.at - before.at, 0.001))
        return [edge for edge in found if not app or _takes_part(edge, app)]

    def _named(self, sample: Sample) -> list[Edge]:
        return edges.named(sample.edges, self.network.datapath, self.flow_log.words)

    def _take(self) -> Sample:
        datapath = self.network.datapath
        return Sample(time.monotonic(), edges.take(datapath), dict(datapath.drops.items()))

    async def trace(self, asked: Asked) -> Trace:
        return await self.tracer.trace(self.instances(), asked)

    async def _sample(self) -> None:
        await self.tracer.reset()
        while True:
            try:
                await self.examine()
            except WhitError as error:
                log.error("looking at counters: %s", error)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def examine(self) -> list[Alarm]:
        """Look at all counters now, and say what is wrong."""
        now = await asyncio.to_thread(self._take)
        # Who asks often must not push the minute out.
        if not self._samples or now.at - self._samples[-1].at > SAMPLE_SECONDS / 2:
            self._samples.append(now)
        self.fills = await asyncio.to_thread(self._count)
        oldest, newest = self._samples[0].drops, now.drops
        self.drops = alarms.dropped_between(newest, oldest)
        users = await asyncio.to_thread(self._users)
        lost = alarms.lost_between(newest, oldest)
        found = alarms.alarms_of(self.fills, self.drops, lost, users, self.flow_log.words.identities.name)
        self._raise([*found, *self.more_alarms()])
        return self.alarms

    def _raise(self, found: list[Alarm]) -> None:
        fresh, over = alarms.changes(self.alarms, found)
        for one in fresh:
            users = f" (most by {', '.join(one.users)})" if one.users else ""
            log.warning("%s: %s%s", one.name, one.text, users)
        for one in over:
            log.info("%s is over", one.name)
        self.alarms = found

    def _count(self) -> list[Fill]:
        """Flows are counted by the sweeper."""
        return [
            Fill(map=one.name, entries=self.sweep.entries if one.name == "flows" else one.count(), room=one.max_entries)
            for one in self.network.datapath.tables()
        ]

    def _users(self) -> dict[str, Counter[int]]:
        """Who takes most of the maps that are nearly full."""
        full = {fill.map for fill in self.fills if fill.share >= alarms.WARNING}
        found = {"flows": self.sweep.initiators}
        policies = self.network.datapath.policies
        for table in (policies.prefixes, policies.exact):
            if table.name in full:
                found[table.name] = Counter(key.subject for key, _ in table.items())
        if "edges" in full:
            found["edges"] = Counter(key.source for key, _ in self.network.datapath.edges.items())
        return found

    async def _sweep(self) -> None:
        """So often that it takes less than half a hundredth of a processor."""
        while True:
            await asyncio.sleep(max(SWEEP_SECONDS, SWEEP_SHARE * self.sweep.seconds))
            try:
                self.sweep = await asyncio.to_thread(sweep, self.network.datapath.flows, Timeouts())
            except WhitError as error:
                log.error("sweeping flows: %s", error)


def _takes_part(edge: Edge, app: str) -> bool:
    return any(name.startswith(f"{app}/") for name in (edge.source, edge.destination))
