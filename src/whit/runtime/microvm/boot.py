"""Boot: a virtual machine in the foreground, from its first word on the console to the end of QEMU.

It dies with this process, however that ends. A machine of ours tells by its port "whit.boot" how its process ended
(init/guest/appliance.c), and is asked through it to end; another one is switched off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from whit.base.errors import CommandError, TimedOut
from whit.tools import process, qemu

PORT = "whit.boot"
GRACE = 30.0
"""Seconds after which a machine that was asked to end is switched off; init gives its process ten, by its own clock."""
_PIECE = 1 << 16
_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""QEMU has no option that ends it with its parent before 10.1."""


@dataclass
class Verdict:
    """What the machine said: `ready` when its process was started, `status` when that had ended."""

    ready: bool = False
    status: int | None = None


async def run(
    machine: qemu.Machine, show: Callable[[bytes], None], stop: asyncio.Event, *, timeout: float | None = None
) -> Verdict:
    """Run it to its end, or until `stop` is set. `show` gets what it prints.

    Raises:
        TimedOut: it did not end within `timeout` seconds, and was switched off.
        CommandError: QEMU could not run it.
    """
    verdict = Verdict()
    async with _started(machine) as (qemu_process, console, port, argv):
        async with asyncio.TaskGroup() as tasks:
            printing = tasks.create_task(_print(console, show))
            talking = tasks.create_task(_talk(port, verdict, stop))
            ended = await _ended(qemu_process, verdict, stop, timeout)
            talking.cancel()
            await asyncio.wait([printing], timeout=1)
            printing.cancel()
        if not ended:
            raise TimedOut(f"the machine {machine.name} did not end within {timeout:g} s", hint="see what it printed")
        errors = await qemu_process.stderr.read() if qemu_process.stderr else b""
    if qemu_process.returncode and not stop.is_set():
        raise CommandError(argv, qemu_process.returncode, errors.decode(errors="replace"))
    return verdict


async def _ended(
    running: asyncio.subprocess.Process, verdict: Verdict, stop: asyncio.Event, timeout: float | None
) -> bool:
    """Wait for the end; if it is asked to, for as long as a machine may take that listens. False: it took too long."""
    waiting = asyncio.ensure_future(running.wait())
    asked = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([waiting, asked], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if asked.done() and verdict.ready:
            await asyncio.wait([waiting], timeout=GRACE)
        return waiting.done() or asked.done()
    finally:
        asked.cancel()
        if running.returncode is None and not waiting.done():
            with contextlib.suppress(ProcessLookupError):
                running.kill()
        await waiting


@asynccontextmanager
async def _started(
    machine: qemu.Machine,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, socket.socket, list[str]]]:
    with contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours2, theirs2 = map(stack.enter_context, socket.socketpair())
        ours2.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        ports = (*machine.ports, qemu.Port(PORT, theirs2.fileno()))
        told = replace(machine, console=theirs.fileno(), ports=ports)
        argv = [*_WITH_US, *qemu.command(told, await qemu.accelerator_of(machine), await qemu.version())]
        running = await process.attach(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), theirs2.fileno()),
        )
        theirs.close()
        theirs2.close()
        try:
            yield running, reader, ours2, argv
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
            writer.close()


async def _print(console: asyncio.StreamReader, show: Callable[[bytes], None]) -> None:
    """Lines end as everywhere else, not as on a serial line."""
    with contextlib.suppress(ConnectionError):
        while data := await console.read(_PIECE):
            show(data.replace(b"\r\n", b"\n"))


async def _talk(port: socket.socket, verdict: Verdict, stop: asyncio.Event) -> None:
    async def ask() -> None:
        await stop.wait()
        await loop.sock_sendall(port, b"stop\n")

    loop = asyncio.get_running_loop()
    asking = asyncio.create_task(ask())
    said = b""
    try:
        while data := await loop.sock_recv(port, _PIECE):
            said += data
            *lines, said = said.split(b"\n")
            for line in lines:
                _hear(line.decode(errors="replace"), verdict)
    except ConnectionError:
        return
    finally:
        asking.cancel()


def _hear(line: str, verdict: Verdict) -> None:
    word, _, rest = line.partition(" ")
    if word == "ready":
        verdict.ready = True
    elif word == "exit" and rest.isdigit():
        verdict.status = int(rest)


def write_all(descriptor: int, data: bytes) -> None:
    """To a terminal or a pipe, whole."""
    while data:
        data = data[os.write(descriptor, data) :]
