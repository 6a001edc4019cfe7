"""The name servers that the host itself asks, and passing questions on to them, over UDP or TCP as they came.

Messages are passed on as bytes: what is in them is between the asker and the server. Nothing is kept for later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

PORT = 53
TIMEOUT = 1.5
"""Seconds for one server; each is asked twice."""
PATIENCE = 4.5
"""Seconds for all: a little less than those after which the C library asks again."""
LIMIT = 256
"""Questions that may be under way at once: each holds a socket."""


class Upstream:
    """The servers of resolv.conf(5), which is read again whenever it has changed."""

    def __init__(self, path: Path, own: str, port: int = PORT) -> None:
        self.path = path
        self.own = own
        self.port = port
        self.under_way = 0
        self._stamp: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        """Their addresses, without our own."""
        with contextlib.suppress(OSError):
            found = self.path.stat()
            if (found.st_ino, found.st_mtime_ns) != self._stamp:
                self._stamp = (found.st_ino, found.st_mtime_ns)
                self._servers = servers_in(self.path.read_text(errors="replace"), self.own)
        return self._servers

    async def ask(self, question: bytes, *, stream: bool) -> bytes | None:
        """The reply of the first server that gives one; None if there is none, or too many questions are under way."""
        if self.under_way >= LIMIT:
            return None
        self.under_way += 1
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask_all(question, stream=stream)
        except TimeoutError:
            return None
        finally:
            self.under_way -= 1

    async def _ask_all(self, question: bytes, *, stream: bool) -> bytes | None:
        ask = ask_stream if stream else ask_datagram
        for server in self.servers() * 2:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIMEOUT):
                    return await ask(server, self.port, question)
        return None


def servers_in(text: str, own: str) -> list[str]:
    """The `nameserver` lines, each server once."""
    found = dict.fromkeys(
        words[1] for words in map(str.split, text.splitlines()) if len(words) > 1 and words[0] == "nameserver"
    )
    return [address for address in found if address != own and _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


async def ask_stream(server: str, port: int, question: bytes) -> bytes:
    """RFC 7766: a length of two bytes before each message."""
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(struct.pack("!H", len(question)) + question)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)
    finally:
        writer.close()


async def ask_datagram(server: str, port: int, question: bytes) -> bytes:
    """A socket of its own for each question: its port is part of what a forger must guess."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.setblocking(False)
        await loop.sock_connect(own, (server, port))
        await loop.sock_sendall(own, question)
        while True:
            reply = await loop.sock_recv(own, 65535)
            if reply[:2] == question[:2]:
                return reply
