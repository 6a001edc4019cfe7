"""The cgroups of an instance, in every hierarchy that this machine has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from whit.runtime.layout import Layout

ROUNDS = 100
"""How often to look again for processes to kill, 20 ms apart."""


def roots() -> list[Path]:
    """Where cgroup file systems are mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return found


def groups(layout: Layout) -> list[Path]:
    """The instance's groups that exist."""
    return [path for root in roots() if (path := root / layout.cgroup.lstrip("/")).is_dir()]


def processes(layout: Layout) -> set[int]:
    """The pids in any of them."""
    return {pid for group in groups(layout) for directory in _tree(group) for pid in _pids(directory)}


def _tree(group: Path) -> Iterator[Path]:
    """The group and all below it, deepest first."""
    for directory, names, _ in os.walk(group, topdown=False):
        del names
        yield Path(directory)


def _pids(directory: Path) -> list[int]:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except (FileNotFoundError, OSError):
        return []


def killed_for_memory(layout: Layout) -> bool:
    """Whether the kernel killed a process of the instance because its memory limit was reached (cgroup v1 counts in
    `memory.oom_control`, v2 in `memory.events`)."""
    return any(_count(group / name) > 0 for group in groups(layout) for name in ("memory.events", "memory.oom_control"))


def _count(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError, OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0


async def remove(layout: Layout) -> None:
    """Kill what still runs in the groups and remove them, and the agent's own group if it was the last."""
    for _ in range(ROUNDS):
        for pid in processes(layout):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remaining = [group for group in groups(layout) if not _remove(group)]
        if not remaining:
            break
        await asyncio.sleep(0.02)
    for root in roots():
        with contextlib.suppress(OSError):
            (root / layout.settings.cgroup.lstrip("/")).rmdir()


def _remove(group: Path) -> bool:
    try:
        for directory in _tree(group):
            directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
