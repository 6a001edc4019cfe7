"""More processes in a running instance: health checks, and commands that a person runs, with or without a terminal.

The runtime's exec stays our child and ends with the status of the process inside. Every such process carries a mark in
its environment that its children inherit, so that nothing of it outlives the session, and a new agent finds what an
agent that was killed left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whit.base.errors import Conflict, NotFound
from whit.kernel import pidfd
from whit.kernel.files import write_file
from whit.model.instance import InstanceSpec
from whit.runtime.bundle import oci_config, users
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.supervision import monitor, processes
from whit.runtime.supervision.channels import Channels, Stream, pipes, set_size, terminal
from whit.tools import process

MARK = "WHIT_EXEC"
OUTPUT_LIMIT = 1 << 20
"""Bytes that `run` keeps."""
PATIENCE = 20.0
"""Seconds that the runtime has to begin the process that it adds, and to notice its end: on a busy machine, some."""
KILL_TRIES = 100
PID_FILE_POLL = 0.02
KILL_ROUNDS = 100
"""How often to look again for processes to kill, 10 ms apart."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""As in a shell: what `exec` ends with if the command could not be started."""


@dataclass(frozen=True)
class ExecRequest:
    """What to run; empty fields are as for the instance's own process."""

    args: Sequence[str]
    user: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    terminal: tuple[int, int] | None = None
    """Rows and columns of its terminal; None: pipes."""


Describe = Callable[[Layout, HostFacts, ExecRequest, str], Mapping[str, object]]
"""The `process` object of runtime-spec for a request, with the mark of the session in its environment."""


@dataclass(frozen=True)
class ExecResult:
    """`code` as the process ended (128 + signal), or None if it was killed because time ran out."""

    code: int | None
    output: bytes


async def run(
    layout: Layout, host: HostFacts, request: ExecRequest, *, timeout: float, described: Describe | None = None
) -> ExecResult:
    """Run a command to its end, without input, with both outputs in one.

    Raises:
        NotFound, Conflict: the instance does not run.
    """
    output = bytearray()
    async with session(layout, host, request, described) as running:
        await running.end_input()
        try:
            async with asyncio.timeout(timeout):
                async for _, data in running.output():
                    output += data[: OUTPUT_LIMIT - len(output)]
                return ExecResult(await running.wait(), bytes(output))
        except TimeoutError:
            return ExecResult(None, bytes(output))


@contextlib.asynccontextmanager
async def session(
    layout: Layout, host: HostFacts, request: ExecRequest, described: Describe | None = None
) -> AsyncIterator[Session]:
    """A running command to talk to. At the end of the context whatever is left of it is killed. `described` makes the
    runtime's description of the process, where that is not the command itself.

    Raises:
        NotFound, Conflict: the instance does not run.
        InputError: the image knows no such user.
    """
    if monitor.main_process(layout) is None and layout.bundle.exists():
        raise Conflict(f"instance {layout.name} does not run", hint="`whit logs` shows what it printed last")
    identity = secrets.token_hex(6)
    description, pid_file = layout.execs / f"{identity}.json", layout.execs / f"{identity}.pid"
    write_file(description, json.dumps((described or _described)(layout, host, request, identity)).encode(), mode=0o600)
    argv = host.runtime.exec_arguments(layout.name, description, pid_file)
    channels = terminal(*request.terminal) if request.terminal else pipes()
    running = Session(layout, host, identity, pid_file, channels)
    try:
        await running.start(argv)
        reaper = asyncio.create_task(running.reap())
        try:
            yield running
        finally:
            await running.kill()
            await reaper
    finally:
        channels.close()
        for path in layout.execs.glob(f"{identity}.*"):
            path.unlink(missing_ok=True)


async def end_all(layout: Layout, host: HostFacts) -> None:
    """End whatever an earlier agent ran."""
    await kill_marked(layout)
    for pid_file in layout.execs.glob("*.pid"):
        await host.runtime.end_added(layout.name, pid_file)


async def kill_marked(layout: Layout, identity: str = "") -> None:
    """Kill what `exec` added: of one session, or whatever there is of all that went before."""
    mark = f"{MARK}={identity}".encode()
    for _ in range(KILL_ROUNDS):
        found = [pid for pid in processes.of(layout) if _has_mark(pid, mark)]
        if not found:
            return
        for pid in found:
            _kill(pid, mark)
        await asyncio.sleep(0.01)


def _kill(pid: int, mark: bytes) -> None:
    if (descriptor := processes.opened(pid)) is None:
        return
    try:
        # Looked at again: only now is it certain that the pid is not another's.
        if _has_mark(pid, mark):
            pidfd.send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return any(word.startswith(mark) for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _described(layout: Layout, host: HostFacts, request: ExecRequest, identity: str) -> dict[str, object]:
    spec = read_spec(layout)
    owner = users.find(request.user or spec.user, layout.rootfs, spec.service)
    env = {**spec.env, **request.env, MARK: identity}
    changed = spec.model_copy(update={"env": env, "working_dir": request.cwd or spec.working_dir})
    return oci_config.process(changed, host, owner, args=request.args, terminal=request.terminal is not None)


def read_spec(layout: Layout) -> InstanceSpec:
    """What the instance was started from. Raises NotFound."""
    try:
        return InstanceSpec.model_validate_json(layout.spec.read_text())
    except FileNotFoundError:
        raise NotFound(f"there is no instance {layout.name}", hint="`whit ps` lists them") from None


class Session:
    """One command that runs in an instance."""

    def __init__(self, layout: Layout, host: HostFacts, identity: str, pid_file: Path, channels: Channels) -> None:
        self._layout = layout
        self._runtime = host.runtime
        self._identity = identity
        self._pid_file = pid_file
        self._channels = channels
        self._process: asyncio.subprocess.Process | None = None
        self._ended = asyncio.Event()

    async def start(self, argv: Sequence[str]) -> None:
        stdin, stdout, stderr = self._channels.inside
        self._process = await process.attach(argv, stdin=stdin, stdout=stdout, stderr=stderr)
        await self._channels.connect()

    async def reap(self) -> None:
        """Wait for the command. The runtime waits for all who hold the output open: what it left behind is ended."""
        assert self._process is not None
        waiting = asyncio.create_task(self._process.wait())
        while not self._pid_file.exists() and not waiting.done():
            await asyncio.wait([waiting], timeout=PID_FILE_POLL)
        if (inner := self._inner()) is not None:
            try:
                await pidfd.wait_end(inner)
            finally:
                os.close(inner)
        await self._end_inside()
        await waiting
        await self._channels.finish()
        self._ended.set()

    async def _end_inside(self) -> None:
        await kill_marked(self._layout, self._identity)
        await self._runtime.end_added(self._layout.name, self._pid_file)

    def _inner(self) -> int | None:
        try:
            return processes.opened(int(self._pid_file.read_text()))
        except (FileNotFoundError, ValueError):
            return None

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it does not read. Input after its end goes nowhere."""
        await self._channels.write(data)

    async def end_input(self) -> None:
        """Close its input; on a terminal, type the end-of-file character."""
        await self._channels.end_input()

    def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """What it prints, until it has ended and all of it was read. A terminal has one stream only."""
        return self._channels.output()

    def resize(self, rows: int, columns: int) -> None:
        """Tell it the new size of its terminal. Without one nothing happens."""
        if not self._channels.resize(rows, columns):
            return
        # runc would copy the size on to the terminal inside when told so by SIGWINCH, crun 1.8 would not.
        with contextlib.suppress(OSError, ValueError):
            inside = Path(f"/proc/{int(self._pid_file.read_text())}/fd/0")
            if str(inside.readlink()).startswith("/dev/pts/"):
                descriptor = os.open(inside, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    set_size(descriptor, rows, columns)
                finally:
                    os.close(descriptor)

    async def wait(self) -> int:
        """Its exit status, 128 + signal if a signal ended it; 126 or 127 if it could not be started."""
        await self._ended.wait()
        assert self._process is not None
        code = self._process.returncode or 0
        if self._pid_file.exists():
            return code if code >= 0 else 128 - code
        missing = re.search(rb"not found|no such file", self._channels.seen, re.IGNORECASE)
        return NOT_FOUND if missing else NOT_EXECUTABLE

    async def kill(self) -> None:
        """End it and all it started. What it printed and nobody has read is lost."""
        assert self._process is not None
        self._channels.abandon()
        if self._process.returncode is not None:
            return
        for _ in range(KILL_TRIES):
            # It may only just be beginning inside.
            await self._end_inside()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), PATIENCE / KILL_TRIES)
                return
        self._process.kill()
        await self._process.wait()
