"""The resolver: a small process of its own that answers names from the state file, and passes the others on.

It outlives the agent, reads nothing but its state file and /etc/resolv.conf, and gives up its rights once it listens.
It answers addresses of its own pool only. Names outside are passed on for everybody: that an address is known lets
nobody reach it.
    python -m whit.mesh.dns.resolver --id ID
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
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import IO, Any

from dnslib import AAAA, CNAME, EDNS0, PTR, QTYPE, RCODE, RD, RR, A, DNSHeader, DNSRecord

from whit.base.settings import Settings
from whit.mesh.dns import names
from whit.mesh.dns.announce import Announcer
from whit.mesh.dns.answers import Given, given_by, plain
from whit.mesh.dns.names import Found, NameTable
from whit.mesh.dns.questions import Teller
from whit.mesh.dns.upstream import PATIENCE, Upstream

TTL = 5
"""Seconds: an address of a service does not change, but services come and go."""
RESOLV_CONF = Path("/etc/resolv.conf")
NOBODY = 65534
DATAGRAM = 1232
"""Bytes of a reply that no path has to cut up (DNS flag day 2020)."""
STREAMS = 256
"""TCP connections at once."""
IDLE = 10.0
UNIQUE_LOCAL = IPv6Network("fc00::/7")
"""Names of these addresses are nobody's business outside (RFC 6303, 4.4)."""
_PR_SET_NO_NEW_PRIVS = 38
_IP_FREEBIND = 15
_QUERY = 0
_ADDRESSES = (QTYPE.A, QTYPE.AAAA, QTYPE.ANY)
MOST_ALIASES = 256
_OPT = 41


class StateFile:
    """The names as they are now. The directory is opened once, by root: later, nobody may not walk the way to it."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, and ValueError or KeyError if it is no state file."""
        self.name = path.name
        self.directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with self._open() as file:
            self.stamp = _stamp(file)
            self.table = names.parse_state(file.read())

    def current(self) -> NameTable:
        """The file is replaced as a whole, so its inode number and time tell whether it is another."""
        with contextlib.suppress(FileNotFoundError), self._open() as file:
            if _stamp(file) != self.stamp:
                self.stamp = _stamp(file)
                self._take(file.read())
        return self.table

    def _take(self, text: str) -> None:
        """One that cannot be read, as of another release, leaves the last good one in force."""
        try:
            self.table = names.parse_state(text)
        except (ValueError, KeyError, TypeError) as error:
            print(f"{self.name} is not understood, names stay as they are: {error!r}", file=sys.stderr, flush=True)

    def _open(self) -> IO[str]:
        return os.fdopen(os.open(self.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory))


def _stamp(file: IO[str]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_mtime_ns


class Resolver:
    """Answers questions, each from the names of its moment."""

    def __init__(self, state: StateFile, upstream: Upstream, teller: Teller, announcer: Announcer) -> None:
        self.state = state
        self.upstream = upstream
        self.teller = teller
        self.announcer = announcer
        self.aliases: dict[str, tuple[str, float]] = {}
        """What names of policies were said to stand for: the name, and until when."""
        self.pool = IPv4Network(f"{state.table.listen}/16", strict=False)
        self.pool6 = IPv6Network(f"{state.table.listen6}/64", strict=False) if state.table.listen6 else None

    async def answer(self, question: bytes, asker: str, *, stream: bool) -> bytes | None:
        """The reply to a question. None if it is none, or comes from somebody whom it is no business of ours to serve:
        an open resolver is a weapon."""
        if not self._serves(ip_address(asker)):
            return None
        try:
            record = DNSRecord.parse(question)
        except Exception:  # dnslib raises whatever the broken message made it stumble over
            return None
        if record.header.qr:
            return None
        reply = self._own_answer(record, asker)
        if reply is not None and record.q.qtype != QTYPE.CNAME and reply.rr and reply.rr[0].rtype == QTYPE.CNAME:
            await self._follow(reply, asker)
        if reply is None:
            passed = await self.upstream.ask(question, stream=stream)
            if passed is not None:
                await self._tell(asker, record, passed)
                return passed
            reply = _reply(record, RCODE.SERVFAIL)
        return bytes(reply.pack())

    async def _tell(self, asker: str, question: DNSRecord, reply: bytes) -> None:
        """Returns when the agent knows what policy is to know before the asker does."""
        asked = plain(str(question.q.qname))
        name = self._policys_name(asked)
        given = given_by(reply) if name and question.q.qtype in _ADDRESSES else None
        if given is None or given.name != asked:
            self.teller.tell(asker, reply)
            return
        if given.alias and not given.addresses:
            self._remember_alias(given, name)
        if given.addresses:
            await self.announcer.announce(asker, replace(given, name=name))

    def _policys_name(self, asked: str) -> str:
        """The name that policy knows, if what is asked for is one, or was given as the alias of one. Else empty."""
        if names.is_spoken_of(self.state.current(), asked):
            return asked
        name, until = self.aliases.get(asked, ("", 0.0))
        return name if time.monotonic() < until else ""

    def _remember_alias(self, given: Given, name: str) -> None:
        """The server leaves it to the asker to follow it."""
        self.aliases.pop(given.alias, None)
        self.aliases[given.alias] = name, time.monotonic() + given.alias_ttl + PATIENCE
        if len(self.aliases) > MOST_ALIASES:
            del self.aliases[next(iter(self.aliases))]

    def _serves(self, asker: IPv4Address | IPv6Address) -> bool:
        if isinstance(asker, IPv4Address):
            return asker in self.pool
        return self.pool6 is not None and asker in self.pool6

    def _own_answer(self, record: DNSRecord, asker: str) -> DNSRecord | None:
        """None: somebody else's name."""
        if record.header.get_opcode() != _QUERY:
            return _reply(record, RCODE.NOTIMP)
        if len(record.questions) != 1:
            return _reply(record, RCODE.FORMERR)
        name, kind, table = str(record.q.qname), QTYPE.get(record.q.qtype), self.state.current()
        if (address := names.address_of_reverse(name)) is not None:
            return self._reverse(record, table, address)
        found = names.lookup(table, name, asker)
        if found is None:
            return _reply(record, RCODE.NXDOMAIN) if names.is_ours(name) else None
        return _reply(record, RCODE.NOERROR, *_data(found, str(kind)))

    async def _follow(self, reply: DNSRecord, asker: str) -> None:
        """Add what the alias stands for; without an answer, the asker asks for it himself."""
        question = DNSRecord.question(str(reply.rr[0].rdata), QTYPE.get(reply.q.qtype))
        passed = await self.upstream.ask(bytes(question.pack()), stream=False)
        if passed is not None:
            await self._tell(asker, question, passed)
            with contextlib.suppress(Exception):  # as above
                reply.add_answer(*DNSRecord.parse(passed).rr)

    def _reverse(self, record: DNSRecord, table: NameTable, address: IPv4Address | IPv6Address) -> DNSRecord | None:
        found = names.reverse_lookup(table, str(address))
        if found is None:
            return _reply(record, RCODE.NXDOMAIN) if address in self.pool or address in UNIQUE_LOCAL else None
        return _reply(record, RCODE.NOERROR, *([PTR(found)] if record.q.qtype == QTYPE.PTR else []))


def _data(found: Found, kind: str) -> list[RD]:
    if found.alias:
        return [CNAME(found.alias)] if kind in ("A", "AAAA", "ANY", "CNAME") else []
    kinds = {"A": (A,), "AAAA": (AAAA,), "ANY": (A, AAAA)}.get(kind, ())
    data = [AAAA(address) if ":" in address else A(address) for address in found.addresses]
    return [one for one in data if isinstance(one, kinds)]


def _reply(record: DNSRecord, code: int, *data: RD) -> DNSRecord:
    header = DNSHeader(id=record.header.id, qr=1, aa=1, ra=1, rd=record.header.rd, rcode=code)
    header.set_opcode(record.header.get_opcode())
    reply = DNSRecord(header, questions=record.questions[:1])
    for one in data:
        kind = QTYPE.reverse[type(one).__name__]
        reply.add_answer(RR(record.q.qname, kind, rdata=one, ttl=TTL))
    if any(extra.rtype == _OPT for extra in record.ar):
        reply.add_ar(EDNS0(udp_len=DATAGRAM))
    return reply


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        task = asyncio.create_task(self._reply(data, address))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _reply(self, data: bytes, address: tuple[Any, ...]) -> None:
        reply = await self.resolver.answer(data, address[0], stream=False)
        if reply is not None:
            self.transport.sendto(reply, address)  # type: ignore[attr-defined]


class Streams:
    """Questions over TCP, those of one connection after the other."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            if self.open <= STREAMS:
                await self._answer_all(reader, writer)
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = writer.get_extra_info("peername")[0]
        while True:
            async with asyncio.timeout(IDLE):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                question = await reader.readexactly(length)
            reply = await self.resolver.answer(question, asker, stream=True)
            if reply is None:
                return
            writer.write(struct.pack("!H", len(reply)) + reply)
            await writer.drain()


def give_up_rights() -> None:
    """Become nobody, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


async def serve(settings: Settings) -> None:
    """Until a signal ends it."""
    state = StateFile(names.state_file(settings))
    listen = state.table.listen
    resolver = Resolver(state, Upstream(RESOLV_CONF, listen), Teller(state.directory), Announcer())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    streams = Streams(resolver)
    async with contextlib.AsyncExitStack() as stack:
        for address in filter(None, (listen, state.table.listen6)):
            datagrams = bound(address, socket.SOCK_DGRAM)
            await loop.create_datagram_endpoint(lambda: Datagrams(resolver), sock=datagrams)
            server = await asyncio.start_server(streams.serve, sock=bound(address, socket.SOCK_STREAM))
            await stack.enter_async_context(server)
        if os.geteuid() == 0:
            give_up_rights()
        await stop.wait()


def bound(address: str, kind: socket.SocketKind) -> socket.socket:
    """At port 53, also of an address that the node is only about to have."""
    own = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        own.bind((address, 53))
    except OSError:
        own.close()
        raise
    return own


def main() -> None:
    parser = argparse.ArgumentParser(prog="whit-resolver", description="The name server of a Whit node.")
    parser.add_argument("--id", required=True, help="the agent's id")
    parser.add_argument("--form", help="what the agent expects; for the agent to see")
    settings = Settings.from_environment()
    arguments = parser.parse_args()
    if arguments.id != settings.id:
        settings = Settings(arguments.id, settings.run_root, settings.state_root)
    try:
        asyncio.run(serve(settings))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"whit-resolver: {error} (it serves what the agent writes to {names.state_file(settings)})")


if __name__ == "__main__":
    main()
