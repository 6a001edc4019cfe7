"""Two ends of a veth in the host, for tests that attach programs to links."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Both ends are up: frames sent on `far` come in at `near`."""

    near: str
    far: str

    @property
    def ifindex(self) -> int:
        return socket.if_nametoindex(self.near)

    def send(self, count: int, name: str | None = None) -> None:
        """Frames of the experimental protocol."""
        self.send_while(lambda sent: sent < count, name)

    def send_while(self, goes_on: Callable[[int], bool], name: str | None = None) -> None:
        """As long as it wants more than it has."""
        frame, sent = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(50), 0
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((name or self.far, 0))
            while goes_on(sent):
                sender.send(frame)
                sent += 1

    def delete(self) -> None:
        subprocess.run(["ip", "link", "del", self.near], check=True, capture_output=True)
