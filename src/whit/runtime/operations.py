"""The steps from an instance's spec to its running container, each with its undo, and the removal of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from whit.base.errors import CommandError, Conflict, InputError, Place, TimedOut
from whit.kernel import cgroup, freezer, pidfd
from whit.kernel.files import write_file
from whit.kernel.thread import in_thread
from whit.model.instance import InstanceSpec
from whit.runtime.bundle import oci_config, rootfs, users
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.sleeping import gate
from whit.runtime.supervision import logs, monitor, processes
from whit.tools import conmon

HASTY_MOVES, HASTY_PAUSE = 5, 0.01
"""How often, and with which pause in seconds, the kernel is kept ready to move a container to its cgroup."""
KILL_PATIENCE = 10.0
KILL_ROUNDS = 10
NO_PROGRAM = re.compile(
    r"executable file .*not found|exec: .*(no such file|permission denied)"  # crun and runc
    r"|error finding executable|failed to load .*(no such file|permission denied)"  # runsc
)
MONITOR_PATIENCE = 5.0
"""Seconds that a monitor has to end after its container."""


@dataclass(frozen=True)
class NetworkFiles:
    """What the instance knows of names: hosts as (address, names), the addresses of the resolver in the order in which
    they are asked, and the domains it searches."""

    hosts: Sequence[tuple[str, Sequence[str]]] = ()
    nameservers: Sequence[str] = ()
    search: Sequence[str] = ()


@dataclass
class ClaimName:
    """Make the bundle's directory with the spec in it: from now on the instance exists for every agent that comes."""

    layout: Layout
    spec: InstanceSpec
    claimed: bool = field(default=False, init=False)
    """Undo must not take away what another start had made."""

    def describe(self) -> str:
        return f"make {self.layout.bundle} for {self.spec.name}"

    async def do(self) -> None:
        self.layout.settings.instances_dir.mkdir(parents=True, exist_ok=True)
        try:
            self.layout.bundle.mkdir()
        except FileExistsError:
            raise Conflict(f"instance {self.spec.name} exists already", hint="remove it first") from None
        self.claimed = True
        self.layout.rootfs.mkdir()
        self.layout.exits.mkdir()
        self.layout.execs.mkdir()
        write_file(self.layout.spec, self.spec.model_dump_json().encode(), mode=0o600)

    async def undo(self) -> None:
        if self.claimed:
            await in_thread(rootfs.remove_tree, self.layout.bundle)


@dataclass(frozen=True)
class WriteNetworkFiles:
    """hosts, resolv.conf and hostname, which are mounted into the instance. Written in place, so that a change later
    is seen inside."""

    layout: Layout
    spec: InstanceSpec
    files: NetworkFiles

    def describe(self) -> str:
        return f"write hosts, resolv.conf and hostname of {self.spec.name}"

    async def do(self) -> None:
        self.layout.hosts.write_text(hosts_text(self.spec, self.files))
        self.layout.resolv_conf.write_text(resolv_conf_text(self.files))
        self.layout.hostname.write_text(f"{self.spec.hostname}\n")

    async def undo(self) -> None:
        for path in (self.layout.hosts, self.layout.resolv_conf, self.layout.hostname):
            path.unlink(missing_ok=True)


def hosts_text(spec: InstanceSpec, files: NetworkFiles) -> str:
    """hosts(5): the loopback, the instance itself, then what was given."""
    known = [
        ("127.0.0.1", ("localhost",)),
        ("::1", ("localhost", "ip6-localhost", "ip6-loopback")),
        *((address, (spec.hostname,)) for address in spec.network.addresses),
        *files.hosts,
    ]
    return "".join(f"{address}\t{' '.join(names)}\n" for address, names in known)


def resolv_conf_text(files: NetworkFiles) -> str:
    """resolv.conf(5)."""
    lines = [f"nameserver {address}" for address in files.nameservers]
    if files.search:
        lines.append(f"search {' '.join(files.search)}")
    return "".join(f"{line}\n" for line in [*lines, "options ndots:1"])


@dataclass(frozen=True)
class WriteBundle:
    """config.json. Users are looked up in the mounted root."""

    layout: Layout
    spec: InstanceSpec
    host: HostFacts

    def describe(self) -> str:
        return f"write {self.layout.config}: {' '.join(self.spec.args)}"

    async def do(self) -> None:
        for mount in self.spec.mounts:
            if mount.kind == "bind" and (mount.source is None or not mount.source.exists()):
                raise InputError(
                    f"{mount.source} does not exist",
                    place=Place(key=f"services.{self.spec.service}.mounts"),
                    hint="create it, or correct the path",
                )
        owner = users.find(self.spec.user, self.layout.rootfs, self.spec.service)
        document = oci_config.configuration(self.spec, self.layout, self.host, owner)
        write_file(self.layout.config, json.dumps(document).encode(), mode=0o600)

    async def undo(self) -> None:
        self.layout.config.unlink(missing_ok=True)


@dataclass(frozen=True)
class CreateContainer:
    """Have the monitor create the container. Its program does not run yet, unless `creating` says so."""

    layout: Layout
    spec: InstanceSpec
    host: HostFacts
    restarts: int = 0
    runtime: str = ""
    """What `whit ps` shows; empty: the container runtime itself."""
    creating: Callable[[], Sequence[str]] | None = None
    """The runtime's command, if it is not the usual one: see `Runtime.creating`. Asked for when it is needed: what is
    planned before may find out only then how the runtime is called."""

    def describe(self) -> str:
        return f"create container {self.layout.name} with {self.host.runtime.kind} under conmon"

    async def do(self) -> None:
        async with _moves_hastened(self.host):
            monitored = self.layout.monitored
            for path in conmon.left_by(monitored):
                path.unlink(missing_ok=True)
            logs.prepare(self.layout)
            try:
                usual = self.host.runtime.creating
                await conmon.create(monitored, self.creating() if self.creating else usual(self.layout.name))
            except CommandError as error:
                raise _explained(error, self.spec) from error
        label = self.runtime or self.host.runtime.label
        document = {"started_at": datetime.now(UTC).isoformat(), "restarts": self.restarts, "runtime": label}
        write_file(self.layout.start, json.dumps(document).encode())

    async def undo(self) -> None:
        await remove_container(self.layout, self.host)


@contextlib.asynccontextmanager
async def _moves_hastened(host: HostFacts) -> AsyncIterator[None]:
    """While the runtime is on its way to the moment at which it moves its container. It takes the kernel longer to be
    ready for that than the runtime takes to come there, so this begins before all else."""

    async def hasten() -> None:
        for _ in range(HASTY_MOVES):
            await in_thread(cgroup.hasten_moves, host.hierarchies)
            await asyncio.sleep(HASTY_PAUSE)

    hastening = asyncio.create_task(hasten())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        # Not waited for: what it has begun in a thread may take long, and changes nothing.
        hastening.cancel()


@dataclass(frozen=True)
class StartContainer:
    """Let the program run, unless nobody would see how it ends."""

    layout: Layout
    spec: InstanceSpec
    host: HostFacts

    def describe(self) -> str:
        return f"start container {self.layout.name}"

    async def do(self) -> None:
        if conmon.monitor_pid(self.layout.monitored) is None:
            raise Conflict(f"the monitor of {self.layout.name} has gone", hint="start it from the beginning")
        if gate.open_up(self.layout.gate):
            return
        try:
            await self.host.runtime.start(self.layout.name)
        except CommandError as error:
            raise _explained(error, self.spec) from error

    async def undo(self) -> None:
        await remove_container(self.layout, self.host)


@dataclass(frozen=True)
class StopContainer:
    """Ask the main process to end, wait for it, kill it. Nothing undoes a stop."""

    layout: Layout
    host: HostFacts
    signal: str
    grace: float
    """Seconds between the signal and SIGKILL."""

    def describe(self) -> str:
        return f"send {self.signal} to {self.layout.name}, and SIGKILL after {self.grace:g} s"

    async def do(self) -> None:
        """Raises TimedOut if not even SIGKILL ends it: then it hangs in the kernel."""
        main = monitor.main_process(self.layout)
        descriptor = None if main is None else processes.opened(main)
        if descriptor is None:
            return
        try:
            for name, patience in ((self.signal, self.grace), ("SIGKILL", KILL_PATIENCE)):
                if not await self.host.runtime.kill(self.layout.name, name):
                    return
                if await pidfd.wait_end(descriptor, patience):
                    return
        finally:
            os.close(descriptor)
        raise TimedOut(
            f"{self.layout.name} (pid {main}) did not end within {KILL_PATIENCE:g} s of SIGKILL",
            hint="a process that waits for a device or a network file system cannot be killed",
        )

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class Removal:
    """A step that takes something away, and is content if it has gone. It cannot be undone, only done again."""

    text: str
    action: Callable[[], Awaitable[None]]

    def describe(self) -> str:
        return self.text

    async def do(self) -> None:
        await self.action()

    async def undo(self) -> None:
        return


def _explained(error: CommandError, spec: InstanceSpec) -> Exception:
    """The person's mistake, if the runtime says that it cannot start this program; otherwise the error as it is."""
    if not NO_PROGRAM.search(error.stderr):
        return error
    return InputError(
        f"{spec.args[0]!r} cannot be started in image {spec.image.name}",
        place=Place(key=f"services.{spec.service}.command"),
        hint=f"is it in the image, and executable? The runtime said: {error.stderr}",
    )


async def remove_container(layout: Layout, host: HostFacts) -> None:
    """Kill and forget the container, its monitor and its cgroups, in whatever state they are."""
    # Whoever stands still answers no runtime, and does not die.
    await in_thread(freezer.thaw, host.hierarchies, layout.cgroup)
    monitor = conmon.monitor_pid(layout.monitored)
    if not layout.monitored.pid_file.exists():
        # It is still creating: what is half made, `delete` takes away then. Who is killed may just have begun another.
        for _ in range(KILL_ROUNDS):
            creating = conmon.creating(layout.monitored) | ({monitor} if monitor else set())
            if not creating:
                break
            for patience in (0, MONITOR_PATIENCE):
                for pid in creating:
                    await processes.end(pid, patience)
            monitor = conmon.monitor_pid(layout.monitored)
    await host.runtime.delete(layout.name)
    await processes.end(monitor, MONITOR_PATIENCE)
    await in_thread(cgroup.destroy, host.hierarchies, layout.cgroup)
