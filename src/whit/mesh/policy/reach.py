"""Reach: whom a service can open connections to and who can open them to it, by the lines that policy is made of. Pure.

Both ends have their say, as in the datapath: what one allows and the other does not is not reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from whit.mesh.policy.compiler import decide
from whit.mesh.policy.identities import SERVICE_SCOPE, scope_of
from whit.mesh.policy.lines import EVERYBODY, EVERYTHING, Line, Ports
from whit.mesh.policy.rules import Side
from whit.model.policy import HOST, NUMBERS, RESOLVER, WORLD, Direction

NAMES = {number: name for name, number in NUMBERS.items()}
LAST_PORT = 65535
Lines = Mapping[Side, Sequence[Line]]
"""In their order, by subject and direction."""


def reached(lines: Lines, subject: int, known: Iterable[int], direction: Direction) -> dict[int, tuple[str, ...]]:
    """By peer, the ports on which `subject` reaches it (egress), or it reaches `subject` (ingress).

    `known` are the identities that are asked about if a line speaks of everybody.
    """
    others = sorted({*known, HOST, WORLD, RESOLVER})
    own = lines.get((subject, direction), ())
    opposite: Direction = "ingress" if direction == "egress" else "egress"
    found: dict[int, tuple[str, ...]] = {}
    for peer in others:
        theirs = lines.get((peer, opposite), ()) if scope_of(peer) == SERVICE_SCOPE else None
        ports = {one for one in _candidates(own, peer, theirs, subject) if _passes(own, peer, theirs, subject, one)}
        if ports:
            found[peer] = tuple(text_of(one) for one in _widest(ports))
    return found


def _candidates(own: Sequence[Line], peer: int, theirs: Sequence[Line] | None, subject: int) -> Iterator[Ports]:
    """What both ends could agree on: each range of the one cut with each of the other."""
    wanted = list(_allowed(own, peer))
    given = [EVERYTHING[0]] if theirs is None else list(_allowed(theirs, subject))
    for one in wanted:
        for other in given:
            if (both := _common(one, other)) is not None:
                yield both


def _allowed(lines: Sequence[Line], peer: int) -> Iterator[Ports]:
    for line in lines:
        if line.action == "allow" and (peer in line.peers or line.peers == EVERYBODY):
            yield from line.ports


def _common(one: Ports, other: Ports) -> Ports | None:
    if one[0] and other[0] and one[0] != other[0]:
        return None
    first, last = max(one[1], other[1]), min(one[2], other[2])
    return (one[0] or other[0], first, last) if first <= last else None


def _passes(own: Sequence[Line], peer: int, theirs: Sequence[Line] | None, subject: int, ports: Ports) -> bool:
    """By the first of the ports: what is denied of the rest is another range's business."""
    protocol, port = ports[0] or NUMBERS["tcp"], ports[1]
    ends = [(own, peer)] if theirs is None else [(own, peer), (theirs, subject)]
    for lines, who in ends:
        judged = decide(lines, who, protocol, port)
        if judged is not None and judged.deny and not judged.audit:
            return False
    return True


def _widest(ports: Iterable[Ports]) -> list[Ports]:
    """Without what another one covers."""
    every = sorted(set(ports))
    return [one for one in every if not any(_covers(other, one) for other in every if other != one)]


def _covers(wide: Ports, narrow: Ports) -> bool:
    return wide[0] in (0, narrow[0]) and wide[1] <= narrow[1] and narrow[2] <= wide[2]


def text_of(ports: Ports) -> str:
    """As tcp/5432, udp/1000-2000, icmp, any."""
    protocol, first, last = ports
    name = NAMES.get(protocol, str(protocol)) if protocol else "any"
    if (first, last) == (0, LAST_PORT):
        return name
    return f"{name}/{first}" if first == last else f"{name}/{first}-{last}"
