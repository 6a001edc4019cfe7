"""Selections: what rules select, and whether anybody listens there. Pure.

A selector that selects nothing and a port that nobody has are no errors: what they mean may come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whit.mesh.policy.identities import service_name
from whit.mesh.policy.policies import subjects_of
from whit.mesh.policy.scenario import Scenario
from whit.mesh.policy.world import EVERY, RESOLVER_APP, Member
from whit.mesh.policy.written import Written
from whit.model.finding import Finding, FindingKind
from whit.model.policy import NUMBERS, PeerSpec, PolicyPort, PolicySpec
from whit.model.service import ServiceSpec, UseSpec


@dataclass(frozen=True)
class Heard:
    """Where a service listens: what its file lists, and what is seen of instances that run. Protocols and ports."""

    name: str
    ports: frozenset[tuple[int, int]]
    is_seen: bool


def selections(scenario: Scenario, written: Mapping[str, Written]) -> Iterator[Finding]:
    if not scenario.apps:
        return
    policies = {one.policy.title: one.policy for one in written.values() if one.policy is not None}
    for policy in policies.values():
        yield from _subjects(scenario, policy)
    heard = _heard(scenario)
    for one in written.values():
        if one.policy is None or not one.policy.app or one.policy.app in scenario.world.apps:
            yield from _peers(scenario, one)
            yield from _ports(scenario, one, heard)


def _subjects(scenario: Scenario, policy: PolicySpec) -> Iterator[Finding]:
    if policy.app and policy.app not in scenario.world.apps:
        known = ", ".join(sorted(app.name for app in scenario.apps))
        yield _finding("selects-nothing", "problem", policy, f"there is no app {policy.app}; there are: {known}")
    elif not _selected(scenario, policy):
        wanted = str(policy.services) or "every service"
        yield _finding("selects-nothing", "problem", policy, f"no service has the labels {wanted}")


def _selected(scenario: Scenario, policy: PolicySpec) -> list[Member]:
    return [member for app in scenario.apps for member in subjects_of(policy, app.name, scenario.world)]


def _peers(scenario: Scenario, one: Written) -> Iterator[Finding]:
    if one.policy is None or one.rule is None:
        return
    for peer in one.rule.peers:
        if (peer.services is not None or peer.apps is not None) and not _meant(scenario, one.policy, peer):
            yield _about(one, "selects-nothing", f"its peer, {peer}, is nobody")


def _meant(scenario: Scenario, policy: PolicySpec, peer: PeerSpec) -> tuple[Member, ...]:
    return scenario.world.select(policy.app, peer.services, peer.apps if policy.app else peer.apps or EVERY)


# ---- ports ----


def _ports(scenario: Scenario, one: Written, heard: Mapping[str, Heard]) -> Iterator[Finding]:
    if one.use is not None:
        yield from _used(one, one.use, heard)
    if one.policy is None or one.rule is None or one.rule.action == "pass":
        return
    if one.rule.direction == "ingress":
        targets = _selected(scenario, one.policy)
    else:
        selectors = [peer for peer in one.rule.peers if peer.services is not None or peer.apps is not None]
        if len(selectors) != len(one.rule.peers):
            return
        targets = [member for peer in selectors for member in _meant(scenario, one.policy, peer)]
    for port in one.rule.ports if targets else ():
        if isinstance(port.port, str):
            yield from _named(one, port, targets)
        elif port.port is not None and one.rule.action == "allow":
            names = list(dict.fromkeys(member.name for member in targets))
            span = range(port.port, (port.end_port or port.port) + 1)
            yield from _numbered(one, str(port), NUMBERS[port.protocol], span, [heard[name] for name in names])


def _named(one: Written, port: PolicyPort, targets: Iterable[Member]) -> Iterator[Finding]:
    if not any(member.port(NUMBERS[port.protocol], str(port.port)) for member in targets):
        names = ", ".join(dict.fromkeys(member.name for member in targets))
        yield _about(one, "no-listener", f"none of {names} has a port named {port.port}/{port.protocol}")


def _used(one: Written, use: UseSpec, heard: Mapping[str, Heard]) -> Iterator[Finding]:
    there = heard.get(service_name(one.app, use.service or ""))
    if there is not None and use.port is not None:
        protocol = use.protocol or "tcp"
        span = range(use.port, use.port + 1)
        yield from _numbered(one, f"{use.port}/{protocol}", NUMBERS[protocol], span, [there])


def _numbered(one: Written, port: str, protocol: int, span: range, heard: Sequence[Heard]) -> Iterator[Finding]:
    """One of which nothing is known may listen anywhere."""
    if not all(each.ports or each.is_seen for each in heard) or any(
        own == protocol and at in span for each in heard for own, at in each.ports
    ):
        return
    names = ", ".join(each.name for each in heard)
    if all(each.is_seen for each in heard):
        yield _about(one, "no-listener", f"none of {names} listens at the port {port} now")
    else:
        yield _about(one, "no-listener", f"none of {names} lists the port {port}", "remark")


def _heard(scenario: Scenario) -> dict[str, Heard]:
    """By service, and of the resolver."""
    found = {
        name: Heard(name, _listed(service) | scenario.listening.get(name, frozenset()), name in scenario.listening)
        for app in scenario.apps
        for name, service in ((service_name(app.name, short), one) for short, one in app.services.items())
    }
    resolver = {(number, port) for member in scenario.world.apps[RESOLVER_APP].all for number, _, port in member.ports}
    return {**found, "resolver": Heard("resolver", frozenset(resolver), is_seen=True)}


def _listed(service: ServiceSpec) -> frozenset[tuple[int, int]]:
    published = {(NUMBERS[port.protocol], port.target) for port in service.ports}
    return frozenset(published | {(NUMBERS[port.protocol], port.port) for port in service.expose})


def _finding(kind: FindingKind, severity: str, policy: PolicySpec, text: str) -> Finding:
    return Finding.model_validate(
        {"kind": kind, "severity": severity, "place": policy.origin, "rule": policy.title, "text": text}
    )


def _about(one: Written, kind: FindingKind, text: str, severity: str = "problem") -> Finding:
    return Finding.model_validate(
        {"kind": kind, "severity": severity, "place": one.place, "rule": one.title, "text": text}
    )
