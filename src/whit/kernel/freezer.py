"""Freezing a control group: none of its processes runs until it is thawed; they keep memory, files and sockets.

By the v1 freezer where this machine has one, because runtimes put their containers there and look there; by
`cgroup.freeze` of v2 (Linux 5.2) elsewhere. Format: freezer-subsystem.rst and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

from whit.base.errors import NotFound, SystemCallError, TimedOut, Unavailable
from whit.kernel.cgroup import Hierarchies

PATIENCE = 5.0
_PAUSE = 0.002


def freeze(hierarchies: Hierarchies, group: str, patience: float = PATIENCE) -> None:
    """Returns when every process stands still; what has to wait for that is thawed again.

    Raises:
        TimedOut: some did not within `patience` seconds, as in an uninterruptible wait.
        NotFound, Unavailable: there is no such group, or no freezer.
    """
    switch = _switch(hierarchies, group)
    _write(switch, "FROZEN" if _is_v1(switch) else "1")
    until = time.monotonic() + patience
    while not is_frozen(hierarchies, group):
        if time.monotonic() > until:
            thaw(hierarchies, group)
            raise TimedOut(
                f"cgroup {group} could not be frozen within {patience:g} s", hint="a process waits for a disk?"
            )
        time.sleep(_PAUSE)


def thaw(hierarchies: Hierarchies, group: str) -> None:
    """Takes some 50 us and waits for nobody. Content if it is not frozen, or gone, or cannot be frozen."""
    try:
        switch = _switch(hierarchies, group)
        _write(switch, "THAWED" if _is_v1(switch) else "0")
    except (NotFound, Unavailable):
        return


def is_frozen(hierarchies: Hierarchies, group: str) -> bool:
    """Whether all of it stands still. False if it is gone, or there is no freezer."""
    try:
        switch = _switch(hierarchies, group)
        if _is_v1(switch):
            return switch.read_text().strip() == "FROZEN"
        return "frozen 1" in switch.with_name("cgroup.events").read_text().splitlines()
    except (NotFound, Unavailable, FileNotFoundError):
        return False


def _switch(hierarchies: Hierarchies, group: str) -> Path:
    """The file that freezes the group."""
    root = hierarchies.controllers.get("freezer")
    name = "freezer.state" if root else "cgroup.freeze"
    root = root or hierarchies.unified
    if root is None:
        raise Unavailable("no cgroup hierarchy can freeze processes", hint="mount the v1 freezer, or cgroup v2")
    path = root / group.lstrip("/") / name
    if not path.parent.is_dir():
        raise NotFound(f"there is no cgroup {group} in {root}")
    if not path.exists():
        raise Unavailable(f"{path.parent} cannot be frozen", hint="cgroup.freeze came with Linux 5.2")
    return path


def _is_v1(switch: Path) -> bool:
    return switch.name == "freezer.state"


def _write(switch: Path, text: str) -> None:
    try:
        switch.write_text(text)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            raise NotFound(f"cgroup {switch.parent} has gone") from error
        raise SystemCallError("write", error.errno or 0, str(switch)) from error
