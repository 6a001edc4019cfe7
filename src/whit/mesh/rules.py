"""From what apps declare to the rules of policy. Pure: names in, rules with identities and stored ids out.

A declared app's services are default-deny both ways. `uses` opens the one's egress and admits it at the other's
ingress; `ports` admits the world and the node. Replicas of a service reach each other only where the service uses
itself. An open app's services reach each other and the world, and every such rule says `undeclared`. Other apps never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from pydantic import Field

from whit.base.errors import InputError
from whit.mesh.identities import IdentityBook, service_name, within
from whit.model.app import AppSpec
from whit.model.base import Noun
from whit.model.policy import ANY_PEER, HOST, RESOLVER, WORLD, Direction, Rule
from whit.model.service import ServiceSpec, UseSpec

DEFAULT_DENY = 0
ALLOW = 1

PROTOCOLS = {"tcp": 6, "udp": 17}
EVERY_PORT = (0, 65535)
UNDECLARED = "undeclared"
"""In the text of every rule that lets something through that nobody declared."""


class RuleBook(Noun):
    """Ids by direction and text of the rule, as control stores them. An id is never given to another rule."""

    ids: dict[str, int] = Field(default_factory=dict)

    def texts(self) -> dict[int, str]:
        """What each id says."""
        return {number: key.partition(" ")[2] for key, number in self.ids.items()}


@dataclass(frozen=True)
class Draft:
    """A rule that has no id yet."""

    subject: int
    direction: Direction
    text: str
    peer: int = ANY_PEER
    protocol: int = 0
    ports: tuple[int, int] = EVERY_PORT
    allow: bool = True


@dataclass(frozen=True)
class Peers:
    """Who can be named as a peer: services by number, and the networks that any app speaks of."""

    numbers: Mapping[str, int]
    networks: Sequence[IPv4Network]

    def service(self, app: str, name: str, who: str) -> int:
        """Raises InputError if there is no such service."""
        try:
            return self.numbers[service_name(app, name)]
        except KeyError:
            raise InputError(
                f"{who} uses {name}, which is no service of {app}", hint="name a service of the same app"
            ) from None

    def network(self, wanted: IPv4Network) -> list[int]:
        return [self.numbers[str(network)] for network in within(self.networks, wanted)]

    def world(self) -> list[int]:
        """Every address without a name, and every network that some policy gave one."""
        return [WORLD, *(self.numbers[str(network)] for network in self.networks)]


def networks_used(apps: Iterable[AppSpec]) -> list[IPv4Network]:
    """The networks that apps name in `uses`, each once. Raises InputError."""
    found = {
        _network(use.cidr, f"{app.name}/{name}")
        for app in apps
        for name, service in app.services.items()
        for use in service.uses
        if use.cidr
    }
    return sorted(found)


def rules(
    apps: Iterable[AppSpec], book: IdentityBook, known: RuleBook, leaving: Iterable[str] = ()
) -> tuple[list[Rule], RuleBook]:
    """The rules of all apps, and the book with the ids of new ones. `book` knows every service and network of them.

    `leaving` are services (app/service) that no app names any more, but of which instances still run: without rules of
    their own they would be open to everybody.
    """
    specs = list(apps)
    peers = Peers({name: number for number, name in book.names.items()}, networks_used(specs))
    drafts = [draft for app in specs for draft in _app(app, peers)]
    drafts += [draft for who in leaving for draft in _leaving(who, peers.numbers[who])]
    ids = dict(known.ids)
    following = max(ids.values(), default=0) + 1
    found: dict[Draft, Rule] = {}
    for draft in drafts:
        key = f"{draft.direction} {draft.text}"
        if key not in ids:
            ids[key] = following
            following += 1
        found[draft] = _rule(draft, ids[key])
    return list(found.values()), RuleBook(ids=ids)


def _rule(draft: Draft, number: int) -> Rule:
    return Rule(
        id=number,
        subject=draft.subject,
        direction=draft.direction,
        peer=draft.peer,
        protocol=draft.protocol,
        first_port=draft.ports[0],
        last_port=draft.ports[1],
        verdict="allow" if draft.allow else "deny",
        precedence=ALLOW if draft.allow else DEFAULT_DENY,
        text=draft.text,
    )


def _app(app: AppSpec, peers: Peers) -> Iterator[Draft]:
    for name, service in app.services.items():
        if service.is_elsewhere:
            continue  # nobody of it is here to be judged: who reaches it is decided by those who use it
        who = service_name(app.name, name)
        subject = peers.numbers[who]
        yield from _default_deny(app, who, subject)
        yield from _resolver(who, subject)
        yield from _published(service, who, subject, peers)
        if app.mode == "open":
            yield from _open(app, who, subject, peers)
        for use in service.uses:
            yield from _use(app, who, subject, use, peers)


def _default_deny(app: AppSpec, who: str, subject: int) -> Iterator[Draft]:
    reached, admitted = {
        "declared": ("it reaches only what it uses", "only those that use it reach it"),
        "open": ("it reaches its own app and the world", "only its own app reaches it"),
    }[app.mode]
    yield Draft(subject, "egress", f"{who} is {app.mode}: {reached}", allow=False)
    yield Draft(subject, "ingress", f"{who} is {app.mode}: {admitted}", allow=False)


def _leaving(who: str, subject: int) -> Iterator[Draft]:
    yield Draft(subject, "egress", f"{who} is being removed: it reaches nobody", allow=False)
    yield Draft(subject, "ingress", f"{who} is being removed: nobody reaches it", allow=False)


def _resolver(who: str, subject: int) -> Iterator[Draft]:
    for protocol, number in PROTOCOLS.items():
        yield Draft(subject, "egress", f"{who} may ask the resolver ({protocol})", RESOLVER, number, (53, 53))


def _published(service: ServiceSpec, who: str, subject: int, peers: Peers) -> Iterator[Draft]:
    """Other apps are no part of the world: they come by the node's address, or not at all."""
    for port in service.ports:
        text = f"{who} publishes port {port.target}/{port.protocol}"
        for peer in (HOST, *peers.world()):
            yield Draft(subject, "ingress", text, peer, PROTOCOLS[port.protocol], (port.target, port.target))


def _open(app: AppSpec, who: str, subject: int, peers: Peers) -> Iterator[Draft]:
    for other in app.services:
        whom = service_name(app.name, other)
        text = f"{who} to {whom}: {UNDECLARED}, the app is open"
        yield Draft(subject, "egress", text, peers.numbers[whom])
        yield Draft(peers.numbers[whom], "ingress", text, subject)
    for peer in peers.world():
        yield Draft(subject, "egress", f"{who} to the world: {UNDECLARED}, the app is open", peer)


def _use(app: AppSpec, who: str, subject: int, use: UseSpec, peers: Peers) -> Iterator[Draft]:
    protocol = PROTOCOLS[use.protocol or "tcp"] if use.protocol or use.port else 0
    ports = (use.port, use.port) if use.port else EVERY_PORT
    text = f"{who} uses {_peer_text(use)}"
    for peer in _peers_of(app, who, use, peers):
        yield Draft(subject, "egress", text, peer, protocol, ports)
        if use.service is not None:
            yield Draft(peer, "ingress", text, subject, protocol, ports)


def _peers_of(app: AppSpec, who: str, use: UseSpec, peers: Peers) -> list[int]:
    if use.service is not None:
        return [peers.service(app.name, use.service, who)]
    if use.cidr is not None:
        return peers.network(_network(use.cidr, who))
    return peers.world() if use.entity == "world" else [HOST]


def _peer_text(use: UseSpec) -> str:
    peer = use.service or use.cidr or use.entity or ""
    port = f":{use.port}" if use.port else ""
    protocol = f"/{use.protocol or 'tcp'}" if use.port or use.protocol else ""
    return f"{peer}{port}{protocol}"


def _network(text: str | None, who: str) -> IPv4Network:
    try:
        return IPv4Network(text or "")
    except ValueError as error:
        raise InputError(f"{who} uses {text!r}: {error}", hint="write a network as 203.0.113.0/24") from None
