"""Check: what is doubtful about rules before they are applied. Pure; it asks a Scenario, so it judges as the kernel
would.

Owns shadowed rules, ways that one end opens and the other does not, and names that cannot be resolved. What selectors
and ports mean nobody by is in selections.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from whit.mesh.policy.compiler import Prefix, covers, verdict_of
from whit.mesh.policy.identities import SERVICE_SCOPE, scope_of, service_name
from whit.mesh.policy.lines import EVERYBODY, Line, Ports
from whit.mesh.policy.scenario import Present, Scenario
from whit.mesh.policy.selections import selections
from whit.mesh.policy.written import Written, written_in
from whit.model.finding import Candidate, Finding
from whit.model.policy import NUMBERS, RESOLVER, Direction

MOST_NAMED = 3
"""Rules, or services, that one finding names."""
OTHER_PROTOCOL = 255
"""Stands for those that no line speaks of."""

Point = tuple[int, int]
"""Protocol and port."""


def check(candidate: Candidate, present: Present) -> list[Finding]:
    """What is found about the candidate's rules, and about others if it was not so without them."""
    after, places = present.with_(candidate), candidate.places
    policies = (*candidate.policies, *(policy for app in candidate.apps for policy in app.policies))
    own = written_in(candidate.apps, policies, places)
    names = {one.title for one in own.values()} | {policy.title for policy in policies}
    names |= {service_name(app.name, service) for app in candidate.apps for service in app.services}
    before = present.with_()
    touched = _differing(after, before) | own.keys()
    everything = written_in(after.apps, after.policies, places)
    looked_at = {text: one for text, one in everything.items() if text in touched}
    known = set(examine(before, looked_at, {}))
    found = [one for one in examine(after, looked_at, places) if one.rule in names or one not in known]
    return sorted(dict.fromkeys(found), key=lambda one: (one.severity, _line_of(one.place), one.kind, one.text))


def _differing(after: Scenario, before: Scenario) -> set[str]:
    """Rules that stand beside others than before."""
    return {line.text for side, lines in after.sides.items() if before.sides.get(side) != lines for line in lines}


def examine(scenario: Scenario, written: Mapping[str, Written], places: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is found about these rules, and about the names that the scenario's services can ask for."""
    yield from _shadowed(scenario, written)
    yield from _unreachable(scenario, written)
    yield from _nameless(scenario, written, places)
    yield from selections(scenario, written)


def _line_of(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line) if line.isdecimal() else 0


# ---- rules that never decide ----


def _shadowed(scenario: Scenario, written: Mapping[str, Written]) -> Iterator[Finding]:
    deciding, instead = _deciders(scenario, written)
    for text, lines in instead.items():
        one = written[text]
        if text in deciding:
            continue
        own = scenario.said[text][0][1].action
        same = own != "pass" and {line.action for line in lines} == {own}
        yield Finding(
            kind="redundant" if same else "shadowed",
            severity="remark" if same else "problem",
            place=one.place,
            rule=one.title,
            text=f"never decides; all that it selects is {_past(own) if same else 'decided before'}, by: "
            f"{_named(sorted({line.text for line in lines}))}",
        )


def _past(action: str) -> str:
    return "allowed anyway" if action == "allow" else "denied anyway"


def _deciders(scenario: Scenario, written: Mapping[str, Written]) -> tuple[set[str], dict[str, set[Line]]]:
    """Which written rules decide anything, and which lines decide what each of them speaks of."""
    deciding: set[str] = set()
    instead: dict[str, set[Line]] = defaultdict(set)
    for lines in scenario.sides.values():
        if not any(line.text in written for line in lines):
            continue
        for speaking in _groups(lines):
            for asked in _readings(speaking):
                for point in points(asked):
                    own = {line.text for line in asked if line.text in written and covers(line, _prefix(point))}
                    said = list(_heard(asked, point))
                    deciding |= own & {line.text for line in said}
                    for text in own:
                        instead[text].update(line for line in said if line.text != text and line.action != "pass")
    return deciding, instead


def _groups(lines: Sequence[Line]) -> Iterable[tuple[Line, ...]]:
    """What is asked about each peer, once for all of whom the same is said."""
    peers = dict.fromkeys(peer for line in lines for peer in line.peers)
    return dict.fromkeys(
        tuple(line for line in lines if peer in line.peers or line.peers == EVERYBODY) for peer in peers
    )


def _readings(lines: Sequence[Line]) -> Iterator[tuple[Line, ...]]:
    """The lines as they are enforced, and as they would be if those that are audited were too."""
    enforced = tuple(line for line in lines if not line.audit)
    yield enforced
    if len(enforced) != len(lines):
        yield tuple(line._replace(audit=False) for line in lines)


def _heard(lines: Sequence[Line], point: Point) -> Iterator[Line]:
    """Those that have a say: the one that decides, and those that lead past others before it."""
    prefix = _prefix(point)
    by_text = {line.text: line for line in lines}
    found = verdict_of(lines, prefix)
    if found is not None:
        yield by_text[found.text]
    for line in lines:
        if line.action == "pass" and covers(line, prefix):
            decisive = [line._replace(action="allow") if one is line else one for one in lines]
            tried = verdict_of(decisive, prefix)
            if tried is not None and tried.text == line.text:
                yield line


def points(lines: Iterable[Line]) -> list[Point]:
    """One packet of each kind that the lines could tell apart."""
    spans = {ports for line in lines for ports in line.ports}
    protocols = {protocol for protocol, _, _ in spans if protocol}
    found = {(OTHER_PROTOCOL, 0), *((protocol, 0) for protocol in protocols)}
    for protocol, first, last in spans:
        if protocol:
            found |= {(protocol, port) for port in (first, last + 1) if port <= 65535}
    return sorted(found)


def _prefix(point: Point) -> Prefix:
    return Prefix(*point, 16)


# ---- what one end opens and the other does not ----


def _unreachable(scenario: Scenario, written: Mapping[str, Written]) -> Iterator[Finding]:
    for text, one in written.items():
        ways = [
            (subject, direction, peer, ports, line)
            for (subject, direction), line in scenario.said.get(text, ())
            if line.action == "allow" and not line.audit
            for peer in line.peers
            if scope_of(peer) == SERVICE_SCOPE
            for ports in line.ports
        ]
        shut = {
            (direction, subject, peer): why
            for subject, direction, peer, ports, _ in ways
            if (why := _shut(scenario, subject, direction, peer, ports))
        }
        if not shut:
            continue
        pairs = {(direction, subject, peer) for subject, direction, peer, _, _ in ways}
        name = scenario.book.name
        told = [_way(direction, name(subject), name(peer)) for direction, subject, peer in shut]
        meant = one.policy is None or len(pairs) == len(shut)
        yield Finding(
            kind="unreachable",
            severity="problem" if meant else "remark",
            place=one.place,
            rule=one.title,
            text=f"allows {_named(told)}, and the other end does not: {_named(sorted(set(shut.values())))}",
        )


def _way(direction: Direction, subject: str, peer: str) -> str:
    return f"{subject} to {peer}" if direction == "egress" else f"{peer} to {subject}"


def _shut(scenario: Scenario, subject: int, direction: Direction, peer: int, ports: Ports) -> str:
    """The rule of the peer that denies everything that the subject lets through here; empty if something passes."""
    other: Direction = "ingress" if direction == "egress" else "egress"
    lines = [*scenario.sides.get((subject, direction), ()), *scenario.sides.get((peer, other), ())]
    why = ""
    for protocol, port in points(lines):
        if not _within((protocol, port), ports):
            continue
        own = scenario.decide(subject, direction, peer, protocol, port)
        if own is not None and own.deny and not own.audit:
            continue
        found = scenario.decide(peer, other, subject, protocol, port)
        if found is None or found.audit or not found.deny:
            return ""
        why = why or found.text
    return why


def _within(point: Point, ports: Ports) -> bool:
    return not ports[0] or (ports[0] == point[0] and ports[1] <= point[1] <= ports[2])


# ---- names that cannot be asked for ----


def _nameless(scenario: Scenario, written: Mapping[str, Written], places: Mapping[str, str]) -> Iterator[Finding]:
    for app in scenario.apps:
        for name in app.services:
            who = service_name(app.name, name)
            subject = scenario.book.numbers[who]
            denied = {
                protocol: found.text
                for protocol in ("udp", "tcp")
                if (found := scenario.decide(subject, "egress", RESOLVER, NUMBERS[protocol], 53))
                and found.deny
                and not found.audit
            }
            if not denied:
                continue
            reaches = _reaches_names(scenario, subject)
            rule = next(iter(denied.values()))
            place = written[rule].place if rule in written else places.get(who, "")
            needs = "although it reaches what has names" if reaches else "and reaches nothing that has a name"
            yield Finding(
                kind="dns-blocked",
                severity="problem" if reaches else "remark",
                place=place,
                rule=who,
                text=f"cannot ask the resolver (port 53/{' and '.join(denied)}), {needs}: {_named([rule])}",
            )


def _reaches_names(scenario: Scenario, subject: int) -> bool:
    """Whether anything but addresses of other networks is opened to it: services, the world, names of the DNS."""
    return any(
        (found := scenario.decide(subject, "egress", peer, *point)) is None or not found.deny
        for line in scenario.sides.get((subject, "egress"), ())
        if line.action == "allow"
        for peer in line.peers
        if peer != RESOLVER
        for point in points([line])
    )


def _named(texts: Sequence[str]) -> str:
    """The first few, and how many there are besides."""
    shown = "; ".join(texts[:MOST_NAMED])
    return f"{shown}; and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else shown
