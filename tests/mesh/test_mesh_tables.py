"""The maps of a real kernel, brought from one state to the next one write at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from mesh.policy_cases import compile_rules, questions, rule_sets
from mesh.policy_reference import Question, Rule, look_up

from whit.base.settings import Settings
from whit.datapath.abi import (
    POLICY_PREFIX_EXACT,
    Direction,
    IdentityKey,
    IdentityValue,
    PolicyFlags,
    PolicyKey,
    PolicyValue,
    SlotKey,
    Verdict,
)
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.mesh import tables
from whit.mesh.services import Backend, Service, service_tables

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def datapath(settings: Settings) -> Iterator[Datapath]:
    with Datapath.install(settings, DatapathConfig(IPv4Network("10.219.0.0/16"))) as opened:
        yield opened
    uninstall(settings)


class Watched:
    """A real map of which every single write is followed by a look."""

    def __init__(self, real: Any, look: Callable[[], None]) -> None:
        self.real = real
        self.look = look

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.real.items())

    def put_many(self, entries: Mapping[Any, Any]) -> None:
        for key, value in entries.items():
            self.real.put(key, value)
            self.look()

    def delete_many(self, keys: Iterable[Any]) -> None:
        for key in keys:
            self.real.delete(key)
            self.look()


states = st.sampled_from(["active", "leaving", "unready", "down"])
service_sets = st.dictionaries(
    st.integers(1, 4), st.dictionaries(st.integers(16, 21), states, max_size=4), max_size=3
).map(
    lambda found: [
        Service(
            0x8000 + number,
            (f"10.219.128.{number}",),
            # An instance is of one service.
            backends=tuple(
                Backend((one + 10 * number) << 16, f"10.219.{number}.{one}", state) for one, state in backends.items()
            ),
        )
        for number, backends in found.items()
    ]
)


def test_services_change_without_a_moment_in_which_one_leads_nowhere(
    datapath: Datapath, sample: Callable[[int, int], int]
) -> None:
    def look() -> None:
        slots, backends = dict(datapath.slots.items()), dict(datapath.backends.items())
        for frontend in dict(datapath.frontends.items()).values():
            for slot in range(frontend.backends):
                assert slots[SlotKey(frontend.service, slot)] in backends

    watched: Any = SimpleNamespace(
        **{name: Watched(getattr(datapath, name), look) for name in ("frontends", "slots", "backends")}
    )

    watched.state, watched.maglev = datapath.state, datapath.maglev
    writer = tables.ServiceMaps(watched)

    @bounds(max_examples=sample(60, 1000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(service_sets)
    def check(services: list[Service]) -> None:
        before, generation = dict(datapath.backends.items()), datapath.state.get(0).generation
        wanted = service_tables(services)
        writer.write(services)
        assert dict(datapath.frontends.items()) == wanted.frontends
        assert dict(datapath.slots.items()) == wanted.slots
        assert dict(datapath.backends.items()) == wanted.backends
        assert writer.write(services) == 0
        assert tables.ServiceMaps(datapath).write(services) == 0
        # Flows hear of it when a backend has gone.
        assert (datapath.state.get(0).generation > generation) is bool(before.keys() - wanted.backends.keys())

    check()


def test_policy_changes_without_a_moment_that_is_more_open(
    datapath: Datapath, sample: Callable[[int, int], int]
) -> None:
    """And the kernel's longest-prefix look-ups find what the reference finds."""
    before: list[Rule] = []

    @bounds(max_examples=sample(60, 1000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(rule_sets)
    def check(after: list[Rule]) -> None:
        old, new = compile_rules(before), compile_rules(after)
        asked = questions(before, after)
        closed = [one for one in asked if not look_up(old, one).passes and not look_up(new, one).passes]

        def look() -> None:
            for question in closed:
                assert not passes(datapath, question), question

        watched: Any = SimpleNamespace(policies=Watched(datapath.policies, look), state=datapath.state)
        generation = datapath.state.get(0).generation
        changed = tables.write_policy(watched, new)
        assert datapath.state.get(0).generation == generation + bool(changed)
        assert dict(datapath.policies.items()) == new
        for question in asked:
            assert passes(datapath, question) == look_up(new, question).passes, question
        before[:] = after

    check()


class Killed(Exception):
    """Stands for SIGKILL: nothing is cleaned up after it."""


@pytest.mark.parametrize("after", range(1, 7))
def test_a_change_that_was_broken_off_is_told_to_open_flows_by_the_next_agent(datapath: Datapath, after: int) -> None:
    tables.write_policy(datapath, compile_rules([rule(1, "allow")]))
    wanted = compile_rules([rule(2, "deny"), rule(3, "deny", peer=7), rule(4, "allow", peer=8)])
    writes = 0

    def look() -> None:
        nonlocal writes
        writes += 1
        if writes == after:
            raise Killed

    generation = datapath.state.get(0).generation
    watched: Any = SimpleNamespace(policies=Watched(datapath.policies, look), state=datapath.state)
    with contextlib.suppress(Killed):
        tables.write_policy(watched, wanted)
    tables.write_policy(datapath, wanted)
    assert datapath.state.get(0).generation > generation
    assert dict(datapath.policies.items()) == wanted
    assert tables.write_policy(datapath, wanted) == 0


def rule(number: int, verdict: Literal["allow", "deny"], peer: int = 0) -> Rule:
    return Rule(number, subject=9, direction="egress", peer=peer, verdict=verdict)


def passes(datapath: Datapath, question: Question) -> bool:
    """As judge() of bpf/lib/policy.h, on the kernel's own map."""
    direction = Direction.INGRESS if question.direction == "ingress" else Direction.EGRESS
    found: list[PolicyValue] = []
    for peer in (question.peer, 0):
        key = PolicyKey(POLICY_PREFIX_EXACT, question.subject, peer, direction, question.protocol, question.port)
        value = datapath.policies.get(key)
        if value is not None:
            found.append(value)
    if not found:
        return True
    best = max(found, key=lambda value: (value.precedence, value.verdict == Verdict.DENY))
    return best.verdict != Verdict.DENY or bool(best.flags & PolicyFlags.AUDIT)


def test_a_new_agent_finds_its_predecessors_entries_right(datapath: Datapath, settings: Settings) -> None:
    identities = {IdentityKey(128, Address.from_ip("10.219.0.16")): IdentityValue(0x1000001)}
    wanted = [Service(0x8001, ("10.219.128.1",), backends=(Backend(16 << 16, "10.219.0.16"),))]
    assert tables.IdentityMap(datapath).write(identities) == 1
    assert tables.ServiceMaps(datapath).write(wanted) == 3
    with Datapath.open(settings) as other:
        assert tables.IdentityMap(other).write(identities) == 0
        assert tables.ServiceMaps(other).write(wanted) == 0
        assert tables.write_policy(other, {}) == 0
        assert tables.IdentityMap(other).write({}) == 1
        assert tables.ServiceMaps(other).write([]) == 3


def test_maglev_tables_come_before_the_frontends_that_need_them_and_go_after(datapath: Datapath) -> None:
    writer = tables.ServiceMaps(datapath)
    backends = tuple(Backend(one << 16, f"10.219.0.{one}") for one in (16, 17))
    service = Service(0x8001, ("10.219.128.1",), backends=backends, algorithm="maglev")
    assert writer.write([service]) == 2 + 2 + 1 + 1
    ((number, _),) = service_tables([service]).maglev.items()
    assert datapath.maglev.services() == {number}
    assert writer.write([service]) == 0
    writer.write([replace(service, backends=backends[:1])])
    assert datapath.maglev.services() == {number}
    writer.write([replace(service, algorithm="random")])
    assert not datapath.maglev.services()
