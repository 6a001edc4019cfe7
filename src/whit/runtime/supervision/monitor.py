"""How an instance ended: waits for it and reads what its monitor wrote.

Level-triggered: it may be asked before, during and after the end, by any number of agents one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from whit.kernel import cgroup, cgroup_usage, pidfd
from whit.model.instance import ExitRecord
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.supervision import processes
from whit.tools import conmon

PATIENCE = 10.0
"""Seconds that a monitor has to write the exit status after the main process ended; it writes the log out first."""


async def exit_of(layout: Layout, host: HostFacts) -> ExitRecord:
    """Wait for the instance's end.

    If the monitor is killed, output and exit status are lost: what still runs of the instance is ended, and the record
    has no code but the cause.
    """
    monitor = conmon.monitor_pid(layout.monitored)
    with _watched(monitor) as monitor_fd, _watched(main_process(layout)) as main_fd:
        lost = await _lost(layout, monitor, monitor_fd, main_fd)
        if lost and main_fd is not None and not await pidfd.wait_end(main_fd, 0):
            await host.runtime.kill(layout.name, "SIGKILL")
            await pidfd.wait_end(main_fd, PATIENCE)
    return record(layout, lost)


def record(layout: Layout, cause: str = "") -> ExitRecord:
    """What is on disk of an instance that has ended."""
    written = conmon.exit_time(layout.monitored)
    at = datetime.now(UTC) if written is None else datetime.fromtimestamp(written, UTC)
    code = conmon.exit_status(layout.monitored)
    out_of_memory = killed_for_memory(layout)
    if code is not None:
        cause = "the kernel killed it for memory" if out_of_memory else _cause_of(code)
    return ExitRecord(code=code, oom_killed=out_of_memory, at=at, cause=cause)


def killed_for_memory(layout: Layout) -> bool:
    """The kernel's count, or the monitor's note once the cgroups have gone; of a microVM also its own kernel's."""
    with contextlib.suppress(FileNotFoundError):
        if layout.guest_memory.stat().st_size:
            return True
    hierarchies = cgroup.find()
    if hierarchies.directories(layout.cgroup):
        return cgroup_usage.memory_events(hierarchies, layout.cgroup).oom_kills > 0
    return conmon.memory_ran_out(layout.monitored)


def main_process(layout: Layout) -> int | None:
    """The pid of the instance's first process, if it lives. Pids are reused: it must be in the instance's cgroup."""
    try:
        pid = int(layout.monitored.pid_file.read_text())
        groups = Path(f"/proc/{pid}/cgroup").read_text().split()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if processes.lives(pid) and any(group.endswith(f":{layout.cgroup}") for group in groups) else None


async def _lost(layout: Layout, monitor: int | None, monitor_fd: int | None, main_fd: int | None) -> str:
    """Wait until the monitor has written the exit status, or never will: then why."""
    if monitor_fd is not None:
        if main_fd is not None:
            await _first(monitor_fd, main_fd)
            if not await pidfd.wait_end(monitor_fd, PATIENCE):
                return f"its monitor (conmon, pid {monitor}) did not write the exit status within {PATIENCE:g} s"
        else:
            await pidfd.wait_end(monitor_fd)
    if (layout.exits / layout.name).exists():
        return ""
    return "its monitor (conmon) was killed, and with it the exit status was lost"


async def _first(*descriptors: int) -> None:
    waiting = [asyncio.ensure_future(pidfd.wait_end(descriptor)) for descriptor in descriptors]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.contextmanager
def _watched(pid: int | None) -> Iterator[int | None]:
    descriptor = None if pid is None else processes.opened(pid)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _cause_of(code: int) -> str:
    return f"signal {code - 128}" if code > 128 else f"exit status {code}"
