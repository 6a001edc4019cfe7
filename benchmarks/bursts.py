"""Bursts of UDP packets from one namespace to another, timed from the first to the last by one system call.

Frames leave a packet socket on the client's link. What a packet meets on its way (the other end of the veth, the node's
rules and routing, the server's veth and socket) runs in the sender's own system call, one packet after the other, so
that the time of the call is the time of the whole way. A burst of which that is not so is seen and not counted.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from whit.kernel.network import netns

_LIBC = ctypes.CDLL(None, use_errno=True)
_LOAD = bytes(18)
"""What makes the shortest frame of Ethernet."""
_PATIENCE = 0.5


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2)."""

    _fields_ = (("head", _Head), ("sent", ctypes.c_uint32))


@dataclass(frozen=True)
class Way:
    """Between whom frames go: MAC addresses of the sender and of its gateway, and the sender's address."""

    mac: bytes
    gateway: bytes
    source: IPv4Address

    def frame(self, port: int, destination: IPv4Address, destination_port: int) -> bytes:
        """Without a UDP checksum, which IPv4 leaves to the sender."""
        udp = struct.pack("!HHHH", port, destination_port, 8 + len(_LOAD), 0) + _LOAD
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
        head += self.source.packed + destination.packed
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        return self.gateway + self.mac + b"\x08\x00" + head + udp


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


@dataclass
class Course:
    """A client's and a server's namespace, with their sockets. Close it."""

    client: Path
    server: Path
    way: Way
    ports: Sequence[int]
    _closed: list[socket.socket] = field(default_factory=list)

    def open(self) -> None:
        self.sender = self._socket(self.client, socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind(("eth0", 0))
        self.receivers = [self._bound(self.server, port) for port in self.ports]

    def _socket(self, place: Path, family: int, kind: int) -> socket.socket:
        made = netns.call_in(place, lambda: socket.socket(family, kind))
        self._closed.append(made)
        return made

    def _bound(self, place: Path, port: int) -> socket.socket:
        made = self._socket(place, socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", port))
        made.setblocking(False)
        return made

    def close(self) -> None:
        while self._closed:
            self._closed.pop().close()

    def send(self, frames: Sequence[bytes]) -> float | None:
        """Nanoseconds a packet; None if the last had not come when the call returned.

        Raises SystemExit if packets were lost: then what was timed is not what it should be.
        """
        messages = _messages(frames)
        began = time.perf_counter_ns()
        sent = _LIBC.sendmmsg(self.sender.fileno(), messages, len(frames), 0)
        taken = time.perf_counter_ns() - began
        came = self.drain()
        if sent == came == len(frames):
            return taken / len(frames)
        self._await_rest(sent, came, len(frames))
        return None

    def _await_rest(self, sent: int, came: int, wanted: int) -> None:
        until = time.monotonic() + _PATIENCE
        while came < wanted and time.monotonic() < until:
            time.sleep(0.001)
            came += self.drain()
        if came != wanted:
            raise SystemExit(f"of {wanted} packets {sent} were sent and {came} came")

    def drain(self, answer: bool = False) -> int:
        """How many packets have come; each is answered if wanted."""
        came = 0
        for receiver in self.receivers:
            try:
                while True:
                    data, sender = receiver.recvfrom(64)
                    came += 1
                    if answer:
                        receiver.sendto(data, sender)
            except BlockingIOError:
                continue
        return came

    def begin(self, frames: Sequence[bytes], ports: Sequence[int]) -> None:
        """Make flows of these frames known on the way, by an answer to each; `ports` are the client's.

        Raises SystemExit if a packet or an answer is lost.
        """
        listeners = [self._bound(self.client, port) for port in ports]
        _LIBC.sendmmsg(self.sender.fileno(), _messages(frames), len(frames), 0)
        came, answered, until = 0, 0, time.monotonic() + 2 * _PATIENCE
        while answered < len(frames) and time.monotonic() < until:
            came += self.drain(answer=True)
            answered += sum(_has_one(listener) for listener in listeners)
        if answered != len(frames):
            raise SystemExit(f"of {len(frames)} flows {came} came and {answered} were answered")

    def expect_nothing(self, frames: Sequence[bytes]) -> None:
        """Raises SystemExit if one of these is let through: then the rules do not do what is timed."""
        _LIBC.sendmmsg(self.sender.fileno(), _messages(frames), len(frames), 0)
        time.sleep(0.01)
        if came := self.drain():
            raise SystemExit(f"{came} of {len(frames)} packets were let through that should have been dropped")


def _has_one(listener: socket.socket) -> bool:
    try:
        return bool(listener.recv(64))
    except BlockingIOError:
        return False


def _messages(frames: Sequence[bytes]) -> ctypes.Array[_Message]:
    """They keep the vectors, and those the frames."""
    messages = (_Message * len(frames))()
    vectors = (_Vector * len(frames))(*((frame, len(frame)) for frame in frames))
    for at, message in enumerate(messages):
        message.head.vectors = ctypes.pointer(vectors[at])
        message.head.vector_count = 1
    return messages
