"""The one place where processes start: environment, standard input, time-out, logging and clean-up are settled here.

Nothing here forks from the agent: the standard library's subprocess module uses vfork, which does not copy the
page tables of a large process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whit.base.errors import CommandError, TimedOut, Unavailable

log = logging.getLogger(__name__)

_LINE_LIMIT = 4 << 20
"""Bytes of one line of a streamed output."""

# A tool must speak the language that its parser expects and must not depend on the person's shell.
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}


@dataclass(frozen=True)
class Completed:
    """What a finished process left: exit status (negative: the signal that ended it), and its two outputs."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The clean environment plus `extra`. Proxy and certificate settings of the host are passed on."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or "CERT" in name}
    return {**CLEAN_ENVIRONMENT, **kept, **(extra or {})}


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout: float = 60.0,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    user: int | None = None,
    group: int | None = None,
) -> Completed:
    """Run `argv` to its end. Its output is returned, or goes to the descriptor `stdout`.

    Raises:
        Unavailable: the program is not installed.
        CommandError: it ended with another status than 0 and `check` is set.
        TimedOut: it did not end within `timeout` seconds; its whole process group was killed.
    """
    log.debug("run %s", shlex.join(argv))
    with _installed(argv):
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
        )
    async with _ended(process, argv, timeout):
        output, errors = await process.communicate(stdin)
    completed = Completed(process.returncode or 0, output or b"", errors.decode(errors="replace"))
    if check and completed.returncode != 0:
        raise CommandError(argv, completed.returncode, completed.stderr or completed.text)
    return completed


async def stream_lines(
    argv: Sequence[str],
    on_line: Callable[[bytes], None],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Completed:
    """Run `argv` to its end and hand over each line of its output as it comes. Its status is not checked.

    Raises:
        Unavailable, TimedOut: as `run`.
    """
    log.debug("run %s", shlex.join(argv))
    with _installed(argv):
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            start_new_session=True,
            limit=_LINE_LIMIT,
        )
    async with _ended(process, argv, timeout):
        errors = await _exchange(process, stdin, on_line)
    return Completed(process.returncode or 0, b"", errors.decode(errors="replace"))


@contextlib.contextmanager
def _installed(argv: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is not installed", hint="run `whit doctor`") from error


@contextlib.asynccontextmanager
async def _ended(process: asyncio.subprocess.Process, argv: Sequence[str], timeout: float) -> AsyncIterator[None]:
    """However this is left, the process and its group have ended. Raises TimedOut."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise TimedOut(f"{argv[0]} did not end within {timeout:g} s\n  command: {shlex.join(argv)}") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _exchange(process: asyncio.subprocess.Process, stdin: bytes, on_line: Callable[[bytes], None]) -> bytes:
    """Write the input and read both outputs at the same time, so that no pipe fills up. Returns standard error."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as tasks:
        errors = tasks.create_task(process.stderr.read())
        tasks.create_task(_feed(process.stdin, stdin))
        async for line in process.stdout:
            on_line(line)
    await process.wait()
    return errors.result()


async def _feed(pipe: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(data)
        await pipe.drain()
    pipe.close()


def start(
    argv: Sequence[str],
    *,
    stdout: int,
    stderr: int,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    user: int | None = None,
    group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one, in a session of its own, with its outputs on the given descriptors."""
    log.debug("start %s", shlex.join(argv))
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(env),
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=True,
        close_fds=True,
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
    )


async def attach(
    argv: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start a process on the given descriptors, in a session of its own. The caller waits for it, or ends it.

    Raises:
        Unavailable: the program is not installed.
    """
    log.debug("start %s", shlex.join(argv))
    with _installed(argv):
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment(env),
            pass_fds=pass_fds,
            start_new_session=True,
        )
