"""From what apps declare to the rules of policy. Pure: names in, rules with identities and stored ids out.

A declared app's services are default-deny both ways. `uses` opens the one's egress and admits it at the other's
ingress; `ports` admits the world. An open app's services reach each other and the world, and every such rule says
`undeclared`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from pydantic import Field

from whit.base.errors import InputError
from whit.mesh import identities
from whit.mesh.identities import IdentityBook, service_name
from whit.model.app import AppSpec
from whit.model.base import Noun
from whit.model.policy import ANY_PEER, HOST, RESOLVER, WORLD, Direction, Rule
from whit.model.service import ServiceSpec, UseSpec

DEFAULT_DENY = 0
ALLOW = 1

PROTOCOLS = {"tcp": 6, "udp": 17}
ENTITIES = {"world": WORLD, "host": HOST}
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
    ports: tuple[int, int] = (0, 65535)
    allow: bool = True


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


def rules(apps: Iterable[AppSpec], book: IdentityBook, known: RuleBook) -> tuple[list[Rule], RuleBook]:
    """The rules of all apps, and the book with the ids of new ones. `book` knows every service and network of them."""
    specs = list(apps)
    numbers = {name: number for number, name in book.names.items()}
    networks = networks_used(specs)
    drafts = [draft for app in specs for draft in _app(app, numbers, networks)]
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


def _app(app: AppSpec, numbers: dict[str, int], networks: list[IPv4Network]) -> Iterator[Draft]:
    for name, service in app.services.items():
        subject = numbers[service_name(app.name, name)]
        yield from _default_deny(app, name, subject)
        yield from _resolver(app, name, subject)
        yield from _published(app, name, service, subject)
        if app.mode == "open":
            yield from _open(app, name, subject, numbers, networks)
        for use in service.uses:
            yield from _use(app, name, use, numbers, networks)


def _default_deny(app: AppSpec, name: str, subject: int) -> Iterator[Draft]:
    who = service_name(app.name, name)
    yield Draft(subject, "egress", f"{who} is {app.mode}: it reaches only what it uses", allow=False)
    yield Draft(subject, "ingress", f"{who} is {app.mode}: only those that use it reach it", allow=False)


def _resolver(app: AppSpec, name: str, subject: int) -> Iterator[Draft]:
    for protocol, number in PROTOCOLS.items():
        text = f"{service_name(app.name, name)} may ask the resolver ({protocol})"
        yield Draft(subject, "egress", text, RESOLVER, number, (53, 53))


def _published(app: AppSpec, name: str, service: ServiceSpec, subject: int) -> Iterator[Draft]:
    for port in service.ports:
        text = f"{service_name(app.name, name)} publishes port {port.target}/{port.protocol}"
        yield Draft(subject, "ingress", text, ANY_PEER, PROTOCOLS[port.protocol], (port.target, port.target))


def _open(
    app: AppSpec, name: str, subject: int, numbers: dict[str, int], networks: list[IPv4Network]
) -> Iterator[Draft]:
    who = service_name(app.name, name)
    for other in app.services:
        whom = service_name(app.name, other)
        text = f"{who} to {whom}: {UNDECLARED}, the app is open"
        yield Draft(subject, "egress", text, numbers[whom])
        yield Draft(numbers[whom], "ingress", text, subject)
    yield from _outside(subject, f"{who} to the world: {UNDECLARED}, the app is open", numbers, networks, 0, (0, 65535))


def _outside(
    subject: int,
    text: str,
    numbers: dict[str, int],
    networks: list[IPv4Network],
    protocol: int,
    ports: tuple[int, int],
) -> Iterator[Draft]:
    """The world is every address without a name, and every network that some policy gave one."""
    for peer in (WORLD, *(numbers[str(network)] for network in networks)):
        yield Draft(subject, "egress", text, peer, protocol, ports)


def _use(
    app: AppSpec, name: str, use: UseSpec, numbers: dict[str, int], networks: list[IPv4Network]
) -> Iterator[Draft]:
    subject = numbers[service_name(app.name, name)]
    protocol = PROTOCOLS[use.protocol or "tcp"] if use.protocol or use.port else 0
    ports = (use.port, use.port) if use.port else (0, 65535)
    text = f"{service_name(app.name, name)} uses {_peer_text(use)}"
    if use.service is not None:
        peer = numbers[service_name(app.name, use.service)]
        yield Draft(subject, "egress", text, peer, protocol, ports)
        yield Draft(peer, "ingress", text, subject, protocol, ports)
    elif use.entity == "world":
        yield from _outside(subject, text, numbers, networks, protocol, ports)
    elif use.entity is not None:
        yield Draft(subject, "egress", text, ENTITIES[use.entity], protocol, ports)
    else:
        wanted = _network(use.cidr, service_name(app.name, name))
        for network in networks:
            if wanted in identities.containing(network, [wanted]):
                yield Draft(subject, "egress", text, numbers[str(network)], protocol, ports)


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
