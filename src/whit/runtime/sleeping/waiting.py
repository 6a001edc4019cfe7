"""A sandbox whose program waits behind its gate stands still meanwhile: gVisor's kernel takes 2 % of a core while it
has nothing to do. The gate is gate.py; when somebody waits at all is decided in control/.

A process that the v1 freezer has stopped dies of SIGKILL only when it goes on (freezer-subsystem.rst of the kernel), so
whoever lets a sandbox go on looks for that first: its program would be let go into a sandbox that is about to end.
"""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import Conflict, WhitError
from whit.kernel import cgroup, freezer
from whit.kernel.cgroup import Hierarchies
from whit.kernel.thread import in_thread
from whit.runtime.layout import Layout

log = logging.getLogger(__name__)

_PENDING = ("SigPnd:", "ShdPnd:")
_KILL = 1 << (signal.SIGKILL - 1)


@dataclass(frozen=True)
class StandStill:
    """Freeze it. One that cannot be frozen waits all the same."""

    layout: Layout
    hierarchies: Hierarchies

    def describe(self) -> str:
        return f"freeze {self.layout.name} while it waits"

    async def do(self) -> None:
        try:
            await in_thread(freezer.freeze, self.hierarchies, self.layout.cgroup)
        except WhitError as error:
            log.warning("%s does not stand still while it waits: %s", self.layout.name, error)

    async def undo(self) -> None:
        freezer.thaw(self.hierarchies, self.layout.cgroup)


@dataclass(frozen=True)
class GoOn:
    """Thaw it."""

    layout: Layout
    hierarchies: Hierarchies

    def describe(self) -> str:
        return f"thaw {self.layout.name}"

    async def do(self) -> None:
        """Raises Conflict if a part of it was killed while it stood still."""
        if (freezers := self.hierarchies.controllers.get("freezer")) is not None:
            pids = cgroup.pids(Hierarchies({"freezer": freezers}, unified=None), self.layout.cgroup)
            if killed := next(filter(_is_killed, pids), None):
                raise Conflict(f"pid {killed} of {self.layout.name} was killed", hint="start it from the beginning")
        freezer.thaw(self.hierarchies, self.layout.cgroup)

    async def undo(self) -> None:
        return


def _is_killed(pid: int) -> bool:
    """Whether SIGKILL waits for it to go on: proc_pid_status(5). Who has gone already has no gate to be let through."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(int(words[1], 16) & _KILL for words in lines if words and words[0] in _PENDING)
