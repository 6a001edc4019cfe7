"""Replay: recorded flows judged by two scenarios, as things are and as they would be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whit.mesh.flows.naming import PROTOCOLS
from whit.mesh.policy.identities import NAME_SCOPE, NETWORK_SCOPE, SERVICE_SCOPE, IdentityBook, scope_of
from whit.mesh.policy.recorded import Recorded, Seen, Way, address_of
from whit.mesh.policy.scenario import Scenario
from whit.model.flow import Verdict
from whit.model.policy import WORLD
from whit.model.replay import Change, Replay


class Judged(NamedTuple):
    verdict: Verdict
    rule: str


def replay(recorded: Recorded, now: Scenario, then: Scenario) -> Replay:
    """The kinds of flows that the two judge differently.

    Of ends that are no services now, what was recorded stands for what is.
    """
    changes, gone = [], 0
    for way, seen in recorded.ways.items():
        judged = judge(then, way, seen)
        if judged is None:
            gone += 1
            continue
        before = judge(now, way, seen) or Judged(_recorded(seen), "")
        if before.verdict != judged.verdict:
            changes.append(_change(way, seen, before, judged, then.book))
    changes.sort(key=lambda one: (one.then != "deny", -one.count, one.source, one.destination, one.port))
    return Replay(
        changes=tuple(changes),
        flows=recorded.flows,
        distinct=len(recorded.ways),
        gone=gone,
        skipped=recorded.skipped,
        since=recorded.since,
    )


def judge(scenario: Scenario, way: Way, seen: Seen) -> Judged | None:
    """None if an end is a service that the scenario does not have."""
    ends = tuple(_ends(scenario, way, seen))
    if None in ends:
        return None
    verdict, rule = scenario.passage(ends[0] or 0, ends[1] or 0, way.protocol, way.port)
    return Judged(verdict, rule)


def _ends(scenario: Scenario, way: Way, seen: Seen) -> Iterator[int | None]:
    for identity, packed, dns in (
        (way.source, way.source_address, ""),
        (way.destination, way.destination_address, seen.dns),
    ):
        scope = scope_of(identity)
        if scope == SERVICE_SCOPE:
            yield identity if scenario.book.name(identity) in scenario.services else None
        elif is_outside(identity):
            yield scenario.outsider(address_of(packed), dns)
        else:
            yield identity


def is_outside(identity: int) -> bool:
    """Whether it stands for addresses beyond the mesh and the node."""
    return identity == WORLD or scope_of(identity) in (NETWORK_SCOPE, NAME_SCOPE)


def _recorded(seen: Seen) -> Verdict:
    return seen.verdicts.most_common(1)[0][0]


def _change(way: Way, seen: Seen, now: Judged, then: Judged, book: IdentityBook) -> Change:
    return Change(
        source=party(way.source, way.source_address, "", book),
        destination=party(way.destination, way.destination_address, seen.dns, book),
        protocol=PROTOCOLS.get(way.protocol, str(way.protocol)),
        port=way.port,
        now=now.verdict,
        then=then.verdict,
        now_rule=now.rule,
        then_rule=then.rule,
        count=seen.count,
        first=seen.first,
        last=seen.last,
        recorded=dict(seen.verdicts),
    )


def party(identity: int, packed: bytes, dns: str, book: IdentityBook) -> str:
    """A service, host and the like by name; somebody outside by address, and the name that was asked for."""
    if is_outside(identity):
        address = str(address_of(packed))
        return f"{dns} {address}" if dns else address
    return book.name(identity)
