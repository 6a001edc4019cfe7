"""Address: 16 bytes as the datapath's maps hold them, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import ClassVar

_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Address:
    """struct address of abi.h. `str()` gives the usual notation of its family."""

    FORMAT: ClassVar[str] = "16s"
    SIZE: ClassVar[int] = 16

    packed: bytes

    def __post_init__(self) -> None:
        if len(self.packed) != self.SIZE:
            raise ValueError(f"an address has {self.SIZE} bytes, not {len(self.packed)}")

    @classmethod
    def from_ip(cls, ip: str | IPv4Address | IPv6Address) -> Address:
        """Raises ValueError if the text is no address."""
        if isinstance(ip, str) and ":" not in ip:
            try:
                return cls(_MAPPED + socket.inet_pton(socket.AF_INET, ip))  # ten times as fast, for tables of thousands
            except OSError:
                pass  # and now for the words that tell why
        address = ip_address(ip)
        return cls(_MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed)

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        if self.packed.startswith(_MAPPED):
            return IPv4Address(self.packed[12:])
        return IPv6Address(self.packed)

    def pack(self) -> bytes:
        return self.packed

    @classmethod
    def unpack(cls, data: bytes) -> Address:
        return cls(data)

    def __str__(self) -> str:
        return str(self.ip)


def prefix_of(network: IPv4Network | IPv6Network) -> tuple[int, Address]:
    """Prefix length in the 128-bit space and first address, as keys of longest-prefix maps want them."""
    offset = 96 if isinstance(network, IPv4Network) else 0
    return offset + network.prefixlen, Address.from_ip(network.network_address)
