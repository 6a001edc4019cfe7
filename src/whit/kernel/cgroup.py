"""Control groups: which hierarchies this machine has, and the same group in all of them at once.

Three layouts are found: pure v2 (one unified hierarchy), v1 (one hierarchy for each controller), and hybrid (v1 with a
unified hierarchy beside it, which has what v1 leaves; limits are set by v1 there). A group is named by its path below
the root of every hierarchy, as `/whit/<id>/<instance>`. What groups consumed is in cgroup_usage.py; limits are set by
the OCI runtime.
Formats: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import SystemCallError, TimedOut, Unavailable
from whit.kernel import libc, mount
from whit.kernel.thread import in_thread

CONTROLLERS = ("cpu", "memory", "pids")
"""What limits need, and what is handed down the tree on pure v2 for them, where this machine has it."""
_V1 = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio"}
) | {
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
}
_MAKING = 2.0
"""Seconds for which somebody may remove what we make on the way to a group."""
_GONE = (errno.ENOENT, errno.ENODEV)
"""Of a group that was removed; the second if that was just then."""
_PATIENCE = 10.0
_PAUSE = 0.005

Mode = Literal["v1", "hybrid", "v2"]


@dataclass(frozen=True)
class Hierarchies:
    """Where cgroup file systems are mounted."""

    controllers: Mapping[str, Path]
    """Of v1: mount point by controller; named hierarchies as `name=systemd`."""
    unified: Path | None
    """Of v2."""

    @property
    def mode(self) -> Mode:
        if self.unified is None:
            return "v1"
        return "hybrid" if self.controllers else "v2"

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every mount point once; `cpu` and `cpuacct` are often the same."""
        found = [*self.controllers.values(), *([self.unified] if self.unified else [])]
        return tuple(dict.fromkeys(found))

    def bpf_root(self) -> Path:
        """Where BPF programs are attached to see every process of the machine.

        Raises:
            Unavailable: no unified hierarchy is mounted.
        """
        if self.unified is None:
            raise Unavailable(
                "no cgroup v2 hierarchy is mounted",
                hint="mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
            )
        return self.unified

    def has(self, controller: str) -> bool:
        """Whether any hierarchy has this controller."""
        if controller in self.controllers:
            return True
        return self.unified is not None and controller in _words(self.unified / "cgroup.controllers")

    @property
    def left_on_v2(self) -> list[str]:
        """The controllers that v2 has of a hybrid layout."""
        return sorted(_words(self.unified / "cgroup.controllers")) if self.unified and self.controllers else []

    @property
    def handed_down(self) -> list[str]:
        """The controllers that groups of v2 have been given by its root."""
        return sorted(_words(self.unified / "cgroup.subtree_control")) if self.unified else []

    def directories(self, group: str) -> list[Path]:
        """The directories of a group, in the hierarchies in which it exists."""
        return [path for root in self.roots if (path := _below(root, group)).is_dir()]

    def directory(self, controller: str, group: str) -> Path | None:
        """The directory in which `controller` governs the group; None if nothing does."""
        root = self.controllers.get(controller, self.unified)
        if root is None or not self.has(controller):
            return None
        path = _below(root, group)
        return path if path.is_dir() else None


def find() -> Hierarchies:
    """The hierarchies that the calling thread sees."""
    return of_mounts(mount.table())


def of_mounts(table: Sequence[mount.MountPoint]) -> Hierarchies:
    controllers: dict[str, Path] = {}
    unified: Path | None = None
    for point in table:
        if point.kind == "cgroup2":
            unified = unified or point.path
        elif point.kind == "cgroup":
            names = [name for name in point.super_options if name in _V1 or name.startswith("name=")]
            controllers.update({name: point.path for name in names if name not in controllers})
    return Hierarchies(controllers, unified)


def create(hierarchies: Hierarchies, group: str) -> None:
    """Make the group, and those above it, in every hierarchy. Content if it is there.

    On pure v2, controllers are handed down as far as the groups above permit it. On a hybrid layout none is: no runtime
    sets limits by v2 there, and a controller that was handed down cannot be moved to v1.
    """
    for root in hierarchies.roots:
        _create_below(root, group, hands_down=hierarchies.mode == "v2")
    cpuset = hierarchies.controllers.get("cpuset")
    if cpuset is not None:
        _inherit_cpuset(cpuset, group)


def _create_below(root: Path, group: str, *, hands_down: bool) -> None:
    """Tried again if somebody else removes an empty group above in between."""
    path = _below(root, group)
    until = time.monotonic() + _MAKING
    with libc.named("mkdir", path):
        while True:
            try:
                _make(root, path, hands_down=hands_down)
            except OSError as error:
                # The last: one above was there, and gone when it was looked at.
                if error.errno not in (*_GONE, errno.EEXIST) or time.monotonic() > until:
                    raise
            else:
                return


def _make(root: Path, path: Path, *, hands_down: bool) -> None:
    if not hands_down:
        with suppress(FileNotFoundError):  # the groups above are nearly always there
            path.mkdir(exist_ok=True)
            return
    for parent in _ancestors(root, path):
        if hands_down:
            _hand_down(parent)
        (parent / path.relative_to(parent).parts[0]).mkdir(exist_ok=True)


def _ancestors(root: Path, path: Path) -> list[Path]:
    """From the root of the hierarchy to the directory above `path`."""
    parents = [parent for parent in path.parents if parent.is_relative_to(root)]
    return list(reversed(parents))


def _hand_down(directory: Path) -> None:
    """Let the groups below have controllers. One that is refused stays off: probes say so to the person."""
    control = directory / "cgroup.subtree_control"
    wanted = set(CONTROLLERS) & _words(directory / "cgroup.controllers") - _words(control)
    for controller in sorted(wanted):
        with suppress(OSError):
            control.write_text(f"+{controller}")


def _inherit_cpuset(root: Path, group: str) -> None:
    """On v1 a new cpuset is empty, and takes no process until it has processors and memory nodes."""
    path = _below(root, group)
    for directory in [*_ancestors(root, path)[1:], path]:
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (directory / name).read_text().strip():
                (directory / name).write_text((directory.parent / name).read_text())


def place(hierarchies: Hierarchies, group: str, pid: int) -> None:
    """Move a process into the group, in every hierarchy."""
    for directory in hierarchies.directories(group):
        with libc.named(f"write {pid} to", directory / "cgroup.procs"):
            (directory / "cgroup.procs").write_text(str(pid))


def hasten_moves(hierarchies: Hierarchies, proc: Path = Path("/proc/self/cgroup")) -> None:
    """Have the kernel ready to move processes between groups, for the next 20 ms: who moves one after a while waits for
    all processors to have taken notice of it, some 12 ms (rcu_sync of cgroup_threadgroup_rwsem, kernel/rcu/sync.c), and
    this is who. Nothing is moved: the calling process goes to the group in which it is. Blocks; content if that is not
    permitted."""
    own = {names: path for _, names, path in (line.split(":", 2) for line in proc.read_text().splitlines())}
    roots = {**hierarchies.controllers, **({"": hierarchies.unified} if hierarchies.unified else {})}
    for names, path in own.items():
        root = roots.get(names.split(",")[0])
        if root is not None:
            with suppress(OSError):
                (_below(root, path) / "cgroup.procs").write_text("0")
                return


def matching(hierarchies: Hierarchies, pattern: str) -> list[str]:
    """The groups with such a path (as of a shell), in whichever hierarchy."""
    return sorted(
        {f"/{path.relative_to(root)}" for root in hierarchies.roots for path in root.glob(pattern.lstrip("/"))}
    )


def pids(hierarchies: Hierarchies, group: str) -> set[int]:
    """The processes of the group and all groups below, in any hierarchy."""
    return {pid for top in hierarchies.directories(group) for below in tree(top) for pid in _pids(below)}


def tree(top: Path) -> Iterator[Path]:
    """The directory and all groups below, deepest first. One that goes away meanwhile is left out."""
    for directory, _, _ in os.walk(top, topdown=False):
        yield Path(directory)


def _pids(directory: Path) -> list[int]:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except OSError as error:
        # EOPNOTSUPP: a threaded group of v2; its processes are listed by the group above it.
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise SystemCallError("read", error.errno or 0, str(directory / "cgroup.procs")) from error


def kill(hierarchies: Hierarchies, group: str, patience: float = _PATIENCE) -> None:
    """Kill every process of the group and those below, and wait until they are gone. Safe if there is none.

    Raises:
        TimedOut: some are still there after `patience` seconds; a process in an uninterruptible wait cannot be killed.
    """
    until = time.monotonic() + patience
    while pids(hierarchies, group):
        _kill_unified(hierarchies, group)
        _kill_frozen(hierarchies, group)
        if time.monotonic() > until:
            left = ", ".join(map(str, sorted(pids(hierarchies, group))))
            raise TimedOut(f"processes of cgroup {group} do not end: {left}", hint="see their state with `ps -o stat`")
        time.sleep(_PAUSE)


def _kill_unified(hierarchies: Hierarchies, group: str) -> None:
    """cgroup.kill (Linux 5.14) reaches all at once, also those that are just being forked, and those frozen by v2."""
    if hierarchies.unified is not None:
        with suppress(OSError):
            (_below(hierarchies.unified, group) / "cgroup.kill").write_text("1")


def _kill_frozen(hierarchies: Hierarchies, group: str) -> None:
    """For what is in v1 groups only: nothing forks, ends or gives its pid to another while it is frozen; signals are
    delivered when it is thawed."""
    root = hierarchies.controllers.get("freezer")
    if root is not None:
        _set_freezer(_below(root, group), "FROZEN")
    try:
        for pid in pids(hierarchies, group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        # Also groups below, which somebody else may have frozen before.
        for directory in [] if root is None else tree(_below(root, group)):
            _set_freezer(directory, "THAWED")


def _set_freezer(directory: Path, state: str) -> None:
    with suppress(OSError):  # gone in the meantime; `kill` looks again in any case
        (directory / "freezer.state").write_text(state)


def remove(hierarchies: Hierarchies, group: str, patience: float = _PATIENCE) -> None:
    """Remove the group and all below it. Safe twice.

    Raises:
        SystemCallError: EBUSY if there still are processes `patience` seconds later.
    """
    until = time.monotonic() + patience
    for top in hierarchies.directories(group):
        for directory in tree(top):
            _remove(directory, until)


def prune(hierarchies: Hierarchies, group: str) -> None:
    """Remove what is empty of the groups above this one. Whoever needs one of them is in danger: `create` tries again,
    runtimes that make their groups themselves do not. So this is for who ends the last use of the group of an agent,
    which every agent keeps for as long as it lives: see KeepCgroup."""
    for root in hierarchies.roots:
        for above in reversed(_ancestors(root, _below(root, group))[1:]):
            with suppress(OSError):
                above.rmdir()


def _remove(directory: Path, until: float) -> None:
    """A group stays busy for a moment after its last process has ended."""
    while True:
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno in _GONE:
                return
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise SystemCallError("rmdir", error.errno or 0, str(directory)) from error
            time.sleep(_PAUSE)
        else:
            return


def destroy(hierarchies: Hierarchies, group: str) -> None:
    """Kill what is in the group, and remove it. Safe twice."""
    kill(hierarchies, group)
    remove(hierarchies, group)


def uproot(hierarchies: Hierarchies, group: str) -> None:
    """Destroy the group, and prune those above."""
    destroy(hierarchies, group)
    prune(hierarchies, group)


@contextmanager
def lent(hierarchies: Hierarchies, group: str) -> Iterator[str]:
    """The group, for a trial beside those of agents; afterwards nothing is left of it, nor of those above if they are
    empty."""
    create(hierarchies, group)
    try:
        yield group
    finally:
        uproot(hierarchies, group)


def _below(root: Path, group: str) -> Path:
    return root / group.lstrip("/")


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


@dataclass(frozen=True)
class CreateCgroup:
    group: str

    def describe(self) -> str:
        return f"create cgroup {self.group}"

    async def do(self) -> None:
        await in_thread(create, find(), self.group)

    async def undo(self) -> None:
        await in_thread(destroy, find(), self.group)


@dataclass(frozen=True)
class KeepCgroup:
    """Have the group there that an agent's instances are below, before a runtime makes theirs.

    A runtime makes all groups above too, but fails if an empty one is removed in between, as by somebody who cleans
    another agent away. This one is made however often it takes, and then keeps those above it. Siblings are below it:
    so nothing is undone, and it goes when its agent is cleaned away.
    """

    group: str

    def describe(self) -> str:
        return f"keep cgroup {self.group} for what the runtime makes below it"

    async def do(self) -> None:
        await in_thread(create, find(), self.group)

    async def undo(self) -> None:
        return
