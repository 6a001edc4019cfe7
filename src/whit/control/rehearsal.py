"""Rehearsal: what policies would do, asked of the agent before they are applied. Nothing of it changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from whit.control.network import NodeNetwork
from whit.kernel.network import sockets
from whit.kernel.thread import in_thread
from whit.mesh.flows.log import FlowLog
from whit.mesh.policy.check import check
from whit.mesh.policy.identities import service_name
from whit.mesh.policy.learn import learn
from whit.mesh.policy.recorded import gather
from whit.mesh.policy.replay import replay
from whit.mesh.policy.scenario import Listening, Present
from whit.model.app import AppSpec
from whit.model.finding import Candidate, Finding
from whit.model.instance import InstanceStatus
from whit.model.learned import Learned
from whit.model.replay import Replay
from whit.runtime.drivers import Drivers


class Rehearsal:
    """Of one node. What takes long is done in a thread."""

    def __init__(
        self,
        network: NodeNetwork,
        log: FlowLog,
        apps: Callable[[], Sequence[AppSpec]],
        instances: Callable[[], Sequence[InstanceStatus]],
        drivers: Drivers,
    ) -> None:
        self.network = network
        self.log = log
        self.apps = apps
        self.instances = instances
        self.drivers = drivers

    async def check(self, candidate: Candidate) -> list[Finding]:
        """What is doubtful about it beside what runs now."""
        instances = self.instances()
        return await in_thread(
            lambda: check(candidate, replace(self._present(), listening=_listening(instances, self.drivers)))
        )

    async def replay(self, candidate: Candidate, since: datetime | None = None) -> Replay:
        """What it would have done to the flows that were recorded since then."""
        self.log.collect(self.network.datapath.events)
        return await in_thread(self._replay, candidate, self._present(), since)

    def _replay(self, candidate: Candidate, present: Present, since: datetime | None) -> Replay:
        now, then = present.with_(), present.with_(candidate)
        return replay(gather(self.log.backwards(since), since), now, then)

    async def learn(self, app: AppSpec, since: datetime | None = None) -> Learned:
        """What its services were seen to use since then."""
        self.log.collect(self.network.datapath.events)
        book = self.network.books.identities
        return await in_thread(lambda: learn(app, gather(self.log.backwards(since), since), book))

    def _present(self) -> Present:
        network = self.network
        return Present(tuple(self.apps()), network.policies, network.books.identities, network.instance_addresses)


def _listening(instances: Sequence[InstanceStatus], drivers: Drivers) -> Listening:
    """Of services of which every instance runs on the node's kernel: into others nobody can look from here."""
    hidden = {
        service_name(one.app, one.service)
        for one in instances
        if one.state != "running" or one.health == "starting" or not one.pid or drivers.of(one.isolation).has_own_kernel
    }
    found: dict[str, frozenset[tuple[int, int]]] = {}
    for one in instances:
        name = service_name(one.app, one.service)
        if name not in hidden and one.pid:
            found[name] = found.get(name, frozenset()) | sockets.listening(Path(f"/proc/{one.pid}/ns/net"))
    return found
