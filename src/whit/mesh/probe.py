"""A first packet, made by hand, in an Ethernet frame: a TCP SYN (RFC 9293), an empty UDP datagram, an echo request of
ICMP (RFC 792, 4443), an INIT of SCTP (RFC 9260). Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP

_IPV4, _IPV6 = 0x0800, 0x86DD
_SYN = 0x02
_MSS = b"\x02\x04\x05\xb4"
_TTL = 64


@dataclass(frozen=True)
class Probe:
    """Both ends of the packet, of one family. Both ports of an echo request are its identifier."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int
    destination_port: int
    protocol: int
    source_mac: bytes
    destination_mac: bytes
    sequence: int = 0x57484954

    def frame(self) -> bytes:
        segment = self._segment()
        kind = _IPV6 if self.destination.version == 6 else _IPV4
        return self.destination_mac + self.source_mac + struct.pack("!H", kind) + self._header(len(segment)) + segment

    def _segment(self) -> bytes:
        if self.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            return self._echo_request()
        if self.protocol == IPPROTO_SCTP:
            return self._init()
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        if self.protocol == IPPROTO_TCP:
            offset = (20 + len(_MSS)) // 4 << 4
            head = ports + struct.pack("!IIBBH", self.sequence, 0, offset, _SYN, 64240)
            return head + struct.pack("!HH", self._checksum(head + bytes(4) + _MSS), 0) + _MSS
        head = ports + struct.pack("!H", 8)
        return head + struct.pack("!H", self._checksum(head + bytes(2)) or 0xFFFF)

    def _echo_request(self) -> bytes:
        kind = 8 if self.protocol == IPPROTO_ICMP else 128
        rest = struct.pack("!HH", self.source_port, 1)
        head = struct.pack("!BBH", kind, 0, 0)
        found = checksum(head + rest) if self.protocol == IPPROTO_ICMP else self._checksum(head + rest)
        return struct.pack("!BBH", kind, 0, found) + rest

    def _init(self) -> bytes:
        """Of one stream each way."""
        head = struct.pack("!HHI", self.source_port, self.destination_port, 0)
        chunk = struct.pack("!BBHIIHHI", 1, 0, 20, self.sequence, 65535, 1, 1, self.sequence)
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk

    def _checksum(self, segment: bytes) -> int:
        pseudo = self.source.packed + self.destination.packed + struct.pack("!II", len(segment), self.protocol)
        return checksum(pseudo + segment)

    def _header(self, length: int) -> bytes:
        if self.destination.version == 6:
            head = struct.pack("!IHBB", 6 << 28, length, self.protocol, _TTL)
            return head + self.source.packed + self.destination.packed
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, _TTL, self.protocol, 0)
        head += self.source.packed + self.destination.packed
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A), bit by bit: it is for one packet."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
