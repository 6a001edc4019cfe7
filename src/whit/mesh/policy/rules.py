"""From what apps declare to lines of policy. Pure: names in, lines with identities out.

A declared app's services are default-deny both ways. `uses` opens the one's egress and admits it at the other's
ingress; `ports` admits the world and the node. Replicas of a service reach each other only where the service uses
itself. An open app's services reach each other and the world, and every such rule says `undeclared`. Other apps never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from whit.base.errors import InputError
from whit.mesh.policy.identities import service_name
from whit.mesh.policy.lines import ALLOWED, CLOSED, EVERYTHING, ISOLATED, OPEN, Line, Ports, allowance, denial
from whit.mesh.policy.outside import Numbers
from whit.model.app import AppSpec
from whit.model.policy import HOST, NUMBERS, RESOLVER, WORLD, Direction
from whit.model.service import PortSpec, UseSpec

PROTOCOLS = {"tcp": NUMBERS["tcp"], "udp": NUMBERS["udp"]}
UNDECLARED = "undeclared"
"""In the text of every rule that lets something through that nobody declared."""

Side = tuple[int, Direction]
Lines = dict[Side, list[Line]]
"""By subject and direction, in no order."""


@dataclass(frozen=True)
class Peers:
    """Who can be named as a peer: services by number, and what is outside."""

    services: Mapping[str, int]
    outside: Numbers

    def service(self, app: str, name: str, who: str) -> int:
        """Raises InputError if there is no such service."""
        try:
            return self.services[service_name(app, name)]
        except KeyError:
            raise InputError(
                f"{who} uses {name}, which is no service of {app}", hint="name a service of the same app"
            ) from None

    def world(self) -> tuple[int, ...]:
        """Every address without a name, and everything outside that some policy gave one."""
        return (WORLD, *self.outside.world)


def lines_of(app: AppSpec, peers: Peers) -> Lines:
    """What the app itself says of its services. Raises InputError if one uses a service that is not there."""
    found: Lines = defaultdict(list)
    for name, service in app.services.items():
        if service.is_elsewhere:
            continue  # nobody of it is here to be judged: who reaches it is decided by those who use it
        who = service_name(app.name, name)
        subject = peers.services[who]
        for direction, line in _shut(app, name):
            found[subject, direction].append(line)
        found[subject, "egress"] += _resolver(who)
        found[subject, "ingress"] += _published(app, name, peers)
        if app.mode == "open":
            if not app.is_internal(name):
                found[subject, "egress"] += _world(who, peers)
            _open(app, name, peers, found)
        for use in service.uses:
            _use(app, who, subject, use, peers, found)
    return found


def lines_of_leaving(who: str, subject: int) -> Lines:
    """Of a service that no app names any more, while instances of it run: without lines it would be open to all."""
    return {
        (subject, "egress"): [denial(f"{who} is being removed: it reaches nobody")],
        (subject, "ingress"): [denial(f"{who} is being removed: nobody reaches it")],
    }


def _shut(app: AppSpec, name: str) -> Iterator[tuple[Direction, Line]]:
    who = service_name(app.name, name)
    own = " and ".join(app.networks_of(name))
    own = f"its own networks ({own})" if own else "its own app"
    reached, admitted = {
        "declared": ("it reaches only what it uses", "only those that use it reach it"),
        "open": (f"it reaches {own}{'' if app.is_internal(name) else ' and the world'}", f"only {own} reaches it"),
    }[app.mode]
    stage = ISOLATED if app.mode == "declared" else CLOSED
    yield "egress", denial(f"{who} is {app.mode}: {reached}", stage=stage)
    yield "ingress", denial(f"{who} is {app.mode}: {admitted}", stage=stage)


def _resolver(who: str) -> Iterator[Line]:
    for protocol, number in PROTOCOLS.items():
        yield allowance(f"{who} may ask the resolver ({protocol})", (RESOLVER,), ((number, 53, 53),))


def text_of_use(who: str, use: UseSpec) -> str:
    """What every verdict that follows from it says; the same at both ends."""
    return f"{who} uses {use}"


def text_of_port(who: str, port: PortSpec) -> str:
    return f"{who} publishes port {port.target}/{port.protocol}"


def _published(app: AppSpec, name: str, peers: Peers) -> Iterator[Line]:
    """Other apps are no part of the world: they come by the node's address, or not at all. Nor has an internal network
    a world."""
    who = service_name(app.name, name)
    admitted = (HOST,) if app.is_internal(name) else (HOST, *peers.world())
    for port in app.services[name].ports:
        ports = ((PROTOCOLS[port.protocol], port.target, port.target),)
        yield allowance(text_of_port(who, port), admitted, ports)


def _world(who: str, peers: Peers) -> Iterator[Line]:
    yield allowance(f"{who} to the world: {UNDECLARED}, the app is open", peers.world(), stage=OPEN)


def _open(app: AppSpec, name: str, peers: Peers, found: Lines) -> None:
    who, own = service_name(app.name, name), app.networks_of(name)
    subject = peers.services[who]
    for other in app.services:
        shared = [network for network in own if network in app.networks_of(other)]
        if own and not shared:
            continue
        whom = service_name(app.name, other)
        text = f"{who} to {whom}: {UNDECLARED}, the app is open{f' in {shared[0]}' if shared else ''}"
        peer = peers.services[whom]
        found[subject, "egress"].append(allowance(text, (peer,), stage=OPEN))
        found[peer, "ingress"].append(allowance(text, (subject,), stage=OPEN))


def _use(app: AppSpec, who: str, subject: int, use: UseSpec, peers: Peers, found: Lines) -> None:
    text = text_of_use(who, use)
    ports = _ports(use)
    reached = _peers_of(app, who, use, peers)
    found[subject, "egress"].append(Line((ALLOWED,), "allow", text, reached, ports))
    if use.service is not None:
        for peer in reached:
            found[peer, "ingress"].append(Line((ALLOWED,), "allow", text, (subject,), ports))


def _ports(use: UseSpec) -> tuple[Ports, ...]:
    if not use.port and not use.protocol:
        return EVERYTHING
    first, last = (use.port, use.port) if use.port else (0, 65535)
    return ((PROTOCOLS[use.protocol or "tcp"], first, last),)


def _peers_of(app: AppSpec, who: str, use: UseSpec, peers: Peers) -> tuple[int, ...]:
    if use.service is not None:
        return (peers.service(app.name, use.service, who),)
    if use.cidr is not None or use.dns is not None:
        return peers.outside.of(use.cidr or use.dns or "")
    return peers.world() if use.entity == "world" else (HOST,)
