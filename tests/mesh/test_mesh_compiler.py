"""The compiled table answers every question as the rules do, and no step from one table to the next opens anything."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh.policy_cases import SUBJECT, compile_rules, ports, questions, rule_sets
from mesh.policy_reference import Question, Rule, judge, look_up

from whit.datapath.abi import PolicyKey, PolicyValue
from whit.mesh.policy.compiler import changes, port_prefixes

Table = dict[PolicyKey, PolicyValue]


def test_tables_answer_as_the_rules_do(sample: Callable[[int, int], int]) -> None:
    @settings(max_examples=sample(2000, 20000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(rule_sets)
    def check(found: list[Rule]) -> None:
        table = compile_rules(found)
        for question in questions(found):
            assert look_up(table, question) == judge(found, question), question

    check()


def test_no_step_between_two_tables_opens_what_both_deny(sample: Callable[[int, int], int]) -> None:
    @settings(max_examples=sample(500, 5000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(rule_sets, rule_sets, st.randoms(use_true_random=False))
    def check(before: list[Rule], after: list[Rule], order: random.Random) -> None:
        old, new = compile_rules(before), compile_rules(after)
        asked = questions(before, after)
        closed = [one for one in asked if not look_up(old, one).passes and not look_up(new, one).passes]
        table = dict(old)
        for step in steps(old, new, order):
            step(table)
            for question in closed:
                assert not look_up(table, question).passes, question
        assert table == new

    check()


def steps(old: Table, new: Table, order: random.Random) -> Iterator[Callable[[Table], object]]:
    """The single writes, in any order within a phase: that of a batch is not promised."""
    found = changes(old, new)
    for phase in (found.tightening, found.loosening):
        for key, value in sorted(phase.items(), key=lambda _: order.random()):
            yield lambda table, key=key, value=value: table.update({key: value})
    for key in sorted(found.removals, key=lambda _: order.random()):
        yield lambda table, key=key: table.pop(key)


def test_nothing_is_written_for_equal_tables() -> None:
    table = compile_rules([allow(1, 80, 90)])
    assert not changes(table, dict(table))


def test_a_longer_prefix_does_not_hide_a_denial_of_higher_precedence() -> None:
    deny = replace(allow(1, 0, 65535), verdict="deny", precedence=5)
    table = compile_rules([deny, allow(2, 80, 80)])
    answer = look_up(table, Question(SUBJECT, "egress", 2, 6, 80))
    assert (answer.passes, answer.rule) == (False, 1)


def allow(number: int, first: int, last: int) -> Rule:
    return Rule(
        id=number,
        subject=SUBJECT,
        direction="egress",
        peer=2,
        protocol=6,
        first_port=first,
        last_port=last,
    )


@given(ports, ports)
def test_prefixes_are_exactly_the_range(one: int, other: int) -> None:
    first, last = sorted((one, other))
    covered = [(port, port + (1 << (16 - bits)) - 1) for port, bits in port_prefixes(first, last)]
    assert covered[0][0] == first
    assert covered[-1][1] == last
    assert all(left[1] + 1 == right[0] for left, right in itertools.pairwise(covered))
    assert len(covered) <= 30


@pytest.mark.parametrize(("first", "last", "count"), [(0, 65535, 1), (1, 65534, 30), (80, 80, 1), (8000, 8015, 1)])
def test_ranges_take_few_entries(first: int, last: int, count: int) -> None:
    assert len(list(port_prefixes(first, last))) == count
