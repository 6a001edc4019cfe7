"""whit debug: a shell in a machine that has none, on this terminal. It is brought along from outside."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from whit.base.errors import InputError, NotFound, Permanent
from whit.cli.display import terminal
from whit.cli.invocation import Invocation, command

PORT = "whit.debug"
_PIECE = 1 << 14
_ENDED = b"whit: the shell has ended\r\n"


def add(app: typer.Typer) -> None:
    command(app)(debug)


def debug(
    run: Invocation,
    place: Annotated[Path, typer.Argument(metavar="SOCKET", help="What whit boot --debug was given.")],
    shell: Annotated[
        Path | None, typer.Option("--shell", metavar="PROGRAM", help="A static program; busybox if left out.")
    ] = None,
) -> None:
    """Open a shell in a machine, which needs none of its own.

    The machine has to be one of a machine file, booted with --debug SOCKET. The shell has all rights in it.

    \b
    Example:
      whit boot examples/machine/web.yml --debug /tmp/web.sock
      whit debug /tmp/web.sock
    """
    program = _program(shell)
    with _connected(place) as port, _terminal() as size:
        port.sendall(f"{size[0]} {size[1]} {len(program)}\n".encode() + program)
        _relay(port)


def _program(shell: Path | None) -> bytes:
    """Raises NotFound, and InputError for one that needs libraries, which the machine has not."""
    from whit.image.linking import elf

    path = shell or Path(shutil.which("busybox") or "/bin/busybox")
    if not path.is_file():
        raise NotFound(f"there is no {path}", hint="apt install busybox-static, or name a static program with --shell")
    data = path.read_bytes()
    needs = elf.read(data)
    if needs is None or needs.interpreter or needs.libraries:
        raise InputError(f"{path} is no static program", hint="apt install busybox-static")
    return data


@contextlib.contextmanager
def _connected(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as port:
        try:
            port.connect(str(place))
        except OSError as error:
            hint = "boot it with: whit boot MACHINE --debug SOCKET"
            raise NotFound(f"no machine listens at {place}: {error.strerror}", hint=hint) from error
        yield port


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[int, int]]:
    """The size of the terminal, which is raw meanwhile; a pipe is taken as it is."""
    if not sys.stdin.isatty():
        yield 24, 80
        return
    with terminal.raw(sys.stdin.fileno()):
        yield terminal.size(sys.stdin.fileno())


def _relay(port: socket.socket) -> None:
    """Until the shell has ended. Raises Permanent if the machine goes away."""
    inputs = [port.fileno(), sys.stdin.fileno()]
    last = b""
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if sys.stdin.fileno() in ready:
            typed = os.read(sys.stdin.fileno(), _PIECE)
            port.sendall(typed)
            if not typed:
                inputs.remove(sys.stdin.fileno())
        if port.fileno() in ready:
            shown = port.recv(_PIECE)
            if not shown:
                raise Permanent("the machine has gone", hint="see its console")
            os.write(sys.stdout.fileno(), shown)
            last = (last + shown)[-len(_ENDED) :]
            if last == _ENDED:
                return
