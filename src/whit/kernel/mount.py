"""Mounts by system call: overlays, binds, memory; the table of what is mounted, and how to get rid of it.

Which directories are mounted where is decided by those who call.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import SystemCallError, Unavailable
from whit.kernel import libc
from whit.kernel.thread import in_thread

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_OPTIONS_LIMIT = os.sysconf("SC_PAGE_SIZE") - 1
"""mount(2) copies one page of options and cuts off the rest without a word."""
_ROUNDS = 100
"""How often to look again for mounts that are stacked on one another."""


@dataclass(frozen=True)
class MountPoint:
    """A line of mountinfo; proc_pid_mountinfo(5)."""

    id: int
    parent: int
    root: str
    path: Path
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    """As `shared:1`; empty if private."""
    kind: str
    source: str
    super_options: tuple[str, ...]


def table(process: str = "self") -> list[MountPoint]:
    """What is mounted in the mount namespace of a process, in the order in which it was mounted."""
    path = Path("/proc") / process / "mountinfo"
    with libc.named("read", path):
        return parse(path.read_text(errors="surrogateescape"))


def parse(text: str) -> list[MountPoint]:
    return [_parse_line(line) for line in text.splitlines()]


def _parse_line(line: str) -> MountPoint:
    left, _, right = line.partition(" - ")
    identity, parent, _, root, path, options, *propagation = left.split(" ")
    kind, source, super_options = right.split(" ", 2)
    return MountPoint(
        id=int(identity),
        parent=int(parent),
        root=_unescape(root),
        path=Path(_unescape(path)),
        options=tuple(options.split(",")),
        propagation=tuple(propagation),
        kind=kind,
        source=_unescape(source),
        super_options=tuple(super_options.split(",")),
    )


def _unescape(text: str) -> str:
    """Blanks, tabs, line ends and backslashes are written as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there. `path` is absolute and without symbolic links."""
    return any(point.path == path for point in table())


def bind(source: Path, target: Path, *, read_only: bool = False, recursive: bool = False) -> None:
    """Show `source` at `target` too. A read-only bind takes two calls: the first cannot set it (mount(2))."""
    libc.mount(str(source), str(target), "", MS_BIND | (MS_REC if recursive else 0), "")
    if read_only:
        try:
            remount_read_only(target)
        except SystemCallError:
            unmount(target)
            raise


def remount_read_only(target: Path) -> None:
    """Make this mount read-only; others of the same file system stay as they are."""
    current = {option for point in table() if point.path == target for option in point.options}
    # A remount sets all flags of the mount anew, and may not drop those that a user namespace has locked.
    kept = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
    flags = sum(flag for name, flag in kept.items() if name in current)
    libc.mount("", str(target), "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags, "")


def tmpfs(target: Path, *, size: int | None = None, mode: int = 0o755, flags: int = MS_NOSUID | MS_NODEV) -> None:
    """Memory at `target`, of at most `size` bytes (the kernel's default is half of the machine's)."""
    options = [f"mode={mode:o}", *([f"size={size}"] if size is not None else [])]
    libc.mount("tmpfs", str(target), "tmpfs", flags, ",".join(options))


def overlay(target: Path, lowers: Sequence[Path], *, upper: Path | None = None, work: Path | None = None) -> None:
    """Stack `lowers`, lowest first, and a writable `upper` (with its empty `work` on the same file system) on top.

    The kernel takes 500 layers, but only a page of options; and it gives `:` and `,` in a path a meaning. Where the
    paths do not fit, they are named by descriptor (`/proc/self/fd/12`), which holds some 220 layers on every kernel;
    fsconfig's `lowerdir+` would hold all, but from Linux 6.8 on only.

    Raises:
        SystemCallError: EINVAL also if there is neither an upper nor a second lower.
        Unavailable: there are too many layers.
    """
    highest_first = list(reversed(lowers))
    options = _overlay_options(highest_first, upper, work)
    if len(os.fsencode(options)) <= _OPTIONS_LIMIT and not _has_special(highest_first):
        libc.mount("overlay", str(target), "overlay", 0, options)
        return
    with ExitStack() as stack:
        named = [_by_descriptor(path, stack) for path in highest_first]
        options = _overlay_options(named, upper, work)
        if len(os.fsencode(options)) > _OPTIONS_LIMIT:
            raise Unavailable(f"{len(lowers)} layers are too many for one overlay", hint="merge some: 200 are possible")
        libc.mount("overlay", str(target), "overlay", 0, options)


def _overlay_options(highest_first: Sequence[Path], upper: Path | None, work: Path | None) -> str:
    options = ["lowerdir=" + ":".join(map(str, highest_first))]
    if upper is not None:
        options += [f"upperdir={upper}", f"workdir={work}"]
    return ",".join(options)


def _has_special(paths: Sequence[Path]) -> bool:
    return any(character in str(path) for path in paths for character in ":,\\")


def _by_descriptor(path: Path, stack: ExitStack) -> Path:
    with libc.named("open", path):
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return Path(f"/proc/self/fd/{descriptor}")


def unmount(target: Path) -> None:
    """Take away whatever is mounted at `target`, also several layers of it; files in use stay usable. Safe twice."""
    for _ in range(_ROUNDS):
        try:
            libc.umount2(str(target), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        except SystemCallError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a mount point, or no such path
                return
            raise


def unmount_below(prefix: Path) -> list[Path]:
    """Take away all that is mounted at or below `prefix`, the newest first. Returns what was taken away."""
    removed: list[Path] = []
    for _ in range(_ROUNDS):
        found = [point.path for point in table() if point.path.is_relative_to(prefix)]
        if not found:
            break
        for path in reversed(found):
            unmount(path)
        removed += found
    return removed


@dataclass(frozen=True)
class MountOverlay:
    target: Path
    lowers: tuple[Path, ...]
    """Lowest first."""
    upper: Path | None = None
    work: Path | None = None

    def describe(self) -> str:
        return f"mount {len(self.lowers)} layers at {self.target}"

    async def do(self) -> None:
        await in_thread(overlay, self.target, self.lowers, upper=self.upper, work=self.work)

    async def undo(self) -> None:
        await in_thread(unmount, self.target)


@dataclass(frozen=True)
class BindMount:
    source: Path
    target: Path
    read_only: bool = False
    recursive: bool = False

    def describe(self) -> str:
        return f"mount {self.source} at {self.target}{', read-only' if self.read_only else ''}"

    async def do(self) -> None:
        await in_thread(bind, self.source, self.target, read_only=self.read_only, recursive=self.recursive)

    async def undo(self) -> None:
        await in_thread(unmount, self.target)


@dataclass(frozen=True)
class MountTmpfs:
    target: Path
    size: int | None = None
    """Bytes."""
    mode: int = 0o755

    def describe(self) -> str:
        return f"mount memory at {self.target}"

    async def do(self) -> None:
        await in_thread(tmpfs, self.target, size=self.size, mode=self.mode)

    async def undo(self) -> None:
        await in_thread(unmount, self.target)
