"""Where an isolation cannot keep what the others keep: the one table, held by tests/contract.

Everything else that an instance is promised holds for every isolation: the same image, app file and commands.
docs/explanation/isolation.md shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from whit.model.service import Isolation


@dataclass(frozen=True)
class Difference:
    """One promise that one isolation does not keep to the letter."""

    key: str
    isolation: Isolation
    promise: str
    instead: str


EXCEPTIONS = (
    Difference(
        "processes-limit",
        "sandbox",
        "a process beyond `pids_limit` cannot be started",
        "the limit is on the machine's tasks, three for each process and 64 more; beyond it the sandbox ends",
    ),
    Difference(
        "ambient-capabilities",
        "sandbox",
        "another user than root keeps what `cap_add` gives",
        "only root has capabilities: gVisor has no ambient set",
    ),
    Difference(
        "commands-filter",
        "sandbox",
        "the system-call filter holds for commands of `whit exec` and health checks too",
        "it holds for the instance's own processes; all others have gVisor's kernel alone before them",
    ),
    Difference(
        "own-filter",
        "microvm",
        "a system-call filter stands before the kernel",
        "the guest's kernel is the instance's own; the filter stands between the machine's program and the node's",
    ),
    Difference(
        "hidden-places",
        "microvm",
        "what /proc and /sys tell of the machine is hidden",
        "they tell of the virtual machine; only /sys is read-only",
    ),
    Difference(
        "command-at-start",
        "microvm",
        "a command that is not in the image is refused when it is started",
        "the machine boots, prints why, and ends with 127 or 126",
    ),
    Difference(
        "left-behind",
        "sandbox",
        "what a command of `whit exec` leaves in the background ends with it",
        "only if the command is interrupted; otherwise it goes on until the instance ends",
    ),
    Difference(
        "terminal-name",
        "sandbox",
        "`tty` names the terminal of `whit exec`",
        "it is a terminal with a size, but has no name in /dev/pts",
    ),
    Difference(
        "device-nodes",
        "sandbox",
        "device nodes cannot be made",
        "they can, in memory file systems, but no device of the machine is behind them",
    ),
    Difference(
        "first-process",
        "sandbox",
        "the first process ignores signals that it does not handle, SIGKILL apart",
        "they have their usual effect on it",
    ),
    Difference(
        "first-process",
        "microvm",
        "the first process ignores signals that it does not handle, SIGKILL apart",
        "they have their usual effect on it",
    ),
    Difference(
        "empty-tmp",
        "sandbox",
        "what is written to /tmp is there after a restart",
        "if /tmp is empty in the image it is memory, and empty again after a restart",
    ),
)


def excepted(isolation: Isolation, key: str) -> bool:
    """Whether the isolation does not keep the promise with this key."""
    assert key in {one.key for one in EXCEPTIONS}
    return any((one.key, one.isolation) == (key, isolation) for one in EXCEPTIONS)
