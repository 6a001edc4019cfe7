"""Sends one Ethernet frame by a link of a network namespace, as if somebody inside had sent it."""

from __future__ import annotations

import socket
from pathlib import Path

from whit.kernel import libc, netns


def send(place: Path, link: str, frame: bytes) -> None:
    """Waits for nothing.

    Raises:
        NotFound: there is no such namespace.
        SystemCallError: it has no such link, or the link is down.
    """

    def inside() -> None:
        with libc.named("send", link), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((link, 0))
            sender.send(frame)

    netns.call_in(place, inside)
