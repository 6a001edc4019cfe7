"""gVisor's kernel (the sentry) of a running sandbox, asked by its control socket to run a program that is not in it.

`runsc exec` takes 100 ms, and wants the program in the container; this takes 2. The format is that of pkg/urpc of
gVisor: one JSON document each way, files beside it. What a call takes: pkg/sentry/control/proc.go, ExecArgs.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from whit.base.errors import CommandError, NotFound, Permanent

_LARGEST = 1 << 20


def output_of(control: Path, name: str, program: Path, *, timeout: float = 5.0) -> str:
    """What a program of this machine prints in the container; it gets no arguments and no rights. Blocks.

    Raises:
        NotFound: there is no such sandbox, or its process was not started yet.
        CommandError, Permanent: the program failed, or the sentry answers otherwise.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sentry:
            sentry.settimeout(timeout)
            sentry.connect(str(control))
            return _run(sentry, name, program)
    except (FileNotFoundError, ConnectionError) as error:
        raise NotFound(f"no sandbox listens at {control}") from error
    except TimeoutError as error:
        raise Permanent(f"the sandbox {name} did not answer within {timeout:g} s") from error


def _run(sentry: socket.socket, name: str, program: Path) -> str:
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    file = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(reading, "rb") as output:
        try:
            arguments = {"argv": [program.name], "wd": "/", "GuestFDs": [0, 1, 2], "ContainerID": name}
            # The last file is the program; it comes without a number inside.
            pid = _call(sentry, "ExecuteAsync", arguments, [nothing, writing, nothing, file])
        finally:
            for descriptor in (writing, nothing, file):
                os.close(descriptor)
        text = output.read().decode(errors="replace")
    if status := _call(sentry, "WaitPID", {"PID": pid, "CID": name}):
        raise CommandError([str(program)], status, text[-200:])
    return text


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
