"""The processes of runsc that make and keep a sandbox, found by what stands on their command lines, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from whit.base.errors import NotFound
from whit.kernel import pidfd
from whit.kernel.thread import in_thread

END_PATIENCE = 10.0
END_ROUNDS = 20
NOTE_ROUNDS = 40
_HIDDEN = 'mount -t tmpfs -o ro none /proc/sys/net && exec "$@"'
HIDING = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _HIDDEN, "sh")
"""Before a call of runsc: it sees nothing of /proc/sys/net. Such a process is about to become one of runsc's."""


async def end_all(root: str) -> None:
    """Kill all of a sandbox, also what is still making it, and wait until their parents have taken note.

    The gofer goes first: the monitor, its parent, lives only as long as the sandbox itself.
    """
    for _ in range(END_ROUNDS):
        found = await in_thread(_working_on, root)
        if not found:
            return
        for pid in found:
            await _end(pid, root)


def _working_on(root: str) -> list[int]:
    """runsc's processes with this root, gofers first, and those that are about to become one."""
    found = ((int(path.name), _words(int(path.name))) for path in Path("/proc").glob("[0-9]*"))
    ours = [(b"gofer" not in words[0], pid) for pid, words in found if _is_for(words, root)]
    return [pid for _, pid in sorted(ours)]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return [b""]


def _is_for(words: list[bytes], root: str) -> bool:
    wanted = root.encode()
    runs = b"runsc" in words[0] or _HIDDEN.encode() in words
    return runs and (b"--root=" + wanted in words or wanted in words)


async def _end(pid: int, root: str) -> None:
    with contextlib.suppress(NotFound), pidfd.opened(pid) as descriptor:
        if not _is_for(_words(pid), root):
            return
        pidfd.send_signal(descriptor, signal.SIGKILL)
        await pidfd.wait_end(descriptor, END_PATIENCE)
        for _ in range(NOTE_ROUNDS):
            if not Path(f"/proc/{pid}").exists():
                return
            await asyncio.sleep(0.005)
