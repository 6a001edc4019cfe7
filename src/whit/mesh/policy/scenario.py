"""Scenario: apps and policies as they could be, compiled by the engine as ever, to be asked what would happen.

Nothing of it reaches the kernel. It answers from the lines, by the function that the compiler makes the tables of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_network

from whit.mesh.policy import compiler, identities
from whit.mesh.policy.compiler import Judged
from whit.mesh.policy.engine import Engine, Situation
from whit.mesh.policy.identities import SERVICE_SCOPE, IdentityBook, scope_of, service_name
from whit.mesh.policy.lines import Line
from whit.mesh.policy.outside import Network, Outside, names_matching, outside_of
from whit.mesh.policy.policies import Addresses
from whit.mesh.policy.rulebook import RuleBook
from whit.mesh.policy.rules import Side
from whit.model.app import AppSpec
from whit.model.finding import Candidate
from whit.model.flow import Verdict
from whit.model.policy import WORLD, Direction, PolicySpec

Listening = Mapping[str, frozenset[tuple[int, int]]]
"""Protocols and ports at which a service's instances were seen to listen, by service."""
MOST_MIXED = 16_384
"""Sets of a name and networks: beyond them, an address is told by its networks alone."""


class Scenario:
    """One of them. Raises what the engine raises: InputError for a use of nobody, Unavailable for too many entries."""

    def __init__(
        self,
        apps: Sequence[AppSpec],
        policies: Sequence[PolicySpec] = (),
        *,
        known: IdentityBook | None = None,
        addresses: Addresses | None = None,
        listening: Listening | None = None,
    ) -> None:
        """`known` are identities that were given out already, `addresses` those of instances."""
        self.listening = listening or {}
        spoken_of = _mixed(outside_of(apps, [*policies, *(policy for app in apps for policy in app.policies)]))
        owners = [service_name(app.name, service) for app in apps for service in app.services]
        self.apps = tuple(apps)
        self.policies = (*policies, *(policy for app in apps for policy in app.policies))
        self.services = frozenset(owners)
        self.book = identities.assign(known or IdentityBook(), owners, spoken_of)
        self.outside = identities.numbers_of(self.book, spoken_of)
        engine = Engine(RuleBook())
        engine.compile(Situation(apps, policies, (), self.book.numbers, self.outside, addresses or {}), at=0.0)
        self.world = engine.world
        self.sides: Mapping[Side, Sequence[Line]] = {side: compiler.ordered(lines) for side, lines in engine.lines()}
        """Lines in their order, by subject and direction. The tables are let go: they take most of the memory."""

    @cached_property
    def said(self) -> Mapping[str, Sequence[tuple[Side, Line]]]:
        """Lines by text, each with its subject and direction."""
        found: dict[str, list[tuple[Side, Line]]] = defaultdict(list)
        for side, lines in self.sides.items():
            for line in lines:
                found[line.text].append((side, line))
        return found

    def decide(self, subject: int, direction: Direction, peer: int, protocol: int, port: int) -> Judged | None:
        """What one end says of a first packet; None if nothing is said of it, so that it passes."""
        return compiler.decide(self.sides.get((subject, direction), ()), peer, protocol, port)

    def passage(self, source: int, destination: int, protocol: int, port: int) -> tuple[Verdict, str]:
        """allow, deny or audit, and the text of the rule that decided: both ends are asked, if they are services."""
        audited, said = False, ""
        for subject, peer, direction in _ends(source, destination):
            found = self.decide(subject, direction, peer, protocol, port)
            if found is None:
                continue
            if found.deny and not found.audit:
                return "deny", found.text
            said = found.text if found.audit and not audited else said or found.text
            audited = audited or found.audit
        return "audit" if audited else "allow", said

    def outsider(self, address: IPv4Address | IPv6Address, dns: str = "") -> int:
        """The identity of an address beyond the mesh, which was asked for by this name."""
        own = ip_network(address)
        holding = [net for net in self.outside.regions if net.version == own.version and own.subnet_of(net)]  # type: ignore[arg-type]
        spoken_of = self.outside.outside
        members = spoken_of.regions[max(holding, key=_length)] if holding else frozenset()
        named = names_matching(spoken_of.names, dns) if dns else frozenset()
        return self.outside.number(members | named) or self.outside.number(members) or WORLD


@dataclass(frozen=True)
class Present:
    """What there is without the candidate."""

    apps: Sequence[AppSpec] = ()
    policies: Sequence[PolicySpec] = ()
    known: IdentityBook | None = None
    addresses: Addresses | None = None
    listening: Listening | None = None

    def with_(self, candidate: Candidate | None = None) -> Scenario:
        """What there is, or would be."""
        apps = {app.name: app for app in (*self.apps, *(candidate.apps if candidate else ()))}
        policies = {(one.app, one.name): one for one in (*self.policies, *(candidate.policies if candidate else ()))}
        return Scenario(
            tuple(apps.values()),
            tuple(policies.values()),
            known=self.known,
            addresses=self.addresses,
            listening=self.listening,
        )


def _mixed(outside: Outside) -> Outside:
    """With the sets of addresses that a name leads to and that are in networks which are spoken of too."""
    members = set(outside.sets)
    if len(members) * len(outside.classes) > MOST_MIXED:
        return outside
    return replace(outside, shared=tuple({named | one for named in outside.classes for one in members}))


def _ends(source: int, destination: int) -> Iterable[tuple[int, int, Direction]]:
    """Those that are services: nobody else is judged."""
    if scope_of(source) == SERVICE_SCOPE:
        yield source, destination, "egress"
    if scope_of(destination) == SERVICE_SCOPE:
        yield destination, source, "ingress"


def _length(network: Network) -> int:
    return network.prefixlen
