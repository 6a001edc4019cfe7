"""Selections: what rules select, and whether anybody listens there. Pure.

A selector that selects nothing and a port that nobody has are no errors: what they mean may come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from whit.mesh.identities import service_name
from whit.mesh.policies import subjects_of
from whit.mesh.scenario import Scenario
from whit.mesh.world import EVERY, RESOLVER_APP, Member
from whit.mesh.written import Written
from whit.model.finding import Finding, FindingKind
from whit.model.policy import NUMBERS, PeerSpec, PolicyPort, PolicySpec
from whit.model.service import ServiceSpec

Heard = tuple[int, int]
"""Protocol and port."""


def selections(scenario: Scenario, written: Mapping[str, Written]) -> Iterator[Finding]:
    if not scenario.apps:
        return
    policies = {one.policy.title: one.policy for one in written.values() if one.policy is not None}
    for policy in policies.values():
        yield from _subjects(scenario, policy)
    for one in written.values():
        if one.policy is None or not one.policy.app or one.policy.app in scenario.world.apps:
            yield from _peers(scenario, one)
            yield from _ports(scenario, one)


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


def _ports(scenario: Scenario, one: Written) -> Iterator[Finding]:
    if one.policy is None or one.rule is None or one.rule.action == "pass":
        return
    if one.rule.direction == "ingress":
        targets = _selected(scenario, one.policy)
    else:
        selectors = [peer for peer in one.rule.peers if peer.services is not None or peer.apps is not None]
        if len(selectors) != len(one.rule.peers):
            return
        targets = [member for peer in selectors for member in _meant(scenario, one.policy, peer)]
    if targets:
        listening = _listening(scenario)
        for port in one.rule.ports:
            yield from _port(one, port, targets, listening)


def _port(
    one: Written, port: PolicyPort, targets: Iterable[Member], listening: Mapping[str, set[Heard]]
) -> Iterator[Finding]:
    names = ", ".join(dict.fromkeys(member.name for member in targets))
    if isinstance(port.port, str):
        if not any(member.port(NUMBERS[port.protocol], port.port) for member in targets):
            yield _about(one, "no-listener", f"none of {names} has a port named {port.port}/{port.protocol}")
        return
    if port.port is None:
        return
    heard = [listening.get(member.name, set()) for member in targets]
    span = range(port.port, (port.end_port or port.port) + 1)
    if all(heard) and not any(
        protocol == NUMBERS[port.protocol] and at in span for own in heard for protocol, at in own
    ):
        yield _about(one, "no-listener", f"none of {names} lists the port {port}", "remark")


def _listening(scenario: Scenario) -> dict[str, set[Heard]]:
    """What each service says of its ports; one that says nothing may listen anywhere."""
    found = {
        service_name(app.name, name): _listed(service)
        for app in scenario.apps
        for name, service in app.services.items()
    }
    resolver = {(number, port) for member in scenario.world.apps[RESOLVER_APP].all for number, _, port in member.ports}
    return {**found, "resolver": resolver}


def _listed(service: ServiceSpec) -> set[Heard]:
    published = {(NUMBERS[port.protocol], port.target) for port in service.ports}
    return published | {(NUMBERS[port.protocol], port.port) for port in service.expose}


def _finding(kind: FindingKind, severity: str, policy: PolicySpec, text: str) -> Finding:
    return Finding.model_validate(
        {"kind": kind, "severity": severity, "place": policy.origin, "rule": policy.title, "text": text}
    )


def _about(one: Written, kind: FindingKind, text: str, severity: str = "problem") -> Finding:
    return Finding.model_validate(
        {"kind": kind, "severity": severity, "place": one.place, "rule": one.title, "text": text}
    )
