"""Ethernet frames: sent by a link as if somebody inside of a namespace had sent them, or handed to who is at its other
end; what they carry, and their checksums.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whit.kernel import libc
from whit.kernel.network import netns

_ETHERNET = 14
_IPV4, _IPV6 = 0x0800, 0x86DD
_CHECKSUMS = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}
"""Where they are in the header, of protocols that have one of this kind."""
_SOL_PACKET, _QDISC_BYPASS = 263, 20


@dataclass(frozen=True)
class Segment:
    """Where TCP or UDP begins in a frame, and what it says there."""

    protocol: int
    offset: int
    source: bytes
    destination: bytes
    source_port: int
    port: int


def send(place: Path, link: str, frame: bytes) -> None:
    """Waits for nothing.

    Raises:
        NotFound: there is no such namespace.
        SystemCallError: it has no such link, or the link is down.
    """

    def inside() -> None:
        with libc.named("send", link), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((link, 0))
            sender.send(frame)

    netns.call_in(place, inside)


class Sender:
    """To whoever is at the other end of a link, past queues and programs of this end. For good: to close such a socket
    takes the kernel 6 to 16 ms (synchronize_net)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)

    def send(self, link: str, frames: Iterable[bytes]) -> None:
        """Raises SystemCallError: there is no such link, or it is down."""
        with libc.named("send", link):
            for frame in frames:
                self._socket.sendto(frame, (link, 0))

    def close(self) -> None:
        self._socket.close()


def segment_of(frame: bytes) -> Segment | None:
    """Of a whole TCP or UDP packet in a frame without tags; None for all else. IPv6 may have no extension headers."""
    if len(frame) < _ETHERNET + 20:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4:
        offset, protocol = _ETHERNET + (frame[_ETHERNET] & 15) * 4, frame[_ETHERNET + 9]
        source, destination = frame[26:30], frame[30:34]
    elif kind == _IPV6 and len(frame) >= _ETHERNET + 40:
        offset, protocol = _ETHERNET + 40, frame[_ETHERNET + 6]
        source, destination = frame[22:38], frame[38:54]
    else:
        return None
    if protocol not in _CHECKSUMS or len(frame) < offset + _CHECKSUMS[protocol] + 2:
        return None
    ports = struct.unpack_from("!HH", frame, offset)
    return Segment(protocol, offset, source, destination, *ports)


def with_checksum(frame: bytes, segment: Segment) -> bytes:
    """The frame with the checksum of TCP or UDP computed: of what a process of this machine sent, the sum was left to
    a link that is none. Frames may be longer than their packets, but not those of our links."""
    place = segment.offset + _CHECKSUMS[segment.protocol]
    body = bytearray(frame)
    body[place : place + 2] = b"\0\0"
    length = len(body) - segment.offset
    pseudo = segment.source + segment.destination + struct.pack("!II", length, segment.protocol)
    found = checksum(pseudo + bytes(body[segment.offset :]))
    # In UDP a sum of 0 says that there is none (RFC 768).
    body[place : place + 2] = (found or 0xFFFF).to_bytes(2, "big")
    return bytes(body)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
