"""The steps that are a microVM's own: its tap, and the bundle of the container that it runs in.

Its root, volumes, network files, cgroup, monitor and log are those of every instance (runtime/operations.py).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from whit.base.errors import InputError, NotFound, Place
from whit.datapath.splice import splice
from whit.kernel.files import write_file
from whit.kernel.network import netns, tap
from whit.kernel.thread import in_thread
from whit.model.instance import InstanceSpec
from whit.runtime import programs
from whit.runtime.bundle import oci_config, users
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.microvm import records
from whit.runtime.microvm.bundle import DISK, TAP, Facts, Guest, How, configuration, user_of
from whit.runtime.microvm.control import Frame, Line, line
from whit.runtime.microvm.places import placed
from whit.runtime.oci import OciDriver
from whit.tools import mke2fs, qemu

GuestSource = Callable[[], Awaitable[Guest]]
"""Has the kernel and the first root made, the first time that they are wanted."""

_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run"}
DISK_SIZE = 8 << 30
"""Bytes of a root of its own; what is not written takes no room."""
_START = 10.0
"""Seconds for a machine that was just started to listen."""


@dataclass(frozen=True)
class ConnectTap:
    """A tap in the instance's namespace, behind the instance's link. Both go with the namespace."""

    layout: Layout
    spec: InstanceSpec

    def describe(self) -> str:
        return f"connect the virtual machine of {self.spec.name} by a tap"

    async def do(self) -> None:
        await in_thread(netns.call_in, self.layout.netns, self._connect)

    def _connect(self) -> None:
        tap.create(TAP, owner=user_of(self.spec))
        with contextlib.suppress(NotFound):  # it is connected to nothing
            splice(records.LINK, TAP)

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class WriteMachine:
    """config.json of the machine's container, and what the guest is told. Users are looked up in the mounted root."""

    layout: Layout
    spec: InstanceSpec
    host: HostFacts
    guests: GuestSource
    how: How = "run"

    def describe(self) -> str:
        return f"write {self.layout.config}: a virtual machine for {' '.join(self.spec.args)}"

    async def do(self) -> None:
        guest = await self.guests()
        facts = Facts(programs.path("machine"), await qemu.accelerator(), await qemu.version())
        await in_thread(self._write, guest, facts)

    def _write(self, guest: Guest, facts: Facts) -> None:
        for mount in self.spec.mounts:
            if mount.kind == "bind" and (mount.source is None or not mount.source.exists()):
                raise InputError(
                    f"{mount.source} does not exist",
                    place=Place(key=f"services.{self.spec.service}.mounts"),
                    hint="create it, or correct the path",
                )
        owner = users.find(self.spec.user, self.layout.rootfs, self.spec.service)
        mounts = placed(self.layout.rootfs, oci_config.mounts(self.spec, self.layout))
        link = records.instance_link(self.spec, self.layout)
        self._make_root()
        self.layout.guest_memory.write_text("")
        for name, content in (
            ("guest.setup", records.of_guest(self.spec, self.layout, mounts, DISK)),
            ("guest.process", records.of_process(oci_config.process(self.spec, self.host, owner))),
        ):
            write_file(self.layout.bundle / name, records.encoded(content), mode=0o600)
        document = configuration(self.spec, self.layout, self.host, facts, guest, link, mounts, how=self.how)
        write_file(self.layout.config, json.dumps(document).encode(), mode=0o600)

    def _make_root(self) -> None:
        """Of the container: empty, with the links that a merged /usr has."""
        root = self.layout.bundle / "machine"
        (root / "var").mkdir(parents=True, exist_ok=True)
        for name, target in _LINKS.items():
            if not (root / name).is_symlink():
                (root / name).symlink_to(target)

    async def undo(self) -> None:
        for path in (self.layout.config, self.layout.bundle / "guest.setup", self.layout.bundle / "guest.process"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class MakeDisk:
    """The root of a machine that shares none: a copy of the instance's, in a file of its own."""

    layout: Layout
    spec: InstanceSpec

    def describe(self) -> str:
        return f"write the root of {self.spec.name} to {self.layout.root_disk}"

    async def do(self) -> None:
        """Raises Unavailable if e2fsprogs is not installed."""
        await mke2fs.write_tree(self.layout.root_disk, self.layout.rootfs, size=DISK_SIZE)
        self.layout.root_disk.chmod(0o600)
        os.chown(self.layout.root_disk, user_of(self.spec), user_of(self.spec))

    async def undo(self) -> None:
        self.layout.root_disk.unlink(missing_ok=True)


@dataclass(frozen=True)
class WaitForGuest:
    """Until a machine that waits has booted."""

    containers: OciDriver
    name: str

    def describe(self) -> str:
        return f"wait until the guest of {self.name} has booted"

    async def do(self) -> None:
        """Raises NotFound, TimedOut."""
        async with line_to(self.containers, self.name, patience=_START) as line:
            await line.ask(Frame.LISTENERS)

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class BeginProcess:
    """Have the instance's process started in a machine that waits."""

    containers: OciDriver
    name: str

    def describe(self) -> str:
        return f"start the process of {self.name} in its guest"

    async def do(self) -> None:
        """Raises NotFound if the machine has ended."""
        async with line_to(self.containers, self.name) as line:
            await line.ask(Frame.BEGIN)

    async def undo(self) -> None:
        return


def line_to(containers: OciDriver, name: str, *, patience: float = 0.0) -> AbstractAsyncContextManager[Line]:
    """Waits for `patience` seconds until it listens. Raises NotFound if it has no machine that runs."""
    process = containers.pid_of(name)
    if process is None:
        raise NotFound(f"the machine of {name} does not run")
    return line(process, patience=patience)
