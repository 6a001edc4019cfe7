"""Which TCP ports a network namespace listens on, and when that may have changed. Format: sock_diag(7).

The kernel tells when a socket is destroyed. Of those, only sockets without a peer come through to us: connections that
end, of which there may be very many, are sifted out in the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Self

from whit.kernel import libc, netns
from whit.kernel.netlink import Message, NetlinkSocket

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_DESTROYED = 1 << 0 | 1 << 2
"""Groups 1 (IPv4) and 3 (IPv6) of <linux/sock_diag.h>."""
_LISTEN = 10
"""TCP_LISTEN of <net/tcp_states.h>."""
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


class Listeners:
    """Of one namespace, usable from anywhere. Made by `inside`; for the caller to close."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self._asking = opened.enter_context(NetlinkSocket(_NETLINK_SOCK_DIAG))
            with libc.named("socket NETLINK_SOCK_DIAG"):
                self.events = opened.enter_context(
                    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
                )
                _sift(self.events)
                self.events.bind((0, _TCP_DESTROYED))
            self._opened = opened.pop_all()

    @classmethod
    def inside(cls, path: Path) -> Listeners:
        """Of the namespace kept at `path`. Raises SystemCallError: a kernel without inet_diag; NotFound: it is gone."""
        return netns.call_in(path, cls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def ended(self) -> frozenset[int]:
        """Ports of sockets that had no peer and are gone, once; empty if nothing is to be read, or if it was lost."""
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

    def ports(self) -> frozenset[int]:
        """That are listened on for others than the namespace itself."""
        return frozenset(port for family in (socket.AF_INET, socket.AF_INET6) for port in self._ports(family))

    def _ports(self, family: int) -> Iterator[int]:
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
        for reply in self._asking.dump(Message(_SOCK_DIAG_BY_FAMILY, request, "list listening sockets")):
            _, _, port, _, address = _FOUND.unpack_from(reply.body)
            if not _is_loopback(family, address):
                yield int.from_bytes(port, "big")


def _is_loopback(family: int, address: bytes) -> bool:
    return address[0] == 127 if family == socket.AF_INET else IPv6Address(address).is_loopback


def _sift(events: socket.socket) -> None:
    code = b"".join(struct.pack("=HBBI", *one) for one in _WITHOUT_PEER)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(_WITHOUT_PEER), ctypes.addressof(buffer))
    events.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
