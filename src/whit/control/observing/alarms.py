"""What becomes an alarm: maps that fill up, events that were lost, drops that should never be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from whit.datapath import abi
from whit.mesh.flows.naming import REASONS
from whit.model.alarm import Alarm, Fill

WARNING, CRITICAL = 0.8, 0.95
TOP = 3
FAULTS = {abi.DropReason.CONNTRACK_FULL, abi.DropReason.REWRITE_FAILED, abi.DropReason.INTERNAL}
"""Drops that nobody asked for."""

Drops = Mapping[abi.DropKey, abi.DropValue]
HINTS = {
    "flows": "the oldest flows make room: connections that are silent for long may have to be opened anew",
    "policies": "no rule more can be entered: name fewer ports, peers or networks",
    "exact_policies": "no rule of a single port can be entered: name ranges of ports, or fewer ports or peers",
    "identities": "no address more gets an identity: name fewer networks, or run fewer instances here",
}


def alarms_of(
    fills: Iterable[Fill],
    drops: Mapping[str, int],
    lost: int,
    users: Mapping[str, Counter[int]],
    name: Callable[[int], str],
) -> list[Alarm]:
    """`drops` and `lost` are of the last minute, `users` entries by identity, of maps of which that is known."""
    found = [_full(fill, users.get(fill.map, Counter()), name) for fill in fills if fill.share >= WARNING]
    if lost:
        found.append(
            Alarm(
                name="events-lost",
                severity="warning",
                text=f"{lost} events found the ring full in the last minute: some flows are not told",
                hint="counters and policy are not affected; is the machine overloaded?",
            )
        )
    faults = {reason: packets for reason, packets in drops.items() if packets and reason in {f.name for f in FAULTS}}
    found += [
        Alarm(
            name=f"drops:{reason}",
            severity="critical",
            text=f"{packets} packets dropped in the last minute: {abi.DROP_TEXTS[abi.DropReason[reason]]}",
            hint=f"`whit flows --reason {reason}` shows whose",
        )
        for reason, packets in sorted(faults.items())
    ]
    return found


def alarms_of_names(late: int, no_room: int) -> list[Alarm]:
    """Of the last minute: answers that policy did not know in time, addresses that it has no room for."""
    found = []
    if late:
        found.append(
            Alarm(
                name="names-late",
                severity="warning",
                text=f"{late} answers of the DNS were given before policy knew their addresses",
                hint="first connections to these names may have been dropped; is the machine overloaded?",
            )
        )
    if no_room:
        found.append(
            Alarm(
                name="names-full",
                severity="critical",
                text=f"{no_room} addresses of names that policies speak of found no room",
                hint="connections to them are dropped; name fewer names, or their network with cidr",
            )
        )
    return found


def _full(fill: Fill, users: Counter[int], name: Callable[[int], str]) -> Alarm:
    return Alarm(
        name=f"map-full:{fill.map}",
        severity="critical" if fill.share >= CRITICAL else "warning",
        text=f"the map {fill.map} is {100 * fill.share:.0f} % full: {fill.entries} of {fill.room}",
        hint=HINTS.get(fill.map, ""),
        users=tuple(f"{name(number)}: {count}" for number, count in users.most_common(TOP)),
    )


def dropped_between(now: Drops, before: Drops) -> dict[str, int]:
    """Packets by reason that were dropped between two looks; reasons without any are left out."""
    found: Counter[str] = Counter()
    for key, value in now.items():
        earlier = before.get(key)
        packets = value.packets - (earlier.packets if earlier else 0)
        if key.reason and packets > 0:
            found[reason_name(key.reason)] += packets
    return dict(found)


def lost_between(now: Drops, before: Drops) -> int:
    return lost_events(now) - lost_events(before)


def lost_events(drops: Drops) -> int:
    return sum(value.packets for key, value in drops.items() if key.reason == 0 and key.hook == abi.Hook.LOST_EVENTS)


def reason_name(number: int) -> str:
    reason = REASONS.get(number)
    return reason.name if reason else str(number)


def changes(before: Sequence[Alarm], now: Sequence[Alarm]) -> tuple[list[Alarm], list[Alarm]]:
    """Those that are new or worse, and those that are over."""
    old = {(one.name, one.severity) for one in before}
    names = {one.name for one in now}
    return [one for one in now if (one.name, one.severity) not in old], [one for one in before if one.name not in names]
