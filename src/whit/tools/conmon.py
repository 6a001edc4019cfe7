"""conmon, the small monitor that keeps one container while no agent lives: its output, its exit status.

Owns conmon's command line, its sync pipe and the files it leaves. The formats are those of conmon(8) 2.0 and later:
the sync pipe carries one line of JSON, the exit file the status as decimal text (128 + signal if a signal ended it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CommandError, TimedOut
from whit.tools import process


@dataclass(frozen=True)
class Monitored:
    """A container to be, and where its monitor writes.

    conmon binds its attach socket below /proc/self/fd, so the bundle's path may be longer than a socket's name can be.
    """

    name: str
    bundle: Path
    exit_dir: Path
    """`<exit_dir>/<name>` holds the exit status, once, after the log is complete. conmon renames it into place."""
    persist_dir: Path
    """Gets a file `oom` if the kernel killed for memory."""
    log: Path
    log_limit: int
    """Bytes; conmon starts the file anew there, and the content up to then is lost unless another name links to it."""

    @property
    def monitor_pid_file(self) -> Path:
        return self.bundle / "conmon.pid"

    @property
    def pid_file(self) -> Path:
        return self.bundle / "init.pid"


def arguments(container: Monitored, creating: Sequence[str]) -> list[str]:
    """The command line that creates the container and monitors it, by the command of `Runtime.creating`."""
    program, *words = creating
    return [
        "conmon",
        *("--api-version", "1"),
        *("--cid", container.name),
        *("--cuuid", container.name),
        *("--name", container.name),
        *("--bundle", str(container.bundle)),
        *("--runtime", program),
        *(word for one in words for word in ("--runtime-arg", one)),
        *("--conmon-pidfile", str(container.monitor_pid_file)),
        *("--container-pidfile", str(container.pid_file)),
        *("--exit-dir", str(container.exit_dir)),
        *("--persist-dir", str(container.persist_dir)),
        *("--log-path", f"k8s-file:{container.log}"),
        *("--log-size-max", str(container.log_limit)),
        *("--log-level", "error"),
        "--full-attach",
    ]


async def create(container: Monitored, creating: Sequence[str], *, timeout: float = 60.0) -> int:
    """Start the monitor, which has the runtime create the container; the pid of the container's first process.

    Raises:
        CommandError: with what the runtime printed.
        TimedOut: no answer came.
    """
    argv = arguments(container, creating)
    reading, writing = os.pipe()
    try:
        try:
            # conmon writes a file `oom` into its working directory too.
            env, cwd = {"_OCI_SYNCPIPE": str(writing)}, str(container.persist_dir)
            await process.run(argv, pass_fds=[writing], env=env, cwd=cwd, timeout=timeout)
        finally:
            os.close(writing)
        line = await _first_line(reading, timeout)
    except TimeoutError:
        raise TimedOut(f"conmon did not say within {timeout:g} s that {container.name} was created") from None
    finally:
        os.close(reading)
    return _created_pid(argv, line)


async def _first_line(descriptor: int, timeout: float) -> bytes:
    """The first line of a pipe, without blocking the event loop; what there is at its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            return await asyncio.wait_for(reader.readline(), timeout)
        finally:
            transport.close()


def _created_pid(argv: list[str], line: bytes) -> int:
    try:
        answer = json.loads(line)
        pid = int(answer["data"])
    except (ValueError, KeyError, TypeError):
        raise CommandError(argv, 1, f"the monitor ended without an answer ({line[:200]!r})") from None
    if pid <= 0:
        raise CommandError(argv, 1, str(answer.get("message", "")))
    return pid


def exit_status(container: Monitored) -> int | None:
    """What the monitor wrote; None while it has not, or if it could not learn it."""
    try:
        status = int((container.exit_dir / container.name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return status if 0 <= status <= 255 else None


def exit_time(container: Monitored) -> float | None:
    """Seconds since 1970 at which the exit status was written."""
    with contextlib.suppress(FileNotFoundError):
        return (container.exit_dir / container.name).stat().st_mtime
    return None


def memory_ran_out(container: Monitored) -> bool:
    """Whether the monitor was told by the kernel that the memory limit was hit for good."""
    return (container.persist_dir / "oom").exists()


def left_by(container: Monitored) -> list[Path]:
    """The files of an earlier monitor of the same container: they must go before the next one starts."""
    return [
        container.exit_dir / container.name,
        container.persist_dir / "exit",
        container.persist_dir / "oom",
        container.monitor_pid_file,
        container.pid_file,
    ]


def monitor_pid(container: Monitored) -> int | None:
    """The monitor's pid, if it lives. Pids are reused: its command line must name this container's bundle.

    The pid file is written a moment after the monitor began, so without it every process is looked at.
    """
    try:
        pid = int(container.monitor_pid_file.read_text())
    except (FileNotFoundError, ValueError):
        found = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        return next((pid for pid in found if _monitors(pid, container)), None)
    return pid if _monitors(pid, container) else None


def creating(container: Monitored) -> set[int]:
    """Who is about to create the container, whatever it is by now: a child of the agent that has not become conmon yet,
    conmon, or the runtime. Each works in the monitor's directory, and, other than a person there, at no terminal."""
    place = str(container.persist_dir)
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if _works_in(path, place)}


def _works_in(process: Path, place: str) -> bool:
    try:
        terminal = (process / "stat").read_text().rpartition(") ")[2].split()[4]
        return str((process / "cwd").readlink()) == place and terminal == "0"
    except OSError:
        return False


def _monitors(pid: int, container: Monitored) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words[0].endswith(b"conmon") and str(container.bundle).encode() in words
