"""Processes by descriptor: a pidfd is never another process, as a pid becomes after reuse.

Over a restart of the agent only numbers survive: a pid together with its start time names one process for good.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whit.base.errors import NotFound, SystemCallError
from whit.kernel import libc

_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""What pidfd_open(2) says of a pid that none has, of a process that is just being reaped (Linux 6.1 has EINVAL there),
and of a thread (EINVAL; Linux 6.18 has ENOENT). Nothing else of the call could be wrong."""


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot: field 22 of /proc/<pid>/stat, proc_pid_stat(5).

    Raises:
        NotFound: there is no such process.
    """
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound(f"there is no process {pid}") from None
    # The second field is the name in brackets, and may itself hold blanks and brackets.
    return int(text.rpartition(")")[2].split()[22 - 3])


def open_process(pid: int, *, started: int | None = None) -> int:
    """A descriptor of the process, for the caller to close. With `started`, only if it is still that process.

    Raises:
        NotFound: there is no such process, or the pid is another's by now.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            raise NotFound(f"there is no process {pid}") from None
        raise SystemCallError("pidfd_open", error.errno or 0, str(pid)) from error
    if started is not None and not _is_same(pid, started):
        os.close(descriptor)
        raise NotFound(f"process {pid} is not the one that was meant: that one has ended")
    return descriptor


def _is_same(pid: int, started: int) -> bool:
    """Checked while a descriptor is open: the pid cannot change hands between the two."""
    try:
        return start_time(pid) == started
    except NotFound:
        return False


@contextmanager
def opened(pid: int, *, started: int | None = None) -> Iterator[int]:
    """As `open_process`, closed at the end."""
    descriptor = open_process(pid, started=started)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def send_signal(descriptor: int, number: signal.Signals) -> bool:
    """False if the process has ended."""
    try:
        with libc.named("pidfd_send_signal", number.name):
            signal.pidfd_send_signal(descriptor, number)
    except SystemCallError as error:
        if isinstance(error.__cause__, ProcessLookupError):
            return False
        raise
    return True


def is_alive(descriptor: int) -> bool:
    """Whether the process still runs; one that nobody has waited for yet does not."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return not poll.poll(0)


async def wait_end(descriptor: int, timeout: float | None = None) -> bool:
    """Wait until the process has ended. False if it has not within `timeout` seconds. Many may wait at once."""
    if not is_alive(descriptor):
        return True
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    own = os.dup(descriptor)  # an event loop has one reader a descriptor
    loop.add_reader(own, _settle, ended)
    try:
        async with asyncio.timeout(timeout):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
