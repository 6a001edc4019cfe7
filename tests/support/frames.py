"""First packets as bytes, made by struct alone: where there are many, scapy takes too long. Checksums are left out."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from support.packet_lab import ICMP_NUMBER, ICMPV6_NUMBER, SCTP_NUMBER, TCP_NUMBER, UDP_NUMBER

_SYN = 2


def frame(
    macs: tuple[bytes, bytes], source: str, destination: str, protocol: int, source_port: int, port: int
) -> bytes:
    """`macs` are of the destination and the source. Of ICMP, `port` is type and code, `source_port` the identifier."""
    own, peer = ip_address(source), ip_address(destination)
    load = _load(protocol, source_port, port)
    if own.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(load), protocol, 64) + own.packed + peer.packed
        return macs[0] + macs[1] + b"\x86\xdd" + head + load
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(load), 1, 0x4000, 64, protocol, 0) + own.packed + peer.packed
    return macs[0] + macs[1] + b"\x08\x00" + head + load


def _load(protocol: int, source_port: int, port: int) -> bytes:
    if protocol == TCP_NUMBER:
        return struct.pack("!HHIIBBHHH", source_port, port, 7, 0, 5 << 4, _SYN, 65535, 0, 0)
    if protocol == UDP_NUMBER:
        return struct.pack("!HHHH", source_port, port, 13, 0) + b"hello"
    if protocol in (ICMP_NUMBER, ICMPV6_NUMBER):
        return struct.pack("!BBHHH", port >> 8, port & 0xFF, 0, source_port, 1) + b"ping"
    if protocol == SCTP_NUMBER:
        return struct.pack("!HHII", source_port, port, 0, 0)
    return bytes(8)
