"""Speaks with the first process of a microVM's container (init/host/machine.c), and through it with the guest.

The socket is reached through the process's root. Format: frames of init/channel/wire.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from pathlib import Path

from whit.base.errors import NotFound, TimedOut

PATIENCE = 60.0
"""Seconds for an answer: a guest that has just been started boots first."""
_HEADER = struct.Struct("=III")
"""struct frame: channel, type, length."""
_SOCKET = "run/machine.sock"
_PAUSE = 0.005


class Frame(IntEnum):
    """enum frame_type, as far as it is spoken here."""

    LISTENERS = 13
    BEGIN = 14
    PAUSE = 15
    RESUME = 16


class Line:
    """A connection. Made by `line`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, frame: Frame, payload: bytes = b"", *, timeout: float = PATIENCE) -> bytes:
        """Send a frame; the payload of the next one of the same kind.

        Raises:
            NotFound: the machine has ended.
            TimedOut: no answer came.
        """
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(_HEADER.pack(0, frame, len(payload)) + payload)
                await self._writer.drain()
                while True:
                    _, kind, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
                    answer = await self._reader.readexactly(length)
                    if kind == frame:
                        return answer
        except TimeoutError:
            raise TimedOut(f"the guest did not answer {frame.name} within {timeout:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise NotFound("the virtual machine has ended") from error


@asynccontextmanager
async def line(process: int, *, patience: float = 0.0) -> AsyncIterator[Line]:
    """To the machine whose first process this is. Raises NotFound if it does not listen within `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(Path(f"/proc/{process}/root") / _SOCKET)
            break
        except OSError as error:
            if time.monotonic() > until:
                raise NotFound(f"no virtual machine listens in process {process}") from error
        await asyncio.sleep(_PAUSE)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
