"""`explain` foretells what becomes of real packets: who answers, and what the event of it tells.

Random policies over instances in namespaces, both families, TCP and UDP; from instances, the node and outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from random import Random

import pytest
from conformance.probing import Attempt, Goal, Tuple, probe
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from support.answering import answering
from support.kernel_answers import Decision, foretold, narrowed, told
from support.policy_strategies import wide_sets
from support.random_mesh import NOBODY, NODE_ADDRESSES, OF_NODE, OUTSIDERS, PUBLISHED, SERVED, random_mesh
from support.random_site import COUNTS, RandomSite, random_site

from whit.base.settings import Settings
from whit.datapath.abi import FlowEvent, Hook
from whit.mesh.policy.explain import Dump, Question, explain
from whit.model.flow import Explanation
from whit.model.policy import NUMBERS, PolicySpec

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]

GOALS_AT_ONCE = 100
FIRST_PORT = 15_000
"""Below those that the kernel gives out. Each goal has its own, by which it is known again in the events."""
NUMBER_OF = {"tcp": NUMBERS["tcp"], "udp": NUMBERS["udp"]}


@pytest.fixture
def site(settings: Settings) -> Iterator[RandomSite]:
    with random_site(settings) as site:
        servers = [(place, [address]) for address, place in site.places.items()]
        servers += [(site.outside, [*OUTSIDERS[0], *OUTSIDERS[1]]), (site.node, NODE_ADDRESSES)]
        with answering(servers, SERVED):
            yield site


def goals(site: RandomSite, random: Random, first: int) -> Iterator[Goal]:
    for port in range(first, first + GOALS_AT_ONCE):
        ipv6 = random.random() < 0.5
        source, own, destination = _ends(site, random, ipv6)
        asked = random.choice(PUBLISHED if destination in NODE_ADDRESSES and random.random() < 0.8 else SERVED)
        yield Goal(source, "", destination, asked, random.choice(("tcp", "udp")), (own, port))


def _ends(site: RandomSite, random: Random, ipv6: bool) -> tuple[str, str, str]:
    """Namespace, address to ask from, and destination."""
    app = random.choice(("x/", "y/", "z/", ""))
    instances = [address for address in site.mesh.instances(app) if (":" in address) == ipv6]
    services = site.mesh.services(app, ipv6)
    node = NODE_ADDRESSES[ipv6]
    kind = random.random()
    if kind < 0.65:
        source = random.choice(instances)
        others = [one for one in instances if one != source] or services
        pools = (others, others, services, services, (node,), OUTSIDERS[ipv6], NOBODY[ipv6])
        return source, source, random.choice(random.choice(pools))
    if kind < 0.8:
        # What has no frontend would leave by the node's own routes.
        balanced = [one for one in services if site.mesh.is_frontend(one)] or [node]
        return "node", "", random.choice(random.choice((instances, balanced, balanced, (node,))))
    return "outside", random.choice(OUTSIDERS[ipv6]), random.choice((random.choice(instances), node))


class Round:
    """Goals asked at once, with what `explain` says of each, and what came of it."""

    def __init__(self, site: RandomSite, random: Random, first: int) -> None:
        self.site = site
        self.dump = Dump.of(site.datapath)
        self.goals = {goal.own[1]: goal for goal in goals(site, random, first)}
        self.events: list[FlowEvent] = []

    def run(self, seen: Counter[str]) -> Iterator[tuple[object, ...]]:
        """What came otherwise than foretold."""
        places: Mapping[str, Path] = {**self.site.places, "node": self.site.node, "outside": self.site.outside}
        attempts = probe(places, self.goals.values(), self._lost)
        self._collect()
        for attempt in attempts:
            decision = self._decision(attempt)
            found = self.explanation(attempt, decision)
            expected, known = told(decision), foretold(found)
            answer = self._answer(attempt.goal, found)
            seen[str(expected["reason"] or (expected["verdict"] if decision.event else "undecided"))] += 1
            if not expected.items() <= known.items() or attempt.answer != answer:
                yield attempt.goal, expected, known, f"answer {attempt.answer}, not {answer}", found.hops

    def explanation(self, attempt: Attempt, decision: Decision) -> Explanation:
        goal = attempt.goal
        source = attempt.sent.source if attempt.sent.source in OF_NODE else goal.own[0]
        source = source or NODE_ADDRESSES[":" in goal.address]
        question = Question(source, goal.address, goal.port, NUMBER_OF[goal.protocol])
        return explain(narrowed(self.dump, decision, question), question, str, str)

    def _answer(self, goal: Goal, found: Explanation) -> str:
        """Whoever is there answers with his address and port. Who asks from outside at a published port, and is led to
        somebody outside, would need this site to masquerade, and so hears nothing."""
        is_balanced = (found.destination.address, found.destination.port) != (goal.address, goal.port)
        if goal.source == "outside" and is_balanced and not self._is_here(found.destination.address):
            return ""
        there = {*self.site.places, *NODE_ADDRESSES, *OUTSIDERS[0], *OUTSIDERS[1]}
        is_served = found.destination.address in there and found.destination.port in SERVED
        return f"{found.destination.address} {found.destination.port}" if is_served and found.verdict != "deny" else ""

    def _decision(self, attempt: Attempt) -> Decision:
        goal = attempt.goal
        event = next((one for one in self.events if _is_of(one, goal)), None)
        if event:
            return Decision(event, str(event.destination), event.destination_port)
        address, port = attempt.answer.split() or (goal.address, goal.port)
        return Decision(None, address, int(port))

    def _lost(self) -> Collection[Tuple]:
        """Of whom no answer is to come: dropped, or nobody listens there."""
        self._collect()
        return [
            Tuple(str(event.source), event.source_port, goal.address, goal.port, goal.protocol)
            for event in self.events
            if (goal := self.goals.get(event.source_port)) and self._is_unanswered(event)
        ]

    def _is_unanswered(self, event: FlowEvent) -> bool:
        if event.reason or event.destination_port not in SERVED:
            return True
        return event.hook == Hook.FROM_UPLINK and not self._is_here(str(event.destination))

    def _is_here(self, address: str) -> bool:
        return address in self.site.places or address in NODE_ADDRESSES

    def _collect(self) -> None:
        self.events += self.site.datapath.events.poll()


def _is_of(event: FlowEvent, goal: Goal) -> bool:
    if event.protocol != NUMBER_OF[goal.protocol]:
        return False
    if event.hook == Hook.SOCKET:
        return goal.source == "node" and (str(event.service), event.service_port) == (goal.address, goal.port)
    return event.source_port == goal.own[1]


def test_on_real_packets(
    site: RandomSite, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    seen: Counter[str] = Counter()
    rounds = iter(range(1_000))

    @hypothesis_settings(
        max_examples=sample(1_000, 10_000) // GOALS_AT_ONCE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(wide_sets)
    def check(policies: list[PolicySpec]) -> None:
        random = Random(repr(policies))
        site.mesh.become(random_mesh(random, policies, COUNTS), random)
        site.datapath.flows.clear()
        wrong = list(Round(site, random, FIRST_PORT + next(rounds) * GOALS_AT_ONCE).run(seen))
        assert not wrong, wrong[0]

    check()
    record_number("explained as real packets went", dict(seen))
    assert min(seen[kind] for kind in ("allow", "undecided", "POLICY_EGRESS", "POLICY_INGRESS", "NO_BACKEND")) > 10, (
        seen
    )
