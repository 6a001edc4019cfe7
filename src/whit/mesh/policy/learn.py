"""Learn: from recorded flows to the `uses` that would let exactly these through. Pure.

What was denied is not learned: it may have been denied for good reason. What would have been denied by an audited
policy is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from whit.mesh.flows.naming import PROTOCOLS
from whit.mesh.policy.identities import SERVICE_SCOPE, IdentityBook, scope_of, service_name
from whit.mesh.policy.recorded import Recorded, Seen, Way, address_of
from whit.mesh.policy.replay import is_outside, party
from whit.model.app import AppSpec
from whit.model.learned import Learned, LearnedService, LearnedUse
from whit.model.policy import HOST, RESOLVER, UNASSIGNED
from whit.model.service import UseSpec

MOST_ADDRESSES = 8
"""Without a name, at one port of the world: more than these are taken for the world."""


@dataclass(frozen=True)
class _Used:
    """A peer at a port, with how it was seen."""

    peer: tuple[str, str]
    """The field of UseSpec, and its value."""
    port: int
    protocol: str
    seen: Seen
    addresses: int = 1

    @property
    def use(self) -> UseSpec:
        return UseSpec.model_validate({self.peer[0]: self.peer[1], "port": self.port, "protocol": self.protocol})


def learn(app: AppSpec, recorded: Recorded, book: IdentityBook) -> Learned:
    """What was seen of each service of the app. One that was not seen, and declares nothing, is left out."""
    found: dict[str, list[_Used]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    for way, seen in recorded.ways.items():
        name = _service(way.source, app, book)
        count = seen.count - seen.verdicts["deny"]
        if not name or not count or way.destination in (RESOLVER, UNASSIGNED):
            continue
        allowed = replace(seen, count=count)
        used = _used(way, allowed, app, book)
        if used is None:
            others[name].append(_said(way, allowed, book))
        else:
            found[name].append(used)
    services = {
        name: LearnedService(
            uses=tuple(sorted(_lines(found[name], service.uses), key=lambda one: (-one.count, str(one.use)))),
            unseen=tuple(use for use in service.uses if not any(_covers(use, one) for one in found[name])),
            others=tuple(sorted(others[name])),
        )
        for name, service in app.services.items()
        if found[name] or others[name] or service.uses
    }
    return Learned(app=app.name, services=services, flows=recorded.flows, since=recorded.since)


def _service(identity: int, app: AppSpec, book: IdentityBook) -> str:
    """The name of a service of the app; empty for everybody else."""
    prefix = service_name(app.name, "")
    name = book.name(identity) if scope_of(identity) == SERVICE_SCOPE else ""
    return name.removeprefix(prefix) if name.startswith(prefix) and name.removeprefix(prefix) in app.services else ""


def _used(way: Way, seen: Seen, app: AppSpec, book: IdentityBook) -> _Used | None:
    """None for what `uses` cannot say: other apps, and protocols without ports."""
    peer = _peer(way, seen, app, book)
    protocol = PROTOCOLS.get(way.protocol, "")
    return _Used(peer, way.port, protocol, seen) if peer and protocol in ("tcp", "udp") and way.port else None


def _peer(way: Way, seen: Seen, app: AppSpec, book: IdentityBook) -> tuple[str, str] | None:
    if way.destination == HOST:
        return "entity", "host"
    if is_outside(way.destination):
        return ("dns", seen.dns) if seen.dns else ("cidr", str(ip_network(address_of(way.destination_address))))
    name = _service(way.destination, app, book)
    return ("service", name) if name else None


def _lines(found: Sequence[_Used], declared: Sequence[UseSpec]) -> Iterator[LearnedUse]:
    merged: dict[tuple[tuple[str, str], int, str], _Used] = {}
    for one in _widened(found):
        key = one.peer, one.port, one.protocol
        known = merged.get(key)
        merged[key] = one if known is None else _together(known, one)
    for one in merged.values():
        covered = all(any(_covers(use, each) for use in declared) for each in found if _is_part(each, one))
        yield LearnedUse(
            use=one.use, count=one.seen.count, last=one.seen.last, declared=covered, addresses=one.addresses
        )


def _widened(found: Sequence[_Used]) -> Iterator[_Used]:
    """Many addresses at one port become the world."""
    addresses: dict[tuple[int, str], int] = defaultdict(int)
    for one in found:
        addresses[one.port, one.protocol] += one.peer[0] == "cidr"
    for one in found:
        wide = one.peer[0] == "cidr" and addresses[one.port, one.protocol] > MOST_ADDRESSES
        yield replace(one, peer=("entity", "world")) if wide else one


def _together(one: _Used, other: _Used) -> _Used:
    count, ended = one.seen.count + other.seen.count, max(one.seen.ended, other.seen.ended)
    return replace(one, seen=replace(one.seen, count=count, ended=ended), addresses=one.addresses + other.addresses)


def _is_part(one: _Used, line: _Used) -> bool:
    same = one.peer == line.peer or (line.peer == ("entity", "world") and one.peer[0] == "cidr")
    return same and (one.port, one.protocol) == (line.port, line.protocol)


def _covers(use: UseSpec, one: _Used) -> bool:
    if use.port not in (None, one.port) or (use.protocol or ("tcp" if use.port else one.protocol)) != one.protocol:
        return False
    kind, value = one.peer
    if use.entity == "world":
        return kind in ("dns", "cidr")
    if use.dns is not None:
        return kind == "dns" and (use.dns == value or (use.dns[:2] == "*." and value.endswith(use.dns[1:])))
    if use.cidr is not None and kind == "cidr":
        inner, outer = ip_network(value), ip_network(use.cidr)
        return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
    return bool(getattr(use, kind) == value)


def _said(way: Way, seen: Seen, book: IdentityBook) -> str:
    whom = party(way.destination, way.destination_address, seen.dns, book)
    protocol = PROTOCOLS.get(way.protocol, f"protocol {way.protocol}")
    port = f" at port {way.port}" if protocol in ("tcp", "udp") else ""
    return f"{whom}{port} by {protocol}"
