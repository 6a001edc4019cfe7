"""Rtnetlink: messages, attributes, and a socket that sends many messages at once and collects what the kernel says.

What the messages mean is in links.py, addresses.py and routes.py. Formats: netlink(7), rtnetlink(7) and
Documentation/userspace-api/netlink/intro.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from whit.base.errors import SystemCallError, Temporary
from whit.kernel import libc
from whit.kernel.network import netns

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_REPLACE = 0x100
NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF

_RECEIVE = 1 << 17
_BATCH = 64
"""Messages in one send. Each acknowledgement takes about 800 bytes of a receive buffer of 200 KiB."""
_PATIENCE = 10.0
_DUMP_ATTEMPTS = 5


@dataclass(frozen=True)
class Message:
    """One request: type, family header and attributes, and what it does in words, for errors."""

    type: int
    body: bytes
    says: str
    flags: int = 0
    accept: tuple[int, ...] = ()
    """Error numbers that are as good as success, as EEXIST where the thing may exist already."""


@dataclass(frozen=True)
class Reply:
    type: int
    body: bytes


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """One attribute: integers are u32, texts end with a zero byte."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = os.fsencode(value) + b"\0"
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *inside: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(inside))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes by number. Of those that come several times, the last."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def text_of(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


class NetlinkSocket:
    """A socket of the network namespace in which it was made, usable from any thread, by one at a time."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        with libc.named("socket AF_NETLINK"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(_PATIENCE)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    @classmethod
    def inside(cls, path: Path) -> NetlinkSocket:
        """A socket inside the namespace kept at `path`; the caller stays outside."""
        return netns.call_in(path, cls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def execute(self, messages: Sequence[Message]) -> list[Reply]:
        """Send the messages together; the kernel does them in order. Returns what it answered besides yes and no.

        Raises:
            SystemCallError: for the first that failed, with what the kernel says about it. The kernel has tried those
                after it all the same.
        """
        replies: list[Reply] = []
        failures: list[SystemCallError] = []
        for start in range(0, len(messages), _BATCH):
            self._execute(messages[start : start + _BATCH], replies, failures)
            if failures:
                raise failures[0]
        return replies

    def _execute(self, batch: Sequence[Message], replies: list[Reply], failures: list[SystemCallError]) -> None:
        waiting = {self._next(): message for message in batch}
        data = b"".join(
            _pack(message, NLM_F_REQUEST | NLM_F_ACK | message.flags, number) for number, message in waiting.items()
        )
        with libc.named("send AF_NETLINK"):
            self._socket.sendall(data)
        while waiting:
            for kind, flags, number, body in self._receive():
                if number not in waiting:
                    continue  # answers a request that an earlier error gave up
                if kind != _NLMSG_ERROR:
                    replies.append(Reply(kind, body))
                elif failure := _failure(waiting.pop(number), flags, body):
                    failures.append(failure)

    def dump(self, message: Message) -> list[Reply]:
        """All objects that answer the request. Asked again if they changed in the meantime.

        Raises:
            Temporary: they did not stay the same for long enough.
        """
        for _ in range(_DUMP_ATTEMPTS):
            replies, consistent = self._dump_once(message)
            if consistent:
                return replies
        raise Temporary(f"cannot {message.says}: it changes all the time", after=0.1)

    def _dump_once(self, message: Message) -> tuple[list[Reply], bool]:
        number = self._next()
        with libc.named("send AF_NETLINK"):
            self._socket.sendall(_pack(message, NLM_F_REQUEST | NLM_F_DUMP | message.flags, number))
        replies: list[Reply] = []
        consistent = True
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != number:
                    continue
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    # The end has an error number too: of a dump that was refused only when the kernel had begun it.
                    if failure := _failure(message, flags if kind == _NLMSG_ERROR else 0, body):
                        raise failure
                    return replies, consistent
                replies.append(Reply(kind, body))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: type, flags, sequence number and body."""
        with libc.named("recv AF_NETLINK"):
            data = self._receive_datagram()
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
            yield kind, flags, number, data[at + _HEADER.size : at + length]
            at += (length + 3) & ~3

    def _receive_datagram(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except TimeoutError:  # has no errno of its own
            raise OSError(errno.ETIMEDOUT, "no answer") from None


def _pack(message: Message, flags: int, number: int) -> bytes:
    length = _HEADER.size + len(message.body)
    return _HEADER.pack(length, message.type, flags, number, 0) + message.body + bytes(-length % 4)


def _failure(message: Message, flags: int, body: bytes) -> SystemCallError | None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0 or -code in message.accept:
        return None
    return SystemCallError("rtnetlink", -code, message.says, hint=_extended(flags, body))


def _extended(flags: int, body: bytes) -> str:
    """The kernel's own words about an error (NETLINK_EXT_ACK). They follow the request, which may be cut off."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    (length,) = struct.unpack_from("=I", body, 4)
    skip = 4 + (_HEADER.size if flags & _NLM_F_CAPPED else (length + 3) & ~3)
    said = text_of(attributes(body[skip:]).get(_NLMSGERR_ATTR_MSG, b""))
    return f"the kernel says: {said}" if said else ""
