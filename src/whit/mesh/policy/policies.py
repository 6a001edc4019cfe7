"""From policies to lines, for the services that they select. Pure.

The semantics are those of NetworkPolicy (networking.k8s.io/v1) for policies of an app, and of ClusterNetworkPolicy
(policy.networking.k8s.io) for those of the cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_network

from whit.mesh.policy.lines import (
    ADMIN,
    ALLOWED,
    AUDITED,
    BASELINE,
    DENIED,
    EVERYBODY,
    EVERYTHING,
    ISOLATED,
    Line,
    Ports,
    numbered,
)
from whit.mesh.policy.outside import Block, Network
from whit.mesh.policy.rules import Lines, Peers
from whit.mesh.policy.world import EVERY, Member, World
from whit.model.policy import HOST, NUMBERS, Direction, PeerSpec, PolicyPort, PolicyRuleSpec, PolicySpec

LONGEST = 400
"""Characters of a rule's text: it is stored with the rule's id."""
_STAGES = {"admin": ADMIN, "baseline": BASELINE}


Addresses = Mapping[int, tuple[Network, ...]]
"""Of instances, by their service's identity, each as the network of itself alone."""


@dataclass(frozen=True)
class Scene:
    """What the words of policies mean at this moment."""

    world: World
    peers: Peers
    addresses: Addresses = field(default_factory=dict)
    """Of each service's instances: a block that holds all of them means the service."""


def lines_for(app: str, policies: Iterable[PolicySpec], scene: Scene) -> Lines:
    """What these policies, its own and the cluster's, say of the services of one app."""
    found: Lines = defaultdict(list)
    for policy in policies:
        subjects = subjects_of(policy, app, scene.world)
        for direction in policy.directions if subjects else ():
            _add(policy, direction, subjects, scene, found)
    return found


def subjects_of(policy: PolicySpec, app: str, world: World) -> tuple[Member, ...]:
    """The services of the app that the policy is for."""
    if policy.app:
        return world.select(app, policy.services, None) if policy.app == app else ()
    members = world.apps.get(app)
    if members is None or not (policy.apps or EVERY).matches(members.labels):
        return ()
    return members.select(policy.services)


def _add(policy: PolicySpec, direction: Direction, subjects: Iterable[Member], scene: Scene, found: Lines) -> None:
    audit = policy.mode == "audit"
    isolation = (
        Line((ISOLATED,), "deny", f"default-deny by {policy.title}{AUDITED if audit else ''}", audit=audit)
        if policy.tier == "default"
        else None
    )
    rules = [(number, rule) for number, rule in enumerate(policy.rules, start=1) if rule.direction == direction]
    drafts = [(_line(policy, number, rule, audit), rule, _peers(policy, rule, scene)) for number, rule in rules]
    for subject in subjects:
        lines = found[subject.identity, direction]
        if isolation is not None:
            lines.append(isolation)
        for draft, rule, peers in drafts:
            lines += _resolved(draft, rule, peers, subject, direction)


def _line(policy: PolicySpec, number: int, rule: PolicyRuleSpec, audit: bool) -> Line:
    """Without peers and ports."""
    return Line(_order(policy, number, rule), rule.action, text_of(policy, number, rule), audit=audit)


def text_of(policy: PolicySpec, number: int, rule: PolicyRuleSpec) -> str:
    """What every verdict of the rule says; `number` is counted from 1."""
    label = f"rule {number} ({rule.name})" if rule.name else f"rule {number}"
    origin = f" [{rule.origin or policy.origin}]" if policy.origin else ""
    return f"{policy.title} {label}: {rule}{AUDITED if policy.mode == 'audit' else ''}{origin}"[:LONGEST]


def _order(policy: PolicySpec, number: int, rule: PolicyRuleSpec) -> tuple[int | str, ...]:
    """Of two policies with the same priority, which the specification leaves open, the name decides. No app's policy
    comes before one of the cluster."""
    if policy.tier == "default":
        return (DENIED if rule.action == "deny" else ALLOWED,)
    return _STAGES[policy.tier], int(bool(policy.app)), policy.priority, policy.name, number


@dataclass(frozen=True)
class _Found:
    """Who a rule's peers are: services, for whom named ports can be resolved, and other identities."""

    members: tuple[Member, ...] = ()
    others: tuple[int, ...] = ()
    everybody: bool = False

    @cached_property
    def everyone(self) -> tuple[int, ...]:
        return EVERYBODY if self.everybody else (*(member.identity for member in self.members), *self.others)


def _peers(policy: PolicySpec, rule: PolicyRuleSpec, scene: Scene) -> _Found:
    if not rule.peers:
        has_names = any(isinstance(port.port, str) for port in rule.ports)
        return _Found(scene.world.select("", None, EVERY) if has_names else (), everybody=True)
    members: dict[Member, None] = {}
    others: dict[int, None] = {}
    for peer in rule.peers:
        members.update(dict.fromkeys(_services(policy, peer, scene)))
        others.update(dict.fromkeys(_others(peer, scene)))
    return _Found(tuple(members), tuple(others))


def _services(policy: PolicySpec, peer: PeerSpec, scene: Scene) -> Iterable[Member]:
    if peer.services is not None or peer.apps is not None:
        return scene.world.select(policy.app, peer.services, peer.apps if policy.app else peer.apps or EVERY)
    return _inside(Block.of(peer), scene) if peer.cidr is not None else ()


def _inside(block: Block, scene: Scene) -> Iterator[Member]:
    """An instance has its service's identity, whatever its address: a block that holds only some of a service's
    instances means none of them."""
    for member in scene.world.select("", None, EVERY):
        own = [one for one in scene.addresses.get(member.identity, ()) if one.version == block.network.version]
        if own and all(block.holds(one) for one in own):
            yield member


def _others(peer: PeerSpec, scene: Scene) -> Iterable[int]:
    outside = scene.peers.outside
    if peer.entity == "host":
        return (HOST,)
    if peer.entity == "world":
        return scene.peers.world()
    if peer.dns is not None:
        return outside.of(peer.dns)
    if peer.cidr is None:
        return ()
    found = outside.of(str(Block.of(peer)))
    # The node has addresses of its own in no block, but in that of everything.
    return found if ip_network(peer.cidr).prefixlen else (HOST, *found)


def _resolved(
    draft: Line, rule: PolicyRuleSpec, peers: _Found, subject: Member, direction: Direction
) -> Iterator[Line]:
    """The line with its peers and ports: one, or one for each way in which named ports are resolved."""
    named = [port for port in rule.ports if isinstance(port.port, str)]
    plain = tuple(numbered(port) for port in rule.ports if not isinstance(port.port, str))
    if not named:
        if peers.everyone:
            yield draft._replace(peers=peers.everyone, ports=plain or EVERYTHING)
        return
    if direction == "ingress":
        yield from _of_subject(draft, named, plain, peers, subject)
    else:
        yield from _of_peers(draft, named, plain, peers)


def _of_subject(
    draft: Line, named: Sequence[PolicyPort], plain: tuple[Ports, ...], peers: _Found, subject: Member
) -> Iterator[Line]:
    """At the subject's own ports of these names."""
    ports = (*plain, *_own(named, subject))
    if ports and peers.everyone:
        yield draft._replace(peers=peers.everyone, ports=ports)


def _of_peers(draft: Line, named: Sequence[PolicyPort], plain: tuple[Ports, ...], peers: _Found) -> Iterator[Line]:
    """At each peer's own ports of these names; who is no service has none."""
    groups: dict[tuple[Ports, ...], list[int]] = defaultdict(list)
    for member in peers.members:
        groups[*plain, *_own(named, member)].append(member.identity)
    if plain and peers.others:
        groups[plain] += peers.others
    for ports, identities in groups.items():
        if ports:
            yield draft._replace(peers=tuple(identities), ports=ports)
    if peers.everybody and plain:
        yield draft._replace(peers=EVERYBODY, ports=plain)


def _own(named: Iterable[PolicyPort], member: Member) -> list[Ports]:
    return [
        (number, found, found)
        for port in named
        for number in (NUMBERS[port.protocol],)
        for found in member.port(number, str(port.port))
    ]
