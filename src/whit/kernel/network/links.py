"""Network links: veth pairs and dummies, their names, MAC addresses and MTU; made, found, set up and deleted.

Addresses and routes on them are in addresses.py and routes.py; an instance's whole connection is in instance_link.py.
Functions that return a Message leave the sending to the caller, who batches them.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from whit.base.errors import NotFound, SystemCallError
from whit.kernel.network import addresses
from whit.kernel.network.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    text_of,
)
from whit.kernel.thread import in_thread

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 5, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_INFO = struct.Struct("=BxHiII")
"""struct ifinfomsg."""

GONE = (errno.ENODEV,)


@dataclass(frozen=True)
class Link:
    """A link as it is seen."""

    name: str
    index: int
    mac: str
    """Empty if it has none."""
    mtu: int
    kind: str
    """As `veth` or `dummy`; empty for hardware and the loopback."""
    up: bool
    peer: int = 0
    """Index of the other end, in whichever namespace that is; 0 if there is none."""
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()


@dataclass(frozen=True)
class End:
    """One end of a veth pair that is to be made."""

    name: str
    mac: str


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def create_veth(outer: End, inner: End, *, mtu: int, netns: int) -> Message:
    """A pair of which `inner` appears in the namespace of the descriptor `netns` and nowhere else.

    Both are down: IFF_UP in this message would fail with ENOTCONN, because the peer does not exist yet.
    """
    peer = _INFO.pack(0, 0, 0, 0, 0) + _end(inner, mtu) + attribute(_IFLA_NET_NS_FD, netns)
    data = nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, peer))
    return _create(outer, mtu, attribute(_IFLA_INFO_KIND, "veth") + data)


def create_single(end: End, *, mtu: int, kind: str) -> Message:
    """A link without another end: a `dummy`, or a `bridge` without ports."""
    return _create(end, mtu, attribute(_IFLA_INFO_KIND, kind))


def _create(end: End, mtu: int, info: bytes) -> Message:
    body = _INFO.pack(0, 0, 0, 0, 0) + _end(end, mtu) + nested(_IFLA_LINKINFO, info)
    return Message(_RTM_NEWLINK, body, f"create link {end.name}", NLM_F_CREATE | NLM_F_EXCL)


def _end(end: End, mtu: int) -> bytes:
    return attribute(_IFLA_IFNAME, end.name) + attribute(_IFLA_ADDRESS, mac_bytes(end.mac)) + attribute(_IFLA_MTU, mtu)


def set_hardware(index: int, mac: str, mtu: int) -> Message:
    body = _INFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_ADDRESS, mac_bytes(mac)) + attribute(_IFLA_MTU, mtu)
    return Message(_RTM_NEWLINK, body, f"give link {index} the address {mac}")


def set_up(index: int) -> Message:
    return Message(_RTM_NEWLINK, _INFO.pack(0, 0, index, _IFF_UP, _IFF_UP), f"set up link {index}")


def delete(name: str) -> Message:
    """A veth's peer goes with it. Waits for the kernel to settle: 10 to 30 ms. Content if there is none."""
    body = _INFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name)
    return Message(_RTM_DELLINK, body, f"delete link {name}", accept=GONE)


def get(name: str) -> Message:
    body = _INFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name)
    return Message(_RTM_GETLINK, body, f"find link {name}")


def all_links(netlink: NetlinkSocket) -> list[Link]:
    """Every link of the socket's namespace with its addresses."""
    request = Message(_RTM_GETLINK, _INFO.pack(0, 0, 0, 0, 0), "list links")
    found = addresses.by_link(netlink)
    return [parse(reply.body, found) for reply in netlink.dump(request)]


def by_index(netlink: NetlinkSocket, index: int) -> Link:
    """One link, without its addresses. Raises SystemCallError if there is none."""
    request = Message(_RTM_GETLINK, _INFO.pack(0, 0, index, 0, 0), f"find link {index}")
    (reply,) = netlink.execute([request])
    return parse(reply.body)


def by_name(netlink: NetlinkSocket, name: str) -> Link:
    """One link with its addresses. Raises NotFound."""
    try:
        (reply,) = netlink.execute([get(name)])
    except SystemCallError as error:
        if error.errno == errno.ENODEV:
            raise NotFound(f"there is no link {name}") from error
        raise
    return parse(reply.body, addresses.by_link(netlink))


def parse(body: bytes, known: dict[int, list[IPv4Interface | IPv6Interface]] | None = None) -> Link:
    """A link from the body of an RTM_NEWLINK."""
    _, _, index, flags, _ = _INFO.unpack_from(body)
    found = attributes(body[_INFO.size :])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        name=text_of(found[_IFLA_IFNAME]),
        index=index,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(_IFLA_MTU)),
        kind=text_of(info.get(_IFLA_INFO_KIND, b"")),
        up=bool(flags & _IFF_UP),
        peer=_number(found.get(_IFLA_LINK)),
        addresses=tuple((known or {}).get(index, ())),
    )


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value else 0


def delete_all(names: Iterable[str]) -> None:
    """Delete links of the calling thread's namespace, and be content where there are none."""
    with NetlinkSocket() as netlink:
        netlink.execute([delete(name) for name in names])


@dataclass(frozen=True)
class CreateHostLink:
    """A dummy link that holds addresses of the node itself. One of that name that a killed agent left is replaced.

    Where the kernel has no dummy links, a bridge without ports does the same.
    """

    name: str
    mac: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mtu: int = 1500

    def describe(self) -> str:
        return f"create link {self.name} with {', '.join(map(str, self.addresses))}"

    async def do(self) -> None:
        await in_thread(create_host_link, self)

    async def undo(self) -> None:
        await in_thread(delete_all, [self.name])


def create_host_link(wanted: CreateHostLink) -> None:
    """In the calling thread's namespace."""
    with NetlinkSocket() as netlink:
        netlink.execute([delete(wanted.name)])
        try:
            link = _create_single(netlink, wanted, "dummy")
        except SystemCallError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            link = _create_single(netlink, wanted, "bridge")
        netlink.execute([set_up(link.index), *(addresses.add(address, link.index) for address in wanted.addresses)])


def _create_single(netlink: NetlinkSocket, wanted: CreateHostLink, kind: str) -> Link:
    netlink.execute([create_single(End(wanted.name, wanted.mac), mtu=wanted.mtu, kind=kind)])
    (reply,) = netlink.execute([get(wanted.name)])
    return parse(reply.body)
