"""A microVM in a file: written when its instance falls asleep, read once when it wakes.

The guest first lets nothing of the instance run and writes out what its file systems hold; then QEMU writes the machine
to a descriptor that it is given, and ends. The way back gives the guest the time and entropy of now before anything of
the instance runs. A file is used once: from then on the disk is ahead of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from whit.base.errors import NotFound, Permanent, TimedOut
from whit.kernel import pidfd
from whit.kernel.thread import in_thread
from whit.runtime.layout import Layout
from whit.runtime.microvm import records
from whit.runtime.microvm.control import Frame, Line, line
from whit.runtime.oci import OciDriver
from whit.runtime.supervision import processes
from whit.tools import qemu, qmp

ENTROPY = 64
"""Bytes that a restored guest gets; its generator's key has 32."""
PATIENCE = 120.0
"""Seconds for writing or reading a machine."""
START = 30.0
"""Seconds for a machine to begin, or to end: on a busy node that may take long, and to give up costs as much again."""
_CONTROL = "run/qmp.sock"
_PIECE = 4 << 20
_PAUSE = 0.002
_DONE = struct.Struct("=I")
_MAC = re.compile(r"\bmac=[0-9a-f:]+")


@dataclass(frozen=True)
class Facts:
    """What must be as it was for a file to be used."""

    size: int
    checksum: int
    machine: str
    """QEMU's version and the digest of its command line: it reads what the same machine wrote."""


@dataclass(frozen=True)
class Save:
    """Write the machine to its file and end it."""

    layout: Layout
    containers: OciDriver
    runtime: str

    def describe(self) -> str:
        return f"write the virtual machine of {self.layout.name} to {self.layout.snapshot}, and end it"

    async def do(self) -> None:
        """Raises WhitError; the machine goes on then."""
        process = _process_of(self.containers, self.layout.name)
        descriptor = processes.opened(process)
        try:
            async with line(process) as guest, qmp.connected(_control_of(process), timeout=PATIENCE) as machine:
                await self._write(guest, machine)
                await machine.quit()
                # Who hangs up earlier would be taken for a command that was given up.
                if descriptor is not None and not await pidfd.wait_end(descriptor, START):
                    raise TimedOut(f"the machine of {self.layout.name} did not end")
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def _write(self, guest: Line, machine: qmp.Qmp) -> None:
        try:
            # Whatever was said before the second one has arrived when that is answered.
            for _ in range(2):
                await guest.ask(Frame.PAUSE)
            await machine.execute("stop")
            file = await in_thread(_created, self.layout.snapshot)
            try:
                await machine.save(file)
            finally:
                os.close(file)
            size, checksum = await in_thread(_summed, self.layout.snapshot)
            facts = Facts(size, checksum, _machine(self.layout, self.runtime))
            self.layout.snapshot_facts.write_text(json.dumps(asdict(facts)))
        except BaseException:
            forget(self.layout)
            with contextlib.suppress(NotFound, Permanent, TimedOut):
                await machine.execute("cont")
                await guest.ask(Frame.RESUME, records.encoded(["time="]))
            raise

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class Restore:
    """Fill a machine that waits for it from its file, and let the guest go on."""

    layout: Layout
    containers: OciDriver
    runtime: str
    identity: Callable[[], Sequence[str]] = tuple
    """What it is told of who it is now, if it was another (records.of_twin)."""

    def describe(self) -> str:
        return f"restore the virtual machine of {self.layout.name} from {self.layout.snapshot}"

    async def do(self) -> None:
        """Raises WhitError if the file is not what was written, or not for this machine."""
        process = _process_of(self.containers, self.layout.name)
        file = os.open(self.layout.snapshot, os.O_RDONLY | os.O_CLOEXEC)
        try:
            checking = asyncio.ensure_future(in_thread(_check, self.layout, self.runtime))
            try:
                async with qmp.connected(await _ready(process), timeout=PATIENCE) as machine:
                    await machine.load(file)
                    await checking
                    forget(self.layout)
                    await machine.execute("cont")
            finally:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)
        finally:
            os.close(file)
        await self._tell(process)

    async def _tell(self, process: int) -> None:
        told = [*records.of_restored(secrets.token_bytes(ENTROPY), time.time_ns()), *self.identity()]
        async with line(process, patience=START) as guest:
            (done,) = _DONE.unpack(await guest.ask(Frame.RESUME, records.encoded(told)))
        if not done:
            raise Permanent(f"the guest of {self.layout.name} could not take the time, entropy and identity of now")

    async def undo(self) -> None:
        forget(self.layout)


def forget(layout: Layout) -> None:
    layout.snapshot_facts.unlink(missing_ok=True)
    layout.snapshot.unlink(missing_ok=True)


def _process_of(containers: OciDriver, name: str) -> int:
    process = containers.pid_of(name)
    if process is None:
        raise NotFound(f"the machine of {name} does not run")
    return process


def _control_of(process: int) -> Path:
    return Path(f"/proc/{process}/root") / _CONTROL


async def _ready(process: int) -> Path:
    """The machine makes it before QEMU is there to answer. It is waited for as long as the machine lives."""
    socket, until = _control_of(process), time.monotonic() + START
    while not socket.exists() and time.monotonic() < until and processes.lives(process):  # noqa: ASYNC110  untold
        await asyncio.sleep(_PAUSE)
    return socket


def _created(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _summed(path: Path) -> tuple[int, int]:
    """Length and CRC-32: against faults of a disk, not against who may write there, who is root."""
    size = checksum = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return size, checksum


def _machine(layout: Layout, runtime: str) -> str:
    """All must be as it was but how it is started, and whose it is: its user, its name and its link's address."""
    words = json.loads(layout.config.read_text())["process"]["args"][3:]
    same = [_MAC.sub("mac=", word) for word in words if word not in (*qemu.INCOMING, layout.name)]
    return f"{runtime} {zlib.crc32(json.dumps(same).encode()):08x}"


def _check(layout: Layout, runtime: str) -> None:
    try:
        facts = Facts(**json.loads(layout.snapshot_facts.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise Permanent(f"nothing is known of the file {layout.snapshot}") from error
    if facts.machine != _machine(layout, runtime):
        raise Permanent(f"{layout.snapshot} is of another machine ({facts.machine})")
    if (facts.size, facts.checksum) != _summed(layout.snapshot):
        raise Permanent(f"{layout.snapshot} is not what was written")
