"""Routes of the main table, and permanent neighbours (who has an address on a link, without asking by ARP)."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from whit.kernel.network.netlink import NLM_F_CREATE, NLM_F_REPLACE, Message, NetlinkSocket, attribute, attributes

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE, _RTM_NEWNEIGH = 24, 25, 26, 28
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 7, 15
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RTN_UNICAST = 1
_RTNH_F_ONLINK = 4
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg."""
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""struct ndmsg."""


@dataclass(frozen=True)
class Route:
    """A route of the main table. Without a gateway, the destination is on the link itself."""

    destination: Network
    link: int
    gateway: Address | None = None
    source: Address | None = None
    """The address that the node's own sockets take when they send there."""
    on_link: bool = False
    """The gateway is on the link although no route says so."""


def add(route: Route) -> Message:
    """Add the route, or put it in the place of the one to the same destination."""
    says = f"add route {route.destination} on link {route.link}"
    return Message(_RTM_NEWROUTE, _pack(route), says, NLM_F_CREATE | NLM_F_REPLACE)


def remove(route: Route) -> Message:
    says = f"remove route {route.destination} on link {route.link}"
    return Message(_RTM_DELROUTE, _pack(route), says, accept=(errno.ESRCH, errno.ENODEV))


def _pack(route: Route) -> bytes:
    head = _ROUTE.pack(
        _family(route.destination.version),
        route.destination.prefixlen,
        0,
        0,
        _RT_TABLE_MAIN,
        _RTPROT_STATIC,
        _RT_SCOPE_LINK if route.gateway is None and route.destination.version == 4 else _RT_SCOPE_UNIVERSE,
        _RTN_UNICAST,
        _RTNH_F_ONLINK if route.on_link else 0,
    )
    parts = [attribute(_RTA_OIF, route.link)]
    if route.destination.prefixlen:
        parts.append(attribute(_RTA_DST, route.destination.network_address.packed))
    if route.gateway is not None:
        parts.append(attribute(_RTA_GATEWAY, route.gateway.packed))
    if route.source is not None:
        parts.append(attribute(_RTA_PREFSRC, route.source.packed))
    return head + b"".join(parts)


def main_table(netlink: NetlinkSocket) -> list[Route]:
    """The unicast routes of the main table, of both families."""
    return [
        route
        for family in (socket.AF_INET, socket.AF_INET6)
        for reply in netlink.dump(Message(_RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list routes"))
        if (route := _parse(reply.body))
    ]


def _parse(body: bytes) -> Route | None:
    family, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])
    if _number(found.get(_RTA_TABLE), table) != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    nothing = bytes(4 if family == socket.AF_INET else 16)
    network_address = ip_address(found.get(_RTA_DST, nothing))
    return Route(
        destination=ip_network(f"{network_address}/{length}"),
        link=_number(found.get(_RTA_OIF), 0),
        gateway=_address(found.get(_RTA_GATEWAY)),
        source=_address(found.get(_RTA_PREFSRC)),
        on_link=bool(flags & _RTNH_F_ONLINK),
    )


def overlapping(known: list[Route], pool: Network, *, ignoring: frozenset[int] = frozenset()) -> list[Route]:
    """The routes that share an address with `pool`; default routes, and those on the links `ignoring`, do not count."""
    return [
        route
        for route in known
        if route.destination.version == pool.version
        and route.destination.prefixlen
        and route.link not in ignoring
        and route.destination.overlaps(pool)
    ]


def neighbour(address: Address, mac: bytes, link: int) -> Message:
    """Say for ever which MAC address has `address`. The link must be up: setting it down forgets its neighbours."""
    head = _NEIGHBOUR.pack(_family(address.version), link, _NUD_PERMANENT, 0, 0)
    body = head + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    return Message(_RTM_NEWNEIGH, body, f"add neighbour {address} on link {link}", NLM_F_CREATE | NLM_F_REPLACE)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _address(value: bytes | None) -> Address | None:
    return ip_address(value) if value else None


def _number(value: bytes | None, otherwise: int) -> int:
    return int.from_bytes(value, sys.byteorder) if value else otherwise
