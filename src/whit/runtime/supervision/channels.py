"""The descriptors between us and a command in an instance: pipes or a terminal, and what comes out of them.

Who runs the command is execute.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from typing import Literal

FINISH_POLL = 0.01
SEEN_LIMIT = 4096
UNREAD_LIMIT = 64
"""Pieces of output that wait for a reader before the command has to."""
END_OF_FILE = b"\x04"

Stream = Literal["stdout", "stderr"]


def pipes() -> Channels:
    """Three pipes: a command that opens /dev/stdin or /dev/stdout must not find a socket there."""
    input_in, input_out = os.pipe()
    output_out, output_in = os.pipe()
    errors_out, errors_in = os.pipe()
    return Channels((input_in, output_in, errors_in), input_out, [("stdout", output_out), ("stderr", errors_out)])


def terminal(rows: int, columns: int) -> Channels:
    """One pseudo-terminal."""
    ours, theirs = os.openpty()
    channels = Channels((theirs,), os.dup(ours), [("stdout", os.dup(ours))], terminal=ours)
    channels.resize(rows, columns)
    return channels


def set_size(descriptor: int, rows: int, columns: int) -> None:
    """ioctl_tty(2)."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Channels:
    """The descriptors between us and a command."""

    def __init__(
        self,
        inside: Sequence[int],
        input_: int,
        outputs: Sequence[tuple[Stream, int]],
        terminal: int | None = None,
    ) -> None:
        self.seen = b""
        """The start of what was printed: the runtime's message, if it could not start the command."""
        self._inside: Sequence[int] = inside
        self._outside = [input_, *(descriptor for _, descriptor in outputs)]
        self._output_ends = outputs
        self._terminal = terminal
        self._items: asyncio.Queue[tuple[Stream, bytes | None]] = asyncio.Queue()
        self._readers: list[asyncio.ReadTransport] = []
        self._writer: asyncio.StreamWriter | None = None
        self._abandoned = False

    @property
    def inside(self) -> tuple[int, int, int]:
        """The command's standard input, output and error."""
        return self._inside[0], self._inside[-1] if len(self._inside) == 1 else self._inside[1], self._inside[-1]

    async def connect(self) -> None:
        """Once the command has its ends: close them here, and watch ours."""
        self._close_inside()
        loop = asyncio.get_running_loop()
        input_, *outputs = self._outside
        self._outside = []
        for (stream, _), descriptor in zip(self._output_ends, outputs, strict=True):
            pipe = os.fdopen(descriptor, "rb", buffering=0)
            reader, _ = await loop.connect_read_pipe(lambda stream=stream: _Output(stream, self), pipe)  # type: ignore[misc]
            self._readers.append(reader)
        pipe = os.fdopen(input_, "wb", buffering=0)
        writer, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
        )
        self._writer = asyncio.StreamWriter(writer, protocol, None, loop)

    def received(self, stream: Stream, data: bytes | None) -> None:
        """Called as output comes; None is its end. If nobody reads, the command has to wait."""
        self._items.put_nowait((stream, data))
        self.seen = (self.seen + (data or b""))[:SEEN_LIMIT]
        if self._items.qsize() > UNREAD_LIMIT:
            for reader in self._readers:
                reader.pause_reading()

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        remaining = len(self._output_ends)
        while remaining:
            stream, data = await self._items.get()
            if self._items.qsize() <= UNREAD_LIMIT // 2:
                for reader in self._readers:
                    reader.resume_reading()
            if data is None:
                remaining -= 1
            else:
                yield stream, data

    async def finish(self) -> None:
        """No more comes: what is in the pipes is read, and they are closed, whoever else holds their other end."""
        while not self._abandoned and any(map(_waiting_bytes, self._readers)):  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(FINISH_POLL)
        for reader in self._readers:
            reader.close()

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._abandoned = True

    async def write(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._writer.write(data)
                await self._writer.drain()

    async def end_input(self) -> None:
        if self._terminal is not None:
            await self.write(END_OF_FILE)
        elif self._writer is not None:
            self._writer.close()

    def resize(self, rows: int, columns: int) -> bool:
        """False if there is no terminal."""
        if self._terminal is None:
            return False
        set_size(self._terminal, rows, columns)
        return True

    def close(self) -> None:
        self._close_inside()
        for reader in self._readers:
            reader.close()
        if self._writer is not None and not self._writer.is_closing():
            self._writer.transport.abort()
        for descriptor in self._outside:
            os.close(descriptor)
        self._outside = []
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def _close_inside(self) -> None:
        for descriptor in self._inside:
            os.close(descriptor)
        self._inside = ()


def _waiting_bytes(reader: asyncio.ReadTransport) -> int:
    """FIONREAD of ioctl_pipe; 0 once it is closed."""
    pipe = reader.get_extra_info("pipe")
    if reader.is_closing() or pipe is None or pipe.closed:
        return 0
    count = bytearray(4)
    fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


class _Output(asyncio.Protocol):
    def __init__(self, stream: Stream, channels: Channels) -> None:
        self._stream: Stream = stream
        self._channels = channels

    def data_received(self, data: bytes) -> None:
        self._channels.received(self._stream, data)

    def connection_lost(self, error: Exception | None) -> None:
        # An error too is the end: EIO is how a terminal says that nobody has it open any more.
        self._channels.received(self._stream, None)
