"""What a control group consumes, and whether the kernel killed a process of it for memory; the same on v1 and v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whit.kernel.cgroup import Hierarchies, tree


@dataclass(frozen=True)
class Usage:
    """None where no controller counts it."""

    memory: int | None
    """Bytes that cannot be given back without swapping: page cache not used for a while does not count."""
    cpu: float | None
    """Seconds of processor time since the group was made."""
    processes: int | None
    """Processes and threads."""


@dataclass(frozen=True)
class MemoryEvents:
    oom_kills: int
    """Processes of the group and those below it that the kernel killed because memory ran out."""


def usage(hierarchies: Hierarchies, group: str) -> Usage:
    return Usage(_memory(hierarchies, group), _cpu(hierarchies, group), _processes(hierarchies, group))


def _memory(hierarchies: Hierarchies, group: str) -> int | None:
    directory = hierarchies.directory("memory", group)
    if directory is None:
        return None
    v1 = "memory" in hierarchies.controllers
    total = _number(directory / ("memory.usage_in_bytes" if v1 else "memory.current"))
    unused = _table(directory / "memory.stat").get("total_inactive_file" if v1 else "inactive_file", 0)
    return None if total is None else max(total - unused, 0)


def _cpu(hierarchies: Hierarchies, group: str) -> float | None:
    if "cpuacct" in hierarchies.controllers:
        directory = hierarchies.directory("cpuacct", group)
        nanoseconds = None if directory is None else _number(directory / "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9
    if hierarchies.unified is None:
        return None
    # cpu.stat is there without the controller, too.
    microseconds = _table(hierarchies.unified / group.lstrip("/") / "cpu.stat").get("usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _processes(hierarchies: Hierarchies, group: str) -> int | None:
    directory = hierarchies.directory("pids", group)
    return None if directory is None else _number(directory / "pids.current")


def memory_events(hierarchies: Hierarchies, group: str) -> MemoryEvents:
    """Zero if the group is gone. v2 sums up over the groups below by itself, v1 counts each alone."""
    directory = hierarchies.directory("memory", group)
    if directory is None:
        return MemoryEvents(0)
    if "memory" in hierarchies.controllers:
        return MemoryEvents(sum(_table(below / "memory.oom_control").get("oom_kill", 0) for below in tree(directory)))
    return MemoryEvents(_table(directory / "memory.events").get("oom_kill", 0))


def _number(path: Path) -> int | None:
    """None if the file is gone: with it went its group."""
    try:
        return int(path.read_text())
    except OSError:
        return None


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) == 2}
