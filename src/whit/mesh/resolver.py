"""The resolver: a small process of its own that answers names from the state file, and passes the others on.

It outlives the agent, reads nothing but its state file and /etc/resolv.conf, and gives up its rights once it listens.
    python -m whit.mesh.resolver --id ID
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO

from dnslib import PTR, QTYPE, RCODE, RR, A, DNSHeader, DNSRecord

from whit.base.settings import Settings
from whit.mesh import names
from whit.mesh.names import NameTable

TTL = 5
"""Seconds: an address of a service does not change, but services come and go."""
NOBODY = 65534
UPSTREAM_TIMEOUT = 3.0
_PR_SET_NO_NEW_PRIVS = 38


class StateFile:
    """The names as they are now. The directory is opened once, by root: later, nobody may not walk the way to it."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.stamp: tuple[int, int] | None = None
        self.table = NameTable(listen="")
        self.current()

    def current(self) -> NameTable:
        """The file is replaced as a whole, so its inode number and time tell whether it is another."""
        with contextlib.suppress(FileNotFoundError), self._open() as file:
            found = os.fstat(file.fileno())
            if (found.st_ino, found.st_mtime_ns) != self.stamp:
                self.stamp = (found.st_ino, found.st_mtime_ns)
                self.table = names.parse_state(file.read())
        return self.table

    def _open(self) -> IO[str]:
        return os.fdopen(os.open(self.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory))


class Resolver:
    """Answers questions, each from the names of its moment."""

    def __init__(self, state: StateFile, upstreams: list[str]) -> None:
        self.state = state
        self.upstreams = upstreams

    async def answer(self, question: bytes, asker: str, *, stream: bool) -> bytes | None:
        """The reply to a question, or None if it was none."""
        try:
            record = DNSRecord.parse(question)
        except Exception:
            return None
        if not record.questions:
            return None
        own = self._own_answer(record, asker)
        return own.pack() if own is not None else await self._forward(record, question, stream=stream)

    def _own_answer(self, record: DNSRecord, asker: str) -> DNSRecord | None:
        """None: somebody else's name."""
        name, kind, table = str(record.q.qname), QTYPE[record.q.qtype], self.state.current()
        reply = DNSRecord(DNSHeader(id=record.header.id, qr=1, aa=1, ra=1, rd=record.header.rd), q=record.q)
        if kind == "PTR" and name.endswith(".in-addr.arpa."):
            found = names.reverse_lookup(table, ".".join(reversed(name.split(".")[:4])))
            if found is None:
                return None
            reply.add_answer(RR(name, QTYPE.PTR, rdata=PTR(found), ttl=TTL))
            return reply
        address = names.lookup(table, name, asker)
        if address is None:
            if not names.is_ours(name):
                return None
            reply.header.rcode = RCODE.NXDOMAIN
        elif kind in ("A", "ANY"):
            reply.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=TTL))
        return reply

    async def _forward(self, record: DNSRecord, question: bytes, *, stream: bool) -> bytes:
        for upstream in self.upstreams:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(UPSTREAM_TIMEOUT):
                    return await (ask_stream if stream else ask_datagram)(upstream, question)
        reply = record.reply()
        reply.header.rcode = RCODE.SERVFAIL
        return bytes(reply.pack())


async def ask_stream(upstream: str, question: bytes) -> bytes:
    """RFC 7766: a length of two bytes before each message."""
    reader, writer = await asyncio.open_connection(upstream, 53)
    try:
        writer.write(struct.pack("!H", len(question)) + question)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(length)
    finally:
        writer.close()


async def ask_datagram(upstream: str, question: bytes) -> bytes:
    """A socket of its own for each question: its port is part of what a forger must guess."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setblocking(False)
        await loop.sock_connect(own, (upstream, 53))
        await loop.sock_sendall(own, question)
        while True:
            reply = await loop.sock_recv(own, 65535)
            if reply[:2] == question[:2]:
                return reply


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        task = asyncio.create_task(self._reply(data, address))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _reply(self, data: bytes, address: tuple[str, int]) -> None:
        reply = await self.resolver.answer(data, address[0], stream=False)
        if reply is not None:
            self.transport.sendto(reply, address)  # type: ignore[attr-defined]


async def serve_stream(resolver: Resolver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Questions over TCP, one after the other."""
    asker = writer.get_extra_info("peername")[0]
    with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, ConnectionError):
        while True:
            async with asyncio.timeout(10):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                question = await reader.readexactly(length)
            reply = await resolver.answer(question, asker, stream=True)
            if reply is None:
                break
            writer.write(struct.pack("!H", len(reply)) + reply)
            await writer.drain()
    writer.close()


def upstreams_of(path: Path, own: str) -> list[str]:
    """The IPv4 name servers of resolv.conf(5), without ourselves."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and words[1] != own:
                with contextlib.suppress(ValueError):
                    found.append(str(IPv4Address(words[1])))
    return found


def give_up_rights() -> None:
    """Become nobody, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


async def serve(settings: Settings) -> None:
    state = StateFile(names.state_file(settings))
    listen = state.table.listen
    resolver = Resolver(state, upstreams_of(Path("/etc/resolv.conf"), listen))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await loop.create_datagram_endpoint(lambda: Datagrams(resolver), local_addr=(listen, 53))
    server = await asyncio.start_server(lambda r, w: serve_stream(resolver, r, w), listen, 53)
    if os.geteuid() == 0:
        give_up_rights()
    async with server:
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="whit-resolver", description="The name server of a Whit node.")
    parser.add_argument("--id", required=True, help="the agent's id")
    settings = Settings.from_environment()
    arguments = parser.parse_args()
    if arguments.id != settings.id:
        settings = Settings(arguments.id, settings.run_root, settings.state_root)
    sys.exit(asyncio.run(serve(settings)))


if __name__ == "__main__":
    main()
