"""Who reaches whom: sockets opened inside the namespaces of real instances, all at once, until each has its end.

An attempt ends when the answer is there, when it is refused, or when patience is over. What the mesh drops gives no
sign, so that a table with denials takes as long as patience, unless `given_up` (the flows that were seen) says it
sooner.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from whit.kernel.network import netns

PATIENCE = 10.0
"""Seconds."""
GLANCE = 0.03
SOCKET_TYPES = {"tcp": socket.SOCK_STREAM, "sctp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PROTOCOL_NUMBERS = {"tcp": 0, "udp": 0, "sctp": 132}


class Goal(NamedTuple):
    source: str
    """namespace/pod."""
    destination: str
    address: str
    """That is asked: the destination's, or its service's."""
    port: int
    protocol: str
    own: tuple[str, int] = ("", 0)
    """Address and port to ask from; as the kernel likes, if left out."""


class Tuple(NamedTuple):
    """As flows name it."""

    source: str
    source_port: int
    destination: str
    port: int
    protocol: str


@dataclass
class Attempt:
    goal: Goal
    socket: socket.socket
    sent: Tuple
    answer: str = ""
    ended: bool = field(default=False)


def probe(
    namespaces: Mapping[str, Path],
    goals: Iterable[Goal],
    given_up: Callable[[], Collection[Tuple]],
    patience: float = PATIENCE,
) -> list[Attempt]:
    """Try all of them. `given_up` names those of which the mesh said that it dropped a packet."""
    by_source: dict[str, list[Goal]] = {}
    for goal in goals:
        by_source.setdefault(goal.source, []).append(goal)
    attempts: list[Attempt] = []
    try:
        for source, wanted in by_source.items():
            attempts += netns.call_in(namespaces[source], lambda wanted=wanted: [_begin(goal) for goal in wanted])
        _finish(attempts, given_up, time.monotonic() + patience)
    finally:
        for attempt in attempts:
            attempt.socket.close()
    return attempts


def _begin(goal: Goal) -> Attempt:
    family = socket.AF_INET6 if ":" in goal.address else socket.AF_INET
    opened = socket.socket(family, SOCKET_TYPES[goal.protocol], PROTOCOL_NUMBERS[goal.protocol])
    opened.setblocking(False)
    if goal.own[1]:
        opened.bind(goal.own)
    failed = opened.connect_ex((goal.address, goal.port))
    if failed == 0 and goal.protocol == "udp":
        opened.send(b"who are you?")
    source, port = opened.getsockname()[:2]
    attempt = Attempt(goal, opened, Tuple(source, port, goal.address, goal.port, goal.protocol))
    attempt.ended = failed not in (0, errno.EINPROGRESS)
    return attempt


def _finish(attempts: Sequence[Attempt], given_up: Callable[[], Collection[Tuple]], until: float) -> None:
    with selectors.DefaultSelector() as selector:
        for attempt in attempts:
            if not attempt.ended:
                selector.register(attempt.socket, selectors.EVENT_READ, attempt)
        while selector.get_map() and time.monotonic() < until:
            ready = selector.select(GLANCE)
            for key, _ in ready:
                _read(key.data)
                selector.unregister(key.fileobj)
            if not ready:
                lost = set(given_up())
                for key in [key for key in selector.get_map().values() if key.data.sent in lost]:
                    key.data.ended = True
                    selector.unregister(key.fileobj)


def _read(attempt: Attempt) -> None:
    attempt.ended = True
    with contextlib.suppress(OSError):
        attempt.answer = attempt.socket.recv(64).decode()
