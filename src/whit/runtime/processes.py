"""Waiting for and ending processes that are not our children, by pidfd: a pid that was reused is never hit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal


def opened(pid: int) -> int | None:
    """A pidfd; None if there is no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send(pidfd: int, number: int) -> None:
    """Send a signal; nothing happens if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


async def ended(pidfd: int, timeout: float | None = None) -> bool:
    """Wait until the process has ended; False if it has not after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    # A descriptor can be watched once only, and the same process may be waited for at two places.
    own = os.dup(pidfd)
    loop.add_reader(own, over.set)
    try:
        async with asyncio.timeout(timeout):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True


async def end(pid: int | None, patience: float) -> None:
    """Wait `patience` seconds for the process to end by itself, then kill it."""
    if pid is None or (pidfd := opened(pid)) is None:
        return
    try:
        if not await ended(pidfd, patience):
            send(pidfd, signal.SIGKILL)
            await ended(pidfd, patience)
    finally:
        os.close(pidfd)
