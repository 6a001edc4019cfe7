"""gVisor's kernel (the sentry) of a running sandbox, asked by its control socket to run a program that is not in it.

`runsc exec` takes 100 ms, and wants the program in the container; this takes 2. The format is that of pkg/urpc of
gVisor: one JSON document each way, files beside it. What a call takes: pkg/sentry/control/proc.go, ExecArgs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whit.base.errors import CommandError, NotFound, Permanent

_LARGEST = 1 << 20
PATIENCE = 5.0
END = b"table end\n"
"""With which init/bare/listeners.c closes what it prints."""


def output_of(control: Path, name: str, program: Path, *, timeout: float = PATIENCE) -> str:
    """What a program of this machine prints in the container; it gets no arguments and no rights. Blocks.

    Raises:
        NotFound: there is no such sandbox, or its process was not started yet.
        CommandError, Permanent: the program failed, or the sentry answers otherwise.
    """
    with _connected(control, name, timeout) as sentry:
        return _run(sentry, name, program)


@contextlib.contextmanager
def _connected(control: Path, name: str, timeout: float) -> Iterator[socket.socket]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sentry:
            sentry.settimeout(timeout)
            sentry.connect(str(control))
            yield sentry
    except (FileNotFoundError, ConnectionError) as error:
        raise NotFound(f"no sandbox listens at {control}") from error
    except TimeoutError as error:
        raise Permanent(f"the sandbox {name} did not answer within {timeout:g} s") from error


def _run(sentry: socket.socket, name: str, program: Path) -> str:
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(reading, "rb") as output:
        pid = _start(sentry, name, program, nothing, writing)
        text = output.read().decode(errors="replace")
    if status := _call(sentry, "WaitPID", {"PID": pid, "CID": name}):
        raise CommandError([str(program)], status, text[-200:])
    return text


def _start(sentry: socket.socket, name: str, program: Path, stdin: int, stdout: int) -> int:
    """Closes the two descriptors."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    file = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    # With a home it is not looked for in the container's files.
    arguments = {"argv": [program.name], "envv": ["HOME=/"], "wd": "/", "GuestFDs": [0, 1, 2], "ContainerID": name}
    try:
        # The last file is the program; it comes without a number inside.
        return _call(sentry, "ExecuteAsync", arguments, [stdin, stdout, nothing, file])
    finally:
        for descriptor in (stdin, stdout, nothing, file):
            os.close(descriptor)


class Lookout:
    """A program that stays in the container, and prints once more for each byte that it reads. It ends with this, or
    with who has it. All of it blocks."""

    def __init__(self, control: Path, name: str, program: Path) -> None:
        """Raises NotFound, Permanent: as `output_of`."""
        with _connected(control, name, PATIENCE) as sentry:
            reading, self._asking = os.pipe()
            self._printed, writing = os.pipe()
            try:
                _start(sentry, name, program, reading, writing)
                self._answer()
            except BaseException:
                self.close()
                raise

    def ask(self) -> str:
        """What it prints now. Raises NotFound: it has ended."""
        try:
            os.write(self._asking, b"?")
        except OSError as error:
            raise NotFound("the sandbox has ended") from error
        return self._answer()

    def _answer(self) -> str:
        text = b""
        while not text.endswith(END):
            if not select.select([self._printed], [], [], PATIENCE)[0] or not (
                piece := os.read(self._printed, _LARGEST)
            ):
                raise NotFound("the sandbox does not answer")
            text += piece
        return text.decode(errors="replace")

    @property
    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._printed, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        os.close(self._asking)
        os.close(self._printed)


def _call(sentry: socket.socket, method: str, arguments: dict[str, Any], files: list[int] | None = None) -> int:
    request = json.dumps({"method": f"containerManager.{method}", "arg": arguments}).encode()
    socket.send_fds(sentry, [request], files or [])
    answer = b""
    while True:
        piece = sentry.recv(_LARGEST)
        answer += piece
        try:
            document = json.loads(answer)
            break
        except ValueError:
            if not piece:
                raise ConnectionResetError("the sentry has gone") from None
    if not document["success"]:
        raise NotFound(f"gVisor refused {method}: {document['err']}")
    return int(document["result"] or 0)
