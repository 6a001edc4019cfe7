"""Random rule sets whose rules often meet, and the questions that tell them apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hypothesis import strategies as st
from mesh.policy_reference import Question, Rule

from whit.mesh.policy.compiler import Table, compile_side
from whit.mesh.policy.lines import EVERYTHING, Line
from whit.model.policy import ANY_PEER

SUBJECT, OTHER = 0x1000001, 0x1000002
PEER = 2
PORTS = (0, 1, 79, 80, 81, 82, 127, 128, 32767, 32768, 65535)
"""Few, so that rules often meet."""

ports = st.one_of(st.sampled_from(PORTS), st.integers(0, 65535))
ranges = st.one_of(st.just((0, 65535)), st.sampled_from([(port, port) for port in PORTS]), st.tuples(ports, ports))
shapes = st.tuples(
    st.sampled_from((SUBJECT, SUBJECT, SUBJECT, OTHER)),
    st.sampled_from(("egress", "egress", "egress", "ingress")),
    st.sampled_from((ANY_PEER, ANY_PEER, PEER, PEER, 0x2000001)),
    st.sampled_from((0, 6, 6, 17)),
    ranges,
    st.sampled_from((("allow", False), ("deny", False), ("deny", False), ("deny", True))),
    st.integers(0, 3),
)


def made(found: list[tuple[int, str, int, int, tuple[int, int], tuple[str, bool], int]]) -> list[Rule]:
    return [
        Rule(
            id=number,
            subject=subject,
            direction=direction,
            peer=peer,
            protocol=protocol,
            first_port=min(range_),
            last_port=max(range_),
            verdict=verdict[0],
            audit=verdict[1],
            precedence=precedence,
        )
        for number, (subject, direction, peer, protocol, range_, verdict, precedence) in enumerate(found, start=1)
    ]


def compile_rules(rules: Iterable[Rule]) -> Table:
    """Rules as lines, in the order in which they decide; the text of a line is the number of its rule."""
    sides: dict[tuple[int, str], list[Line]] = defaultdict(list)
    for rule in rules:
        order = (-rule.precedence, rule.verdict == "allow", rule.peer == ANY_PEER, rule.id)
        ports = ((rule.protocol, rule.first_port, rule.last_port),) if rule.protocol else EVERYTHING
        line = Line(order, rule.verdict, str(rule.id), (rule.peer,), ports, rule.audit)
        sides[rule.subject, rule.direction].append(line)
    table: Table = {}
    for (subject, direction), lines in sides.items():
        table |= compile_side(subject, direction, lines, lambda _, text: int(text))
    return table


rule_sets = st.lists(shapes, min_size=1, max_size=6).map(made)


def questions(*rule_sets: list[Rule]) -> list[Question]:
    """About each rule's peer and another, at the ports around its ends."""
    found = {
        Question(rule.subject, rule.direction, peer, rule.protocol or 6, port)
        for rules in rule_sets
        for rule in rules
        for peer in {rule.peer or PEER, PEER, 99}
        for port in (rule.first_port - 1, rule.first_port, rule.last_port, rule.last_port + 1)
        if 0 <= port <= 65535
    }
    return sorted(found, key=str)
