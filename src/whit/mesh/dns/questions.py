"""What instances asked the resolver, told to the agent: each answer from elsewhere as one datagram.

The resolver waits for nobody: while no agent listens, or it is slow, answers are not told, and flows to these addresses
have no name. The agent looks at the socket when it looks at the ring. Only root and the resolver can walk to it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dnslib import QTYPE, DNSRecord

NAME = "questions.sock"
ROOM = 1 << 20
"""Bytes of answers that wait for the agent."""
_ASKER = 16
_LONGEST = 65535


@dataclass(frozen=True)
class Answer:
    """`asker` was told that `name` is at `addresses`."""

    asker: IPv4Address | IPv6Address
    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]


class Teller:
    """The resolver's side."""

    def __init__(self, directory: int) -> None:
        """Makes the directory the process's own: after its rights are given up it can walk to no other."""
        os.fchdir(directory)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def tell(self, asker: str, reply: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody listens, or too much waits
            self._socket.sendto(ip_address(asker).packed.rjust(_ASKER, b"\0") + reply, NAME)


class Listener:
    """The agent's side."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path = directory / NAME
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._socket.bind(str(self.path))
        self.path.chmod(0o666)

    def close(self) -> None:
        """Safe twice."""
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def read(self, limit: int = 16) -> Iterator[Answer]:
        """Answers with addresses that wait, at most so many; never waits itself. One takes some 200 us."""
        for _ in range(limit):
            try:
                data = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return
            answer = parse(data)
            if answer and answer.addresses:
                yield answer


def parse(data: bytes) -> Answer | None:
    """None if it is no answer that can be read: what servers send is not ours."""
    packed = data[:_ASKER]
    try:
        asker = IPv4Address(packed[12:]) if not any(packed[:12]) else IPv6Address(packed)
        record = DNSRecord.parse(data[_ASKER:])
        kinds = (QTYPE.A, QTYPE.AAAA)
        addresses = tuple(ip_address(str(one.rdata)) for one in record.rr if one.rtype in kinds)
        return Answer(asker, str(record.q.qname).rstrip("."), addresses)
    except Exception:  # dnslib raises whatever the broken message made it stumble over
        return None
