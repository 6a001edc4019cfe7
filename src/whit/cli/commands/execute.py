"""The exec command: runs a command in an instance over a WebSocket, and passes input, output and the window's size.

Frames as in src/whit/api/README.md. The main thread prints what comes; a second one reads the input, since a read
of a terminal cannot be waited for together with the library's receive call.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.base.errors import InputError, Unreachable, WhitError
from whit.cli.connection import transport
from whit.cli.display import terminal
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

STDIN, STDOUT, STDERR = b"\x00", 1, 2
_CHUNK = 65536


def add(app: typer.Typer) -> None:
    command(app, name="exec", context_settings={"allow_interspersed_args": False})(execute)


def execute(
    run: Invocation,
    target: Annotated[
        str, typer.Argument(metavar="INSTANCE|SERVICE", help="Of a service, its first running instance.")
    ],
    arguments: Annotated[list[str], typer.Argument(metavar="CMD", help="The command and its arguments.")],
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
    user: Annotated[
        str, typer.Option("--user", "-u", metavar="USER", help="user[:group]; default is the service's.")
    ] = "",
    cwd: Annotated[
        str, typer.Option("--workdir", "-w", metavar="DIR", help="Directory inside; default is the service's.")
    ] = "",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="May be repeated.")] = None,
) -> int:
    """Run a command in an instance, and end with its exit code.

    Options stand before INSTANCE: everything after it belongs to the command.

    \b
    Example:
      whit exec -it db psql -U postgres
      whit exec shop-api-1 python3 --version
    """
    from whit.cli import appfile
    from whit.cli.names import find_instance

    _check(run, interactive, tty, env or [])
    instance = find_instance(target, run.client.apps(), appfile.default_app()).name
    query: dict[str, Any] = {"arg": arguments, "tty": tty, "user": user, "cwd": cwd, "env": env}
    if tty:
        query["rows"], query["columns"] = terminal.size(sys.stdin.fileno())
    address = transport.target_of("instances", instance, "exec", query=query)
    with connected(run.settings.socket, address) as connection:
        session = Session(connection, json=run.json)
        if tty:
            return session.run_on_terminal(sys.stdin.fileno())
        return session.run(sys.stdin.fileno() if interactive else None)


class Session:
    """One command under way."""

    def __init__(self, connection: ClientConnection, *, json: bool = False) -> None:
        self.connection = connection
        self.write = _write_json if json else _write
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._over = threading.Event()

    def run_on_terminal(self, descriptor: int) -> int:
        """With the terminal in raw mode; changes of the window's size are passed on."""
        with terminal.raw(descriptor), terminal.watched_size(self._wake):
            return self.run(descriptor, resizable=True)

    def run(self, descriptor: int | None, *, resizable: bool = False) -> int:
        """Pass everything on until the command has ended; its exit code. Without `descriptor` its input is empty.

        Raises:
            Unreachable: the connection ended before the command.
        """
        if descriptor is None:
            self._end_input()
            return self._receive()
        sender = threading.Thread(target=self._send_input, args=(descriptor, resizable), daemon=True)
        sender.start()
        try:
            return self._receive()
        finally:
            self._over.set()
            self._wake()
            sender.join(1.0)

    def _end_input(self) -> None:
        """A quick command may have ended by now, and the connection with it: what it said is there to be read."""
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            self.connection.send(STDIN)

    def _receive(self) -> int:
        from websockets.exceptions import ConnectionClosed

        try:
            for message in self.connection:
                if isinstance(message, bytes):
                    self.write(message[0], message[1:])
                elif (code := _ended(json.loads(message))) is not None:
                    return code
        except ConnectionClosed as error:
            raise _gone() from error
        raise _gone()

    def _send_input(self, descriptor: int, resizable: bool) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            watched = [descriptor, self._wake_read]
            while not self._over.is_set():
                ready, _, _ = select.select(watched, [], [])
                if self._wake_read in ready:
                    self._woken(descriptor, resizable)
                if descriptor in ready and not self._pass_on(descriptor):
                    watched.remove(descriptor)

    def _pass_on(self, descriptor: int) -> bool:
        """One read of the input, sent; false at its end, which the empty frame says."""
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:  # EIO: the terminal was hung up
            data = b""
        self.connection.send(STDIN + data)
        return bool(data)

    def _woken(self, descriptor: int, resizable: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _CHUNK)
        if resizable and not self._over.is_set():
            self.connection.send(json.dumps({"resize": terminal.size(descriptor)}))

    def _wake(self) -> None:
        """From a signal handler: the handler itself must not send, the connection's lock may be held beneath it."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")


@contextlib.contextmanager
def connected(socket: Path, target: str) -> Iterator[ClientConnection]:
    """A WebSocket to the agent. Raises the problem it answered with, or Unreachable."""
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import unix_connect

    try:
        opened = unix_connect(
            str(socket),
            f"ws://whit{target}",
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=None,
        )
    except InvalidStatus as error:
        raise transport.error_of_answer(error.response.status_code, bytes(error.response.body or b"")) from error
    except OSError as error:
        raise transport.unreachable(socket, error) from error
    except WebSocketException as error:
        raise WhitError(f"the agent does not speak WebSocket as expected: {error}") from error
    with opened as connection:
        yield connection


def _check(run: Invocation, interactive: bool, tty: bool, env: list[str]) -> None:
    if tty and not sys.stdin.isatty():
        raise InputError("-t needs a terminal, and standard input is none", hint="leave out -t")
    if tty and not interactive:
        raise InputError("-t without -i would be a terminal that nobody types at", hint="use -it")
    if tty and run.json:
        raise InputError("a terminal's output is no JSON", hint="leave out -t or --json")
    for setting in env:
        if "=" not in setting:
            raise InputError(f"--env {setting} has no value", hint=f"write --env {setting}=VALUE")


def _ended(message: dict[str, Any]) -> int | None:
    """The exit code, if the message has one. Raises the problem, if it has one."""
    if problem := message.get("problem"):
        raise transport.error_of(problem)
    return int(message["exit"]) if "exit" in message else None


def _write(stream: int, data: bytes) -> None:
    descriptor = sys.stderr.fileno() if stream == STDERR else sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


def _write_json(stream: int, data: bytes) -> None:
    name = "stderr" if stream == STDERR else "stdout"
    document = {"stream": name, "text": data.decode(errors="replace")}
    print(json.dumps(document, ensure_ascii=False), flush=True)


def _gone() -> Unreachable:
    return Unreachable("the connection to the agent ended before the command", hint="`whit ps` shows what runs")
