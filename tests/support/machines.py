"""What tests of declared machines share: images out of busybox, machines linked from a text, and booted ones that are
spoken to through their port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whit.base.settings import Settings
from whit.control.machines.settling import settle_machine
from whit.formats.machine.document import load_machine
from whit.image.forms import microvm
from whit.image.machines import first_boot
from whit.image.machines.link import LinkedMachine
from whit.image.store.images import ImageStore
from whit.model.first_boot import FirstBootSpec
from whit.runtime import programs
from whit.tools import process, qemu, qmp

STORE = Path("/var/cache/whit/test-machines")
"""Kept between runs: crun and its libraries come from Debian's mirror."""
PATIENCE = 240.0


def image_store() -> ImageStore:
    return ImageStore(Settings(id="tmach", state_root=STORE))


def busybox_root(directory: Path) -> Path:
    """A directory with busybox under all its names, and two users."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed; requirements/debian-test.txt names it"
    for name in ("bin", "etc"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, directory / "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in set(names) - {"busybox"}:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\napp:x:1001:\n")
    return directory


@asynccontextmanager
async def linked(text: str, directory: Path) -> AsyncIterator[LinkedMachine]:
    """The machine that a text describes; paths in it start at `directory`."""
    programs.build()
    file = directory / "machine.yml"
    file.write_text(text)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        yield await settle_machine(load_machine(file), image_store(), lambda _: None, Path(scratch))


@dataclass
class Guest:
    """A machine that runs, and what it has told so far."""

    console_file: Path
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    running: asyncio.subprocess.Process
    qmp: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def console(self) -> str:
        return self.console_file.read_text(errors="replace")

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event that is wanted. All that come before it are kept in `events`."""
        try:
            async with asyncio.timeout(PATIENCE):
                while line := await self.reader.readline():
                    self.events.append(json.loads(line))
                    if wanted(self.events[-1]):
                        return self.events[-1]
        except TimeoutError:
            pass
        raise AssertionError(f"it was not told; told was {self.events[-5:]}, and printed\n{self.console[-3000:]}")

    async def event(self, kind: str, name: str = "") -> dict[str, Any]:
        return await self.until(lambda one: one["event"] == kind and name in ("", one.get("name")))

    async def tell(self, command: str) -> None:
        self.writer.write(f"{command}\n".encode())
        await self.writer.drain()

    async def states(self) -> dict[str, dict[str, Any]]:
        await self.tell("status")
        already = len(self.events)
        await self.event("end")
        return {one["name"]: one for one in self.events[already:] if one["event"] == "status"}

    async def press(self) -> None:
        """The power button."""
        async with qmp.connected(self.qmp) as control:
            await control.execute("system_powerdown")

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.running.wait()


@asynccontextmanager
async def booted(
    machine: LinkedMachine, directory: Path, *, first: FirstBootSpec | None = None, others: Sequence[qemu.Disk] = ()
) -> AsyncIterator[Guest]:
    """The machine in QEMU, told `first` at its first boot. It is killed at the end, if it still runs."""
    made = Path(tempfile.mkdtemp(dir=directory, prefix="booted-"))
    await microvm.write(machine.bootable(), machine.kernel.linux, made)
    kernel, initrd = made / "kernel", made / "initrd"
    port, console = made / "port", made / "console"
    (directory / "first").write_bytes(first_boot.disk(first) if first else b"")
    disks = (*([qemu.Disk(directory / "first", first_boot.SERIAL, read_only=True)] if first else []), *others)
    ports = (qemu.Port("whit.machine", port),)
    described = qemu.Machine(kernel, initrd, machine.cmdline, console, ports=ports, disks=disks, qmp=made / "qmp")
    argv = qemu.command(described, await qemu.accelerator(), await qemu.version())
    with (directory / "errors").open("wb") as errors:
        running = await process.attach(argv, stdin=errors.fileno(), stdout=errors.fileno(), stderr=errors.fileno())
    try:
        reader, writer = await _connected(port, running, directory / "errors")
        try:
            yield Guest(console, reader, writer, running, made / "qmp")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    finally:
        if running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                running.kill()
            await running.wait()


async def _connected(
    port: Path, running: asyncio.subprocess.Process, errors: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """QEMU makes the socket a moment after it began, and listens a moment later."""
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(port)
        assert running.returncode is None, errors.read_text()
        await asyncio.sleep(0.02)
