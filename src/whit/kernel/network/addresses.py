"""Addresses of links."""

from __future__ import annotations

import errno
import socket
import struct
from collections import defaultdict
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from whit.kernel.network.netlink import NLM_F_CREATE, NLM_F_REPLACE, Message, NetlinkSocket, attribute, attributes

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 2
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg."""


def add(address: IPv4Interface | IPv6Interface, index: int) -> Message:
    """Give a link an address. An IPv6 address is usable at once: nobody else is asked whether he has it."""
    body = _head(address, index, _IFA_F_NODAD if address.version == 6 else 0)
    return Message(_RTM_NEWADDR, body, f"add address {address} to link {index}", NLM_F_CREATE | NLM_F_REPLACE)


def remove(address: IPv4Interface | IPv6Interface, index: int) -> Message:
    body = _head(address, index, 0)
    gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
    return Message(_RTM_DELADDR, body, f"remove address {address} from link {index}", accept=gone)


def _head(address: IPv4Interface | IPv6Interface, index: int, flags: int) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = _ADDRESS.pack(family, address.network.prefixlen, flags, 0, index)
    return head + attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)


def by_link(netlink: NetlinkSocket) -> dict[int, list[IPv4Interface | IPv6Interface]]:
    """All addresses by the index of their link."""
    found = defaultdict(list)
    for reply in netlink.dump(Message(_RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), "list addresses")):
        _, length, _, _, index = _ADDRESS.unpack_from(reply.body)
        values = attributes(reply.body[_ADDRESS.size :])
        # On a point-to-point link, ADDRESS is the other end; IPv6 has LOCAL only there.
        address = ip_address(values.get(_IFA_LOCAL) or values[_IFA_ADDRESS])
        found[index].append(ip_interface(f"{address}/{length}"))
    return dict(found)
