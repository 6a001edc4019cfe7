"""Lines: policy between words and map entries. One line says one thing of one subject in one direction.

Everything that a subject has to obey in a direction is a list of lines in the order in which they are asked: the first
one that covers a packet decides. `pass` leads past the rest of its stage. There is always one that covers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from whit.model.policy import ANY_PEER, NUMBERS, Action, PolicyPort

ADMIN, DENIED, ALLOWED, ISOLATED, BASELINE, OPEN, CLOSED = range(7)
"""Stages. Of the default tier are DENIED, ALLOWED and ISOLATED; OPEN and CLOSED are what an app is without policies."""

Ports = tuple[int, int, int]
"""Protocol number, first and last port; of ICMP, type << 8 | code. Protocol 0 is every one."""

EVERYTHING: tuple[Ports, ...] = ((0, 0, 65535),)
EVERYBODY = (ANY_PEER,)
AUDITED = ", audited"
"""In the text of every rule that would deny, and only reports it."""


class Line(NamedTuple):
    """`order` begins with the stage. `peers` are identities, or EVERYBODY."""

    order: tuple[int | str, ...]
    action: Action
    text: str
    peers: tuple[int, ...] = EVERYBODY
    ports: tuple[Ports, ...] = EVERYTHING
    audit: bool = False


def denial(text: str, *, stage: int = CLOSED, audit: bool = False) -> Line:
    """Of everything and everybody."""
    return Line((stage,), "deny", text, audit=audit)


def allowance(text: str, peers: Iterable[int], ports: tuple[Ports, ...] = EVERYTHING, *, stage: int = ALLOWED) -> Line:
    return Line((stage,), "allow", text, tuple(peers), ports)


def numbered(port: PolicyPort) -> Ports:
    """Ports whose number does not depend on the peer. Named ones are resolved where the peer is known."""
    number = NUMBERS[port.protocol]
    if port.icmp_type is not None:
        first = port.icmp_type << 8 | (port.icmp_code or 0)
        return number, first, first if port.icmp_code is not None else first | 0xFF
    if isinstance(port.port, int):
        return number, port.port, port.end_port or port.port
    return number, 0, 65535
