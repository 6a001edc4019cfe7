"""The agent: holds what is wanted, and turns the wheel that brings the machine to it, again after everything that
happens and every few seconds besides.

It is the only object that the doors talk to. What it decides is in `desired`, `plan` and `admission`; what it does is
done by `instances` and `network`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from whit import __version__
from whit.base.errors import NotFound, WhitError
from whit.base.latest import Latest
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.cluster.sqlite import SqliteStore
from whit.control import admission, doctor, image_process, images, preview, resolver, status, trust, waiting
from whit.control.desired import Wanted, instance_names, owners_of, volume_directory, wanted_instances
from whit.control.instances import Instances, Record
from whit.control.machines import guests
from whit.control.network import Books, NodeNetwork
from whit.control.observing.explain import answer
from whit.control.observing.observation import Observation
from whit.control.observing.surface import surface
from whit.control.outside_names import OutsideNames
from whit.control.plan import next_retry, plan
from whit.control.policies import Policies
from whit.control.rehearsal import Rehearsal
from whit.control.warm import Warmth
from whit.image.store.images import ImageStore
from whit.model.app import AppSpec
from whit.model.feature import Feature
from whit.model.flow import Explanation
from whit.model.image import Image, StoredImage
from whit.model.instance import InstanceSpec, InstanceStatus
from whit.model.learned import Learned
from whit.model.operation import Operation
from whit.model.policy import PolicySpec
from whit.model.progress import Progress, Report
from whit.model.release import Release
from whit.model.service import DependencySpec
from whit.model.status import AgentStatus, AppStatus, LogLine
from whit.model.surface import Surface
from whit.runtime.driver import Session
from whit.runtime.drivers import Drivers
from whit.runtime.supervision import logs
from whit.runtime.supervision.execute import ExecRequest

log = logging.getLogger(__name__)

LOOK_AGAIN = 5.0
"""Seconds after which the machine is looked at although nothing seems to have happened."""
LAST_WORDS = 10
"""Lines of an instance's output that are shown when it ended badly."""


class Agent:
    """One node's agent. Made by `start`."""

    def __init__(
        self, settings: Settings, documents: Documents, network: NodeNetwork, drivers: Drivers, images_: ImageStore
    ) -> None:
        self.settings = settings
        self.documents = documents
        self.network = network
        self.drivers = drivers
        self.images = images_
        self.instances = Instances(drivers, network, images_, self._changed, self._write_maps, self._verification)
        self.policies = Policies(documents, network)
        self.warmth = Warmth(network.datapath, self.instances, lambda: self.wanted)
        self.observation = Observation(settings, network, self.instance_statuses)
        self.names = OutsideNames(settings, documents, network, self._write_maps, self.observation.learn_name)
        self.observation.more_alarms = self.names.alarms
        self.releases: dict[str, Release] = {}
        self.rehearsal = Rehearsal(
            network,
            self.observation.flow_log,
            lambda: [release.spec for release in self.releases.values()],
            self.instance_statuses,
            drivers,
        )
        self.wanted: dict[str, Wanted] = {}
        self._leaving: dict[str, Release] = {}
        self.changes = asyncio.Event()
        self._wake = asyncio.Event()
        self._settling = asyncio.Lock()
        self._owned: Latest[dict[str, tuple[str, str]]] = Latest()
        self._settled: Latest[dict[str, Wanted]] = Latest()
        self._tasks: list[asyncio.Task[None]] = []
        self._app_locks: dict[str, asyncio.Lock] = {}

    @classmethod
    async def start(cls, settings: Settings) -> Agent:
        """Open the state, set the node up, adopt what runs, and begin to reconcile.

        Raises:
            Unavailable: the machine lacks something without which nothing runs.
        """
        store = await SqliteStore.open(settings.database)
        documents = Documents(store)
        network = await NodeNetwork.open(settings, documents)
        drivers = await Drivers.open(settings, guests.obtain)
        agent = cls(settings, documents, network, drivers, ImageStore(settings))
        agent.releases = {release.spec.name: release for release in await documents.list(Release, "release")}
        await agent.policies.load()
        await agent.names.load()
        await agent.instances.adopt(agent._dependencies_of)
        network.host.attach_host()
        loops = (
            agent._reconcile(),
            agent.warmth.run(),
            *agent.observation.loops(),
            agent.names.watch(lambda: agent.observation.sweep),
            resolver.watch(settings, agent._changed),
            logs.keep_all(settings),
        )
        agent._tasks = [asyncio.create_task(loop) for loop in loops]
        log.info("agent %s %s, pool %s, %s", settings.id, __version__, network.books.addresses.pool, agent.runtime)
        return agent

    async def stop(self) -> None:
        """Let go of everything; what runs goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.names.close()
        self.observation.close()
        self.instances.release()
        self.network.datapath.close()
        await self.documents.store.close()

    async def rest(self, timeout: float) -> None:
        """Stop every instance, with time to say goodbye, because the machine goes down. What is wanted stays on record:
        the next agent brings it up again. Raises TimedOut."""
        self._leaving |= self.releases
        self.releases = {}
        self._changed()
        await self._wait(lambda: not self.instances.records, timeout, "every instance", "at rest")

    # ---- the wheel ----

    def _changed(self) -> None:
        self._wake.set()
        self.changes.set()
        self.changes = asyncio.Event()

    async def _reconcile(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._step()
            except WhitError as error:
                log.error("reconciling: %s", error)
            except Exception:
                log.exception("reconciling")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience())

    def _patience(self) -> float:
        retry = next_retry(self.instances.seen())
        return LOOK_AGAIN if retry is None else max(0.0, min(LOOK_AGAIN, retry - time.monotonic()))

    async def _step(self) -> None:
        """Bring the machine one step nearer to what is wanted. The kernel knows of a service before it starts."""
        apps = await self._settle()
        await self.network.prepare(apps)
        await self._write_maps()
        self.observation.learn([record.spec for record in self.instances.records.values()])
        if apps:
            resolver.ensure(self.settings)
        self.instances.carry_out(plan(self.wanted, self.instances.seen(), time.monotonic()), self.wanted)

    async def _settle(self) -> list[AppSpec]:
        """What is wanted now follows from the releases of now: one at a time, or an older view would be the last."""
        async with self._settling:
            releases = list(self.releases.values())
            await self._assign(releases)
            books = self.network.books
            sources = (*releases, books.addresses, books.identities)
            self.wanted = self._settled.get(sources, lambda: self._wanted(releases))
            return [release.spec for release in releases]

    async def _write_maps(self) -> None:
        releases = (self._leaving | self.releases).values()
        await self.network.write(list(releases), self.instances.records.values())

    async def _assign(self, releases: Sequence[Release]) -> None:
        await self.network.assign([*self._leaving.values(), *releases], self._owners(releases))

    def _owners(self, releases: Sequence[Release]) -> dict[str, tuple[str, str]]:
        """App and service of every instance that is wanted or there, by name."""
        owners = self._owned.get(releases, lambda: owners_of(releases))
        there = {name: (record.spec.app, record.spec.service) for name, record in self.instances.records.items()}
        return owners | there

    def _wanted(self, releases: Sequence[Release], books: Books | None = None) -> dict[str, Wanted]:
        found: dict[str, Wanted] = {}
        for release in releases:
            app = release.spec.name
            networks = {
                name: self.network.spec_of(name, app, service, books)
                for name, (service, _) in instance_names(release).items()
            }
            found |= wanted_instances(release, networks, self.settings)
        return found

    def _verification(self, spec: InstanceSpec) -> Sequence[Operation]:
        release = self.releases.get(spec.app)
        asked = trust.rules(self.settings, release.spec.trust if release else ())
        return trust.verification(self.images, spec.image, asked)

    def _dependencies_of(self, spec: InstanceSpec) -> Mapping[str, DependencySpec]:
        release = self.releases.get(spec.app)
        service = release.spec.services.get(spec.service) if release else None
        return service.depends_on if service else {}

    # ---- apps ----

    async def up(
        self, spec: AppSpec, report: Report, *, refresh: bool = False, timeout: float = 300.0, wait: bool = True
    ) -> dict[str, Any]:
        """Run the app as the spec has it. Returns its status, and whether anything changed."""
        async with self._app_lock(spec.name):
            await self._admit(spec)
            settled = await self.settle_images(spec, report, refresh=refresh)
            asked = trust.rules(self.settings, spec.trust)
            await asyncio.to_thread(trust.require, self.images, settled.values(), asked)
            before = self.releases.get(spec.name)
            release = Release(spec=spec, images=settled, restarts=before.restarts if before else {})
            changed = before is None or _essence(before) != _essence(release)
            await self._keep_release(release)
            if wait:
                await self._wait_until_up(spec.name, report, timeout)
        return {"app": self.app_status(spec.name).model_dump(mode="json"), "changed": changed}

    async def describe_up(self, spec: AppSpec) -> list[str]:
        """What `up` would do, one line an operation. Nothing is built: an image that has to be is one line."""
        await self._admit(spec)
        before = self.releases.get(spec.name)
        images_, lines = preview.known_images(spec, before)
        asked = trust.rules(self.settings, spec.trust)
        lines += [one.describe() for image in images_.values() for one in trust.verification(self.images, image, asked)]
        release = Release(spec=spec, images=images_, restarts=before.restarts if before else {})
        releases = list((self.releases | {spec.name: release}).values())
        books = self.network.assigned([one.spec for one in releases], self._owners(releases))
        lines += [one.describe() for one in await self.network.plan_node([r.spec for r in releases])]
        wanted = self._wanted([release], books)
        for action in preview.actions(spec.name, wanted, self.instances.seen()):
            lines += self.instances.describe(action, wanted)
        return lines

    async def settle_images(self, spec: AppSpec, report: Report, *, refresh: bool = False) -> dict[str, Image]:
        settled = None if refresh else await images.settled_images(spec, self.images, report)
        if settled is not None:
            return settled
        return await image_process.settle(self.settings, spec, report, refresh=refresh)

    async def down(self, name: str, report: Report, *, volumes: bool, timeout: float) -> None:
        """Stop the app and forget it. With `volumes` its data go too."""
        async with self._app_lock(name):
            release = self._release(name)
            await self.documents.delete("release", name)
            # Until its instances have ended they may say goodbye to each other.
            self._leaving[name] = self.releases.pop(name)
            self._changed()
            try:
                await self._wait(lambda: waiting.gone(name, self.instances.seen(), report), timeout, name, "down")
            finally:
                del self._leaving[name]
            if volumes:
                for volume in release.spec.volumes:
                    await status.remove_volume(volume_directory(self.settings, name, volume))
                    report(Progress(subject=name, step=f"removed volume {volume}", done=True))

    async def apply_policies(self, policies: Sequence[PolicySpec]) -> None:
        """They hold when this returns, for connections that are open too."""
        await self.policies.apply(policies)
        await self._write_maps()
        self._changed()
        self.observation.learn([record.spec for record in self.instances.records.values()])

    async def remove_policy(self, app: str, name: str) -> None:
        """Raises NotFound."""
        await self.policies.remove(app, name)
        await self._write_maps()

    async def restart(self, name: str, services: Sequence[str], report: Report, *, timeout: float) -> dict[str, Any]:
        """New instances of these services, or of all."""
        async with self._app_lock(name):
            release = self._release(name)
            chosen = [status.service_of(release.spec, given) for given in services] or list(release.spec.services)
            counts = {service: release.restarts.get(service, 0) + 1 for service in chosen}
            await self._keep_release(release.model_copy(update={"restarts": release.restarts | counts}))
            await self._wait_until_up(name, report, timeout)
        return {"app": self.app_status(name).model_dump(mode="json")}

    async def start_services(self, name: str, services: Sequence[str]) -> dict[str, Any]:
        """Wake what sleeps of these services, or of all. Returns when it listens."""
        await asyncio.gather(*map(self.warmth.awaken, self._records(name, services)))
        return {"app": self.app_status(name).model_dump(mode="json")}

    async def stop_services(self, name: str, services: Sequence[str]) -> dict[str, Any]:
        """Put them to sleep now. Raises Conflict if one of them does not sleep."""
        await asyncio.gather(*map(self.warmth.put_to_sleep, self._records(name, services)))
        return {"app": self.app_status(name).model_dump(mode="json")}

    def _records(self, name: str, services: Sequence[str]) -> list[Record]:
        """Of these services of an app, or of all."""
        app = self._release(name).spec
        chosen = {status.service_of(app, given) for given in services} or set(app.services)
        there = self.instances.records.values()
        return [one for one in there if one.spec.app == name and one.spec.service in chosen]

    async def _admit(self, spec: AppSpec) -> None:
        for service in spec.services.values():
            self.drivers.of(service.isolation)
        admission.admit(spec, self.releases.values())
        before = self.releases.get(spec.name)
        held = {port for service in before.spec.services.values() for port in service.ports} if before else set()
        asked = {port for service in spec.services.values() for port in service.ports}
        admission.refuse_ports_in_use(sorted(asked - held, key=lambda port: port.published))

    async def _keep_release(self, release: Release) -> None:
        name = release.spec.name
        await self.documents.put(release, "release", name)
        self.releases[name] = release
        # From here on the answer to "is it up" must be about this release.
        await self._settle()
        # What changed may be policy alone, for which nothing else is waited.
        await self._write_maps()
        self._changed()

    async def _wait_until_up(self, name: str, report: Report, timeout: float) -> None:
        def is_up() -> bool:
            return waiting.is_up(name, self.wanted, self.instances.seen(), report, self._last_words)

        await self._wait(is_up, timeout, name, "healthy")

    async def _wait(self, holds: Callable[[], bool], timeout: float, app: str, state: str) -> None:
        def what() -> str:
            return f"{app} to be {state}{waiting.missing(app, self.instances.seen())}"

        await waiting.until(holds, lambda: self.changes, timeout, what)

    def _last_words(self, instance: str) -> str:
        printed = logs.read(self.drivers.layout(instance), last=LAST_WORDS)
        return "\n".join(f"  {line.text}" for line in printed) or "  (it printed nothing)"

    def _app_lock(self, name: str) -> asyncio.Lock:
        return self._app_locks.setdefault(name, asyncio.Lock())

    def _release(self, name: str) -> Release:
        if name not in self.releases:
            known = ", ".join(sorted(self.releases)) or "none"
            raise NotFound(f"there is no app {name}", hint=f"apps that are up: {known}")
        return self.releases[name]

    # ---- what is seen ----

    @property
    def runtime(self) -> str:
        """What runs plain containers, as `runc 1.1.5`."""
        return self.drivers.of("container").runtime

    def status(self) -> AgentStatus:
        return AgentStatus(
            id=self.settings.id,
            version=__version__,
            pid=os.getpid(),
            pool=self.network.books.addresses.pool,
            pool6=str(self.network.books.addresses.network6 or ""),
            runtime=self.runtime,
            apps=len(self.releases),
            alarms=tuple(self.observation.alarms),
            drops=self.observation.drops,
        )

    def app_statuses(self) -> list[AppStatus]:
        return [self.app_status(name) for name in sorted(self.releases)]

    def app_status(self, name: str) -> AppStatus:
        return status.app_status(self._release(name), self.instances.seen(), self.network.service_addresses)

    def instance_statuses(self, app: str = "") -> list[InstanceStatus]:
        found = (
            status.with_ports(there.status, self.releases.get(there.status.app))
            for there in self.instances.seen().values()
        )
        return sorted((one for one in found if app in ("", one.app)), key=lambda one: one.name)

    def logs(
        self, app: str, members: Sequence[str], *, follow: bool, tail: int | None, since: str
    ) -> AsyncIterator[LogLine]:
        names = [one.name for one in self.instance_statuses(app) if not members or {one.name, one.service} & {*members}]
        start = datetime.fromisoformat(since) if since else None
        return self.drivers.lines(names, follow=follow, last=tail, since=start)

    @contextlib.asynccontextmanager
    async def execute(self, instance: str, request: ExecRequest) -> AsyncIterator[Session]:
        """A command in an instance, which is woken for it."""
        record = self.instances.records.get(instance)
        if record is None:
            raise NotFound(f"there is no instance {instance}", hint="`whit ps` lists what there is")
        driver = self.drivers.of(record.spec.isolation)
        async with self.warmth.used(record), driver.execute(instance, request) as session:
            yield session

    async def surface(self, instance: str) -> Surface:
        """What an instance can get at. Raises NotFound."""
        record = self.instances.records.get(instance)
        if record is None:
            raise NotFound(f"there is no instance {instance}", hint="`whit ps` lists what there is")
        return await surface(self.network, record.spec, self.drivers.layout(instance), record.status.runtime)

    async def explain(self, source: str, destination: str, port: int, protocol: str) -> Explanation:
        return await answer(self.network, self.instance_statuses(), source, destination, port, protocol)

    async def learn(self, name: str, since: datetime | None) -> Learned:
        """What the app's services were seen to use."""
        return await self.rehearsal.learn(self._release(name).spec, since)

    async def stored_images(self) -> list[StoredImage]:
        stored = await asyncio.to_thread(self.images.images)
        return [StoredImage(name=one.name, digest=one.digest, size=one.size) for one in stored]

    async def features(self) -> list[Feature]:
        return await doctor.features(self.settings)


def _essence(release: Release) -> Mapping[str, Any]:
    """A release without what may differ although nothing changed."""
    document = release.model_dump(mode="json")
    for image in document["images"].values():
        image.pop("cached")
    return document
