"""The processes of an instance that are not our children: who they are, and how they are ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from whit.base.errors import NotFound
from whit.kernel import cgroup, pidfd
from whit.runtime.layout import Layout


def of(layout: Layout) -> set[int]:
    """Every pid in the instance's cgroups."""
    return cgroup.pids(cgroup.find(), layout.cgroup)


def opened(pid: int) -> int | None:
    """A pidfd, for the caller to close; None if there is no such process."""
    try:
        return pidfd.open_process(pid)
    except NotFound:
        return None


def lives(pid: int) -> bool:
    """Whether there is such a process. If nobody has taken note of its end yet, it has ended all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def end(pid: int | None, patience: float) -> None:
    """Wait `patience` seconds for the process to end by itself, then kill it."""
    if pid is None or (descriptor := opened(pid)) is None:
        return
    try:
        if not await pidfd.wait_end(descriptor, patience):
            pidfd.send_signal(descriptor, signal.SIGKILL)
            await pidfd.wait_end(descriptor, patience)
    finally:
        os.close(descriptor)
