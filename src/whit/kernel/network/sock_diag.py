"""The kernel's own answer to who listens in a network namespace, and its word when a socket ends. Format: sock_diag(7).

Asked for listeners alone, it looks at them alone; the tables below /proc/net go through all connections of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self

from whit.kernel import libc
from whit.kernel.network.netlink import Message, NetlinkSocket

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_DESTROYED = 1 << 0 | 1 << 2
"""Groups 1 (IPv4) and 3 (IPv6) of <linux/sock_diag.h>."""
_WAITS_FOR_PEERS = {socket.IPPROTO_TCP: 1 << 10, socket.IPPROTO_UDP: 1 << 7}
"""TCP_LISTEN and, of UDP, without a peer: TCP_CLOSE of <net/tcp_states.h>."""
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_REQUEST = struct.Struct("=BBBxI48x")
"""struct inet_diag_req_v2, of any socket."""
_FOUND = struct.Struct("=BB2x2s2s16s")
"""The beginning of struct inet_diag_msg: family, state, both ports, own address."""
_SO_ATTACH_FILTER = 26
_OWN_PORT, _PEER_PORT = 20, 22
"""Where they stand in a message, behind the header of netlink."""
_WITHOUT_PEER = (
    (0x28, 0, 0, _PEER_PORT),  # load half-word
    (0x15, 0, 1, 0),  # if it is not 0, skip one
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of the message
    (0x06, 0, 0, 0),  # take nothing
)


@dataclass(frozen=True)
class Listener:
    protocol: int
    port: int
    is_local: bool
    """Only the namespace itself can reach it."""


class SockDiag:
    """Asks in the namespace in which it was made, from anywhere. For the caller to close."""

    def __init__(self) -> None:
        self._asking = NetlinkSocket(_NETLINK_SOCK_DIAG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.__exit__(None, None, None)

    def listeners(self, *protocols: int) -> Iterator[Listener]:
        """Sockets that wait for a peer. Raises SystemCallError: the kernel does not tell this of a protocol."""
        for protocol in protocols:
            for family in _FAMILIES:
                request = _REQUEST.pack(family, protocol, 0, _WAITS_FOR_PEERS[protocol])
                for reply in self._asking.dump(Message(_SOCK_DIAG_BY_FAMILY, request, "list listening sockets")):
                    _, _, port, _, address = _FOUND.unpack_from(reply.body)
                    yield Listener(protocol, int.from_bytes(port, "big"), _is_loopback(family, address))


class Ends:
    """Tells which sockets of TCP have gone, in the namespace in which it was made. For the caller to close.

    Of those, only sockets without a peer come through to us: connections that end, of which there may be very many,
    are sifted out in the kernel.
    """

    def __init__(self) -> None:
        with libc.named("socket NETLINK_SOCK_DIAG"), contextlib.ExitStack() as opened:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
            self.events = opened.enter_context(socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG))
            _sift(self.events)
            self.events.bind((0, _TCP_DESTROYED))
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.events.close()

    def ports(self) -> frozenset[int]:
        """Of sockets that had no peer and are gone, once; empty if nothing is to be read, or if it was lost."""
        found: set[int] = set()
        while True:
            try:
                message = self.events.recv(1 << 16)
            except BlockingIOError:
                return frozenset(found)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            found.add(int.from_bytes(message[_OWN_PORT:_PEER_PORT], "big"))


def _is_loopback(family: int, address: bytes) -> bool:
    return address[0] == 127 if family == socket.AF_INET else IPv6Address(address).is_loopback


def _sift(events: socket.socket) -> None:
    code = b"".join(struct.pack("=HBBI", *one) for one in _WITHOUT_PEER)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(_WITHOUT_PEER), ctypes.addressof(buffer))
    events.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
