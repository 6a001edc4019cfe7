"""The steps from an instance's spec to its running container, each with its undo, and the removal of each."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from whit.base.errors import Conflict, InputError, Place
from whit.model.instance import InstanceSpec
from whit.runtime import bundle, cgroup, logs, processes, rootfs, users
from whit.runtime.host import HostFacts
from whit.runtime.layout import Layout
from whit.tools import conmon

MONITOR_PATIENCE = 5.0
"""Seconds that a monitor has to end after its container."""


@dataclass(frozen=True)
class NetworkFiles:
    """What the instance knows of names: hosts as (address, names), the resolver and the domains it searches."""

    hosts: Sequence[tuple[str, Sequence[str]]] = ()
    nameserver: str = ""
    search: Sequence[str] = ()


@dataclass(frozen=True)
class ClaimName:
    """Make the bundle's directory with the spec in it: from now on the instance exists for every agent that comes."""

    layout: Layout
    spec: InstanceSpec

    def describe(self) -> str:
        return f"make {self.layout.bundle} for {self.spec.name}"

    async def do(self) -> None:
        self.layout.settings.instances_dir.mkdir(parents=True, exist_ok=True)
        try:
            self.layout.bundle.mkdir()
        except FileExistsError:
            raise Conflict(f"instance {self.spec.name} exists already", hint="remove it first") from None
        self.layout.exits.mkdir()
        self.layout.execs.mkdir()
        replace_text(self.layout.spec, self.spec.model_dump_json())

    async def undo(self) -> None:
        await asyncio.to_thread(rootfs.remove_tree, self.layout.bundle)


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
        (spec.network.address, (spec.hostname,)),
        *files.hosts,
    ]
    return "".join(f"{address}\t{' '.join(names)}\n" for address, names in known)


def resolv_conf_text(files: NetworkFiles) -> str:
    """resolv.conf(5)."""
    lines = [f"nameserver {files.nameserver}"] if files.nameserver else []
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
        document = bundle.configuration(self.spec, self.layout, self.host, owner)
        self.layout.config.write_text(json.dumps(document))

    async def undo(self) -> None:
        self.layout.config.unlink(missing_ok=True)


@dataclass(frozen=True)
class CreateContainer:
    """Have the monitor create the container; its program does not run yet."""

    layout: Layout
    host: HostFacts
    restarts: int = 0

    def describe(self) -> str:
        return f"create container {self.layout.name} with {self.host.runtime.kind} under conmon"

    async def do(self) -> None:
        monitored = self.layout.monitored
        (monitored.exit_dir / self.layout.name).unlink(missing_ok=True)
        (monitored.persist_dir / "oom").unlink(missing_ok=True)
        (monitored.persist_dir / "exit").unlink(missing_ok=True)
        logs.prepare(self.layout)
        await conmon.create(monitored, self.host.runtime)
        runtime = f"{self.host.runtime.kind} {self.host.runtime.version}"
        document = {"started_at": datetime.now(UTC).isoformat(), "restarts": self.restarts, "runtime": runtime}
        replace_text(self.layout.start, json.dumps(document))

    async def undo(self) -> None:
        await remove_container(self.layout, self.host)


@dataclass(frozen=True)
class StartContainer:
    layout: Layout
    host: HostFacts

    def describe(self) -> str:
        return f"start container {self.layout.name}"

    async def do(self) -> None:
        await self.host.runtime.start(self.layout.name)

    async def undo(self) -> None:
        await remove_container(self.layout, self.host)


async def remove_container(layout: Layout, host: HostFacts) -> None:
    """Kill and forget the container, its monitor and its cgroups, in whatever state they are."""
    monitor = conmon.monitor_pid(layout.monitored)
    if not layout.monitored.pid_file.exists():
        # It is still creating. Its runtime child dies with it, and leaves what `delete` then takes away.
        await processes.end(monitor, patience=0)
    await host.runtime.delete(layout.name)
    await processes.end(monitor, MONITOR_PATIENCE)
    await cgroup.remove(layout)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)
