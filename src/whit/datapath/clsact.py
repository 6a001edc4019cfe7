"""Programs on a link by the clsact qdisc and cls_bpf, for kernels without TCX (before 6.6).

A filter's name is the path at which a TCX link would be pinned, so the kernel itself remembers what is ours and what it
is for. Formats: rtnetlink(7), <linux/pkt_sched.h>, <linux/pkt_cls.h>.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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

Direction = Literal["ingress", "egress"]

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_QDISC_PARENT, _QDISC_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_PARENTS: dict[Direction, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_DIRECTIONS = {parent: direction for direction, parent in _PARENTS.items()}
_ETH_P_ALL = 0x0300
"""ETH_P_ALL in network byte order."""
_PRIORITY = 87
"""Low numbers come first. Filters of one priority are all of one kind, so 1, which everyone takes, is not ours."""
_TCMSG = struct.Struct("=BxxxiIII")


@dataclass(frozen=True)
class Filter:
    """A cls_bpf filter as the kernel lists it."""

    ifindex: int
    direction: Direction
    handle: int
    info: int
    name: str
    program_id: int


def attach(netlink: NetlinkSocket, ifindex: int, direction: Direction, program_fd: int, name: str) -> None:
    """Add the filter, or replace its program with no packet in between passing without one."""
    qdisc = _message(_RTM_NEWQDISC, ifindex, _QDISC_PARENT, _QDISC_HANDLE, attribute(_TCA_KIND, "clsact"))
    options = nested(
        _TCA_OPTIONS,
        attribute(_TCA_BPF_FD, program_fd),
        attribute(_TCA_BPF_NAME, name),
        attribute(_TCA_BPF_FLAGS, _DIRECT_ACTION),
    )
    body = attribute(_TCA_KIND, "bpf") + options
    handle, info = zlib.crc32(name.encode()) or 1, _PRIORITY << 16 | _ETH_P_ALL
    filter_ = _message(_RTM_NEWTFILTER, ifindex, _PARENTS[direction], handle, body, info)
    where = f"link {ifindex}"
    netlink.execute(
        [
            Message(*qdisc, f"add clsact to {where}", NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,)),
            Message(*filter_, f"add filter {name} to {where}, {direction}", NLM_F_CREATE),
        ]
    )


def detach(netlink: NetlinkSocket, found: Filter) -> None:
    """Remove the filter, and the qdisc if that was its last one. Safe if the filter or the link is gone."""
    gone = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
    parent, kind = _PARENTS[found.direction], attribute(_TCA_KIND, "bpf")
    filter_ = _message(_RTM_DELTFILTER, found.ifindex, parent, found.handle, kind, found.info)
    netlink.execute([Message(*filter_, f"remove filter {found.name} from link {found.ifindex}", accept=gone)])
    if not any(_has_filters(netlink, found.ifindex, direction) for direction in _PARENTS):
        qdisc = _message(_RTM_DELQDISC, found.ifindex, _QDISC_PARENT, _QDISC_HANDLE, b"")
        netlink.execute([Message(*qdisc, f"remove clsact from link {found.ifindex}", accept=gone)])


def filters(netlink: NetlinkSocket, prefix: str) -> list[Filter]:
    """The filters on all links of this network namespace whose name begins with `prefix`."""
    return [
        found
        for ifindex in _links_with_clsact(netlink)
        for direction in _PARENTS
        for found in _filters_of(netlink, ifindex, direction)
        if found.name.startswith(prefix)
    ]


def _links_with_clsact(netlink: NetlinkSocket) -> list[int]:
    found = []
    for reply in netlink.dump(Message(*_message(_RTM_GETQDISC, 0, 0, 0, b""), "list qdiscs")):
        _, ifindex, _, _, _ = _TCMSG.unpack_from(reply.body)
        if text_of(attributes(reply.body[_TCMSG.size :]).get(_TCA_KIND, b"")) == "clsact":
            found.append(ifindex)
    return found


def _has_filters(netlink: NetlinkSocket, ifindex: int, direction: Direction) -> bool:
    """Of whatever kind and whosever."""
    return bool(_dump_filters(netlink, ifindex, direction))


def _dump_filters(netlink: NetlinkSocket, ifindex: int, direction: Direction) -> list[bytes]:
    request = _message(_RTM_GETTFILTER, ifindex, _PARENTS[direction], 0, b"")
    return [reply.body for reply in netlink.dump(Message(*request, f"list filters of link {ifindex}"))]


def _filters_of(netlink: NetlinkSocket, ifindex: int, direction: Direction) -> Iterator[Filter]:
    for body in _dump_filters(netlink, ifindex, direction):
        _, index, handle, parent, info = _TCMSG.unpack_from(body)
        options = attributes(attributes(body[_TCMSG.size :]).get(_TCA_OPTIONS, b""))
        if _TCA_BPF_NAME not in options:
            continue  # of another kind, or the line that announces the priority
        (program_id,) = struct.unpack("=I", options.get(_TCA_BPF_ID, bytes(4)))
        yield Filter(index, _DIRECTIONS[parent], handle, info, text_of(options[_TCA_BPF_NAME]), program_id)


def _message(kind: int, ifindex: int, parent: int, handle: int, body: bytes, info: int = 0) -> tuple[int, bytes]:
    return kind, _TCMSG.pack(0, ifindex, handle, parent, info) + body
