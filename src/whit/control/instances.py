"""Keeps every instance as it is wanted: carries out what `plan` decides, watches exits and health, adopts what runs.

Each instance is worked on by at most one task at a time. Nothing is remembered that cannot be found again on the
machine: a new agent starts from `adopt`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from whit.base.errors import InputError, NotFound, Unavailable, WhitError
from whit.control.desired import Wanted
from whit.control.images import HoldImage, ReleaseImage
from whit.control.plan import Action, Remove, Restart, Seen, Start
from whit.kernel import pidfd
from whit.kernel.files import MakeDirectory
from whit.mesh import services
from whit.model.image import Leases
from whit.model.instance import REACHABLE, ExitRecord, InstanceSpec, InstanceStatus
from whit.model.operation import Operation, carry_out
from whit.model.service import DependencySpec
from whit.runtime.driver import Driver
from whit.runtime.drivers import Drivers
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision import health, listening, restart

log = logging.getLogger(__name__)


class Networks(Protocol):
    """What an instance needs of the mesh, handed in so that the areas stay apart."""

    def plan_connect(self, spec: InstanceSpec) -> Sequence[Operation]: ...

    def plan_reconnect(self, spec: InstanceSpec) -> Sequence[Operation]: ...

    def plan_disconnect(self, spec: InstanceSpec) -> Sequence[Operation]: ...

    def files(self, spec: InstanceSpec) -> NetworkFiles: ...

    async def has_connections(self, spec: InstanceSpec) -> bool: ...


@dataclass(eq=False)
class Record:
    """One instance under our care."""

    spec: InstanceSpec
    depends_on: Mapping[str, DependencySpec]
    status: InstanceStatus
    attempts: int = 0
    started: float = 0.0
    retry_at: float | None = None
    leaving: bool = False
    drained: bool = False
    """Its connections have had their time."""
    ended: bool = False
    """Its first process is dead, whatever else is still to be found out about it."""
    task: asyncio.Task[None] | None = None
    watchers: tuple[asyncio.Task[None], ...] = ()
    checker: asyncio.Task[None] | None = None
    """Looks after its health, if it is awake."""
    deaf: frozenset[int] = frozenset()
    """TCP ports on which it listened, and does no more."""
    laid_out: NetworkFiles | None = None
    """All that its next start is made of is there, but for its process: with these names."""
    slept: float = 0.0
    """Since when it sleeps, monotonic; 0: since before this agent."""
    users: int = 0
    """Commands that run in it for somebody."""

    def update(self, **changes: Any) -> None:
        self.status = self.status.model_copy(update=changes)

    @property
    def is_reachable(self) -> bool:
        return self.status.state in REACHABLE and not self.ended

    @property
    def backend_state(self) -> services.State | None:
        """As what its service sees it; None if it is not there to be seen."""
        if not self.is_reachable:
            return None
        if self.leaving:
            return "down" if self.drained else "leaving"
        return "active" if self.ready else "unready"

    @property
    def ready(self) -> bool:
        """May take new connections."""
        is_well = self.status.health in ("none", "healthy") and not self.deaf
        return not self.leaving and self.status.state in REACHABLE and is_well


class Instances:
    """The instances of this node. `changed` is called after everything that may make another action due, `publish`
    brings what is ready to the mesh and returns when it is there; `verification` says what has to hold of an image."""

    def __init__(
        self,
        drivers: Drivers,
        networks: Networks,
        leases: Leases,
        changed: Callable[[], None],
        publish: Callable[[], Awaitable[None]],
        verification: Callable[[InstanceSpec], Sequence[Operation]],
    ) -> None:
        self.drivers = drivers
        self.networks = networks
        self.leases = leases
        self.changed = changed
        self.publish = publish
        self.verification = verification
        self.records: dict[str, Record] = {}

    def driver(self, spec: InstanceSpec) -> Driver:
        return self.drivers.of(spec.isolation)

    # ---- what is seen ----

    def seen(self) -> dict[str, Seen]:
        return {
            name: Seen(record.status, record.depends_on, record.task is not None, record.retry_at)
            for name, record in self.records.items()
        }

    async def adopt(self, depends_on: Callable[[InstanceSpec], Mapping[str, DependencySpec]]) -> None:
        """Take over what an earlier agent left: running, ended, or half made."""
        for found in await self.drivers.adopt():
            if found.spec is None:
                await carry_out(self.drivers.plan_remove(found.status.name))
                continue
            record = Record(found.spec, depends_on(found.spec), found.status, found.status.restarts)
            self.records[found.spec.name] = record
            record.started = time.monotonic()
            await HoldImage(self.leases, found.spec.name, found.spec.image).do()
            if record.status.state in REACHABLE:
                self._recall_health(record)
                if record.status.state in ("running", "frozen"):
                    self.watch(record, adopted=True)
            elif record.status.state == "exited":
                self._settle_exit(record, found.ended or ExitRecord(code=None, cause="nobody saw it end"), ran_for=0)
            else:
                # It was being made, or was being removed, when the agent died: away with it, then anew.
                self.work(record, self._remove(record))
        for name in self.drivers.leftovers():
            await carry_out([*self.drivers.plan_remove(name, keep_log=True), ReleaseImage(self.leases, name)])

    # ---- what is done ----

    def carry_out(self, actions: Sequence[Action], wanted: Mapping[str, Wanted]) -> None:
        """Begin each action in a task of its own."""
        for action in actions:
            log.info("%s", action)
            match action:
                case Start(name):
                    record = self._new(wanted[name])
                    self.work(record, self._start(record))
                case Restart(name):
                    record = self.records[name]
                    record.retry_at = None
                    self.work(record, self._restart(record))
                case Remove(name):
                    record = self.records[name]
                    record.leaving = True
                    self.work(record, self._remove(record))
        if any(isinstance(action, Remove) for action in actions):
            self.changed()

    def describe(self, action: Action, wanted: Mapping[str, Wanted]) -> list[str]:
        """The operations of an action, in words."""
        match action:
            case Start(name):
                operations = self._starting(wanted[name].spec)
            case Restart(name):
                spec = self.records[name].spec
                operations = self.restarting(spec, restarts=1)
            case Remove(name):
                spec = self.records[name].spec
                stop = self.driver(spec).plan_stop(name, spec.stop_signal, spec.stop_grace_period)
                operations = [*stop, *self._removing(spec)]
        return [operation.describe() for operation in operations]

    def _starting(self, spec: InstanceSpec) -> list[Operation]:
        return [*self._connecting(spec), *self.driver(spec).plan_start(spec, self.networks.files(spec))]

    def _connecting(self, spec: InstanceSpec) -> list[Operation]:
        """All that is not its driver's."""
        connect = self.networks.plan_connect(spec)
        return [*self.verification(spec), HoldImage(self.leases, spec.name, spec.image), *_sources(spec), *connect]

    def laying_out(self, spec: InstanceSpec) -> list[Operation]:
        """The first part of `restarting`, which may be done long before."""
        files = self.networks.files(spec)
        return [*self.networks.plan_reconnect(spec), *self.driver(spec).plan_lay_out(spec, files)]

    def restarting(self, spec: InstanceSpec, restarts: int, *, laid_out: bool = False) -> list[Operation]:
        """From one that ended to one that runs."""
        files, driver = self.networks.files(spec), self.driver(spec)
        # Also if that was done: it takes 0.3 ms, and nobody would look at it again while the instance runs.
        reconnect = self.networks.plan_reconnect(spec)
        return [*reconnect, *driver.plan_restart(spec, files, restarts=restarts, laid_out=laid_out)]

    def preparing(self, spec: InstanceSpec, restarts: int) -> list[Operation]:
        """From one that ended to the moment before its program runs."""
        files = self.networks.files(spec)
        return [*self.networks.plan_reconnect(spec), *self.driver(spec).plan_prepare(spec, files, restarts=restarts)]

    def _removing(self, spec: InstanceSpec) -> list[Operation]:
        disconnect = self.networks.plan_disconnect(spec)
        return [*self.driver(spec).plan_remove(spec.name), *disconnect, ReleaseImage(self.leases, spec.name)]

    def release(self) -> None:
        """Stop watching; the instances go on."""
        for record in self.records.values():
            for task in (*record.watchers, record.checker, record.task):
                if task is not None:
                    task.cancel()

    def _new(self, wanted: Wanted) -> Record:
        spec = wanted.spec
        status = InstanceStatus(
            name=spec.name,
            app=spec.app,
            service=spec.service,
            isolation=spec.isolation,
            address=spec.network.address,
            address6=spec.network.address6,
            image=spec.image.name,
            revision=spec.revision,
            health="starting" if spec.healthcheck else "none",
        )
        record = Record(spec, wanted.depends_on, status)
        self.records[spec.name] = record
        return record

    def work(self, record: Record, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it in a task of its own; nothing else is done to the instance meanwhile."""

        async def guarded() -> None:
            try:
                await work
            except (InputError, Unavailable) as error:
                self._fail(record, str(error), final=True)
            except WhitError as error:
                self._fail(record, str(error))
            except Exception as error:
                log.exception("%s", record.spec.name)
                self._fail(record, f"{type(error).__name__}: {error}")
            finally:
                record.task = None
                self.changed()

        record.task = task = asyncio.create_task(guarded(), name=record.spec.name)
        return task

    def _fail(self, record: Record, message: str, *, final: bool = False) -> None:
        """Starting or removing did not work: try again later, less and less often, unless the person must act first."""
        log.warning("%s: %s", record.spec.name, message)
        record.attempts += 1
        record.retry_at = None if final else time.monotonic() + restart.delay(record.attempts + 3)
        record.update(state="failed", message=message)

    async def _start(self, record: Record) -> None:
        record.update(state="pending", message="")
        if not await self._began_as_twin(record):
            await carry_out(self._starting(record.spec))
        self._running(record)

    async def _began_as_twin(self, record: Record) -> bool:
        """Whether it goes on where another replica stands, which sleeps in a file: that is faster than to boot."""
        spec, snapshots = record.spec, self.driver(record.spec).snapshots
        origin = next((one.spec for one in self.records.values() if _may_be_origin(one, spec)), None)
        if origin is None or snapshots is None:
            return False
        try:
            await carry_out([*self._connecting(spec), *snapshots.plan_twin(spec, self.networks.files(spec), origin)])
        except (WhitError, OSError) as error:
            log.warning("%s cannot begin from %s and is started: %s", spec.name, origin.name, error)
            return False
        log.info("%s begins from the file of %s", spec.name, origin.name)
        return True

    async def _restart(self, record: Record) -> None:
        """The same network, files and writable layer; a new process."""
        record.update(state="restarting")
        spec, restarts = record.spec, record.status.restarts + 1
        if not self.drivers.layout(spec.name).bundle.exists():
            # Its first start failed and was taken back as a whole.
            await self._start(record)
            return
        await carry_out(self.restarting(spec, restarts))
        record.update(restarts=restarts)
        self._running(record)

    async def _remove(self, record: Record) -> None:
        record.leaving = True
        spec = record.spec
        if record.is_reachable:
            # New connections have gone elsewhere before the process hears that it is to end.
            await self.publish()
            if record.status.state in ("running", "frozen"):
                await self._end(record)
            record.ended = True
            await self.publish()
        self.unwatch(record)
        await carry_out(self._removing(spec))
        self.records.pop(spec.name, None)

    async def _end(self, record: Record) -> None:
        """Its connections, then its process."""
        spec, driver = record.spec, self.driver(record.spec)
        if record.status.state == "frozen":
            driver.resume(spec.name)
        await self._drain(record)
        self.unwatch(record)
        await carry_out(driver.plan_stop(spec.name, spec.stop_signal, spec.stop_grace_period))

    async def _drain(self, record: Record) -> None:
        """Let its connections end by themselves, for as long as the service gives them."""
        until = time.monotonic() + record.spec.drain
        while (left := until - time.monotonic()) > 0 and not record.ended:
            began = time.monotonic()
            if not await self.networks.has_connections(record.spec):
                break
            # Looking takes the longer the more flows there are; it is not to become what the node is busy with.
            await asyncio.sleep(min(left, max(0.5, 10 * (time.monotonic() - began))))
        if record.spec.drain:
            record.drained = True
            await self.publish()

    # ---- what happens ----

    def _running(self, record: Record) -> None:
        driver = self.driver(record.spec)
        record.started = time.monotonic()
        record.ended = False
        record.update(
            state="running",
            started_at=datetime.now(UTC),
            exit_code=None,
            message="",
            pid=driver.pid_of(record.spec.name),
            runtime=driver.runtime,
            health="starting" if record.spec.healthcheck else "none",
        )
        self.watch(record, adopted=False)

    def watch(self, record: Record, *, adopted: bool) -> None:
        """See when it ends and how it does, instead of whatever was watched before."""
        self.unwatch(record)
        record.deaf = frozenset()
        record.watchers = (
            asyncio.create_task(self._watch_exit(record)),
            asyncio.create_task(self._watch_main(record)),
            asyncio.create_task(self._watch_listeners(record)),
        )
        if record.status.state != "frozen":
            self.check(record, adopted=adopted)

    def check(self, record: Record, *, adopted: bool) -> None:
        """Look after its health from now on."""
        if record.spec.healthcheck is not None:
            record.checker = asyncio.create_task(self._watch_health(record, adopted=adopted))

    def unwatch(self, record: Record) -> None:
        for task in (*record.watchers, *((record.checker,) if record.checker else ())):
            if task is not asyncio.current_task():
                task.cancel()
        record.watchers, record.checker = (), None

    async def _watch_main(self, record: Record) -> None:
        """Out of its service as soon as its first process is dead: all else about its end is found out later."""
        if record.status.pid is not None:
            with contextlib.suppress(NotFound), pidfd.opened(record.status.pid) as descriptor:
                await pidfd.wait_end(descriptor)
        record.ended = True
        await self.publish()

    async def _watch_listeners(self, record: Record) -> None:
        """Out of its service as soon as it listens no more where it did, and back when it does."""
        if self.driver(record.spec).has_own_kernel:
            return

        async def changed(lost: frozenset[int]) -> None:
            record.deaf = lost
            ports = ", ".join(f"{port}/tcp" for port in sorted(lost))
            record.update(message=f"listens no more on {ports}" if lost else "")
            log.info("%s: %s", record.spec.name, record.status.message or "listens again")
            await self.publish()

        namespace = self.drivers.settings.netns_dir / record.spec.name
        try:
            await listening.watch(namespace, frozenset(record.spec.listens), changed)
        except WhitError as error:
            log.warning("%s: what it listens on cannot be watched: %s", record.spec.name, error)

    async def _watch_exit(self, record: Record) -> None:
        ended = await self.driver(record.spec).exit_of(record.spec.name)
        if not record.leaving:
            self._settle_exit(record, ended, time.monotonic() - record.started)
            self.unwatch(record)
            self.changed()

    def _settle_exit(self, record: Record, ended: ExitRecord, ran_for: float) -> None:
        decision = restart.decide(record.spec.restart, ended, attempts=record.attempts, ran_for=ran_for)
        record.attempts = decision.attempts
        record.retry_at = None if decision.after is None else time.monotonic() + decision.after
        text = "out of memory" if ended.oom_killed else ended.cause
        record.update(state="exited", exit_code=ended.code, pid=None, message=text)
        log.info("%s ended with %s %s; %s", record.spec.name, ended.code, text, decision.reason)

    async def _watch_health(self, record: Record, *, adopted: bool) -> None:
        assert record.spec.healthcheck is not None

        def changed(state: health.HealthState) -> None:
            # What an earlier agent knew to be healthy stays so until a check says otherwise.
            if adopted and state.health == "starting" and record.status.health == "healthy":
                return
            record.update(health=state.health, message=state.output if state.health == "unhealthy" else "")
            self._health_file(record).write_text(state.health)
            self.changed()

        async def check(command: tuple[str, ...], timeout: float) -> health.CheckResult:
            return await self.driver(record.spec).check(record.spec.name, command, timeout)

        with contextlib.suppress(asyncio.CancelledError):
            await health.watch(record.spec.healthcheck, check, changed)

    def _health_file(self, record: Record) -> Path:
        """The last finding, for an agent that comes later: it must not take a healthy backend out of its service."""
        return self.drivers.layout(record.spec.name).bundle / "health"

    def _recall_health(self, record: Record) -> None:
        with contextlib.suppress(FileNotFoundError):
            record.update(health=self._health_file(record).read_text())


def _may_be_origin(record: Record, spec: InstanceSpec) -> bool:
    """Whether an instance of this spec may begin from it: another replica of the same revision."""
    there = record.spec
    if record.status.state != "snapshot" or record.task is not None:
        return False
    return (there.app, there.service, there.revision) == (spec.app, spec.service, spec.revision)


def _sources(spec: InstanceSpec) -> list[Operation]:
    """Directories of volumes and bind mounts that are not there yet. They stay when the instance goes."""
    sources = [mount.source for mount in spec.mounts if mount.source is not None]
    return [MakeDirectory(source, keep=True) for source in sources if not source.exists()]
