"""Which TCP ports a network namespace listens on, and when that may have changed. How the kernel is asked is in
sock_diag.py.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Self

from whit.kernel.network import netns
from whit.kernel.network.sock_diag import Ends, SockDiag


class Listeners:
    """Of one namespace, usable from anywhere. Made by `inside`; for the caller to close."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:
            self._asking = opened.enter_context(SockDiag())
            self._ends = opened.enter_context(Ends())
            self._opened = opened.pop_all()
        self.events = self._ends.events

    @classmethod
    def inside(cls, path: Path) -> Listeners:
        """Of the namespace kept at `path`. Raises SystemCallError: a kernel without inet_diag; NotFound: it is gone."""
        return netns.call_in(path, cls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def ended(self) -> frozenset[int]:
        """Ports of sockets that had no peer and are gone, once; empty if nothing is to be read, or if it was lost."""
        return self._ends.ports()

    def ports(self) -> frozenset[int]:
        """That are listened on for others than the namespace itself."""
        return frozenset(one.port for one in self._asking.listeners(socket.IPPROTO_TCP) if not one.is_local)
