"""Kubernetes' cases of NetworkPolicy over real instances, both families: who reaches whom, and what the mesh tells."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pytest
from conformance.generated_policies import GENERATED, KINDS, Generated
from conformance.network_policies import CASES, Case, Document, Step
from conformance.probing import Attempt
from conformance.semantics import Attempt as Question
from conformance.semantics import Pod, is_allowed
from support.cluster import PORTS, Cluster, tuple_of
from support.leftovers import leftovers_after
from support.whit import Whit

from whit.base.settings import Settings
from whit.model.flow import Flow

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

QUICK = 23
"""Of the generated cases, every tenth, when not all are asked for."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    whit = Whit(settings)
    made = Cluster(whit, tmp_path_factory.mktemp("responder"))
    try:
        made.start()
        yield made
    finally:
        whit.clean()
    assert not (left := leftovers_after(settings)), left


def test_there_are_as_many_cases_as_upstream() -> None:
    assert len({case.name for case in CASES}) == 48
    assert {name: len(list(make())) for name, (make, _) in KINDS.items()} == {name: n for name, (_, n) in KINDS.items()}
    assert len({case.name for case in GENERATED}) == 230


@pytest.mark.parametrize("case", [case for case in CASES if not case.needs_sctp], ids=lambda case: case.name)
def test_upstream(cluster: Cluster, case: Case) -> None:
    try:
        for step in case.steps:
            cluster.label(step.pod_labels, step.namespace_labels)
            cluster.delete(step.delete)
            cluster.apply(step.apply)
            check(cluster, step.probes, lambda attempt, step=step: expected(step, attempt))
    finally:
        cluster.reset()


@pytest.mark.parametrize("case", [case for case in CASES if case.needs_sctp], ids=lambda case: case.name)
def test_upstream_sctp(case: Case) -> None:
    pytest.skip("this kernel has no SCTP")


def test_generated(cluster: Cluster, sample: Callable[[int, int], int]) -> None:
    """What is expected follows from the documentation's semantics."""
    count = sample(QUICK, len(GENERATED))
    for case in GENERATED[:: len(GENERATED) // count]:
        try:
            play(cluster, case)
        finally:
            cluster.reset()


def play(cluster: Cluster, case: Generated) -> None:
    policies: dict[str, Document] = {}
    for change in case.changes:
        cluster.label(change.pod_labels, change.namespace_labels)
        cluster.delete(change.delete)
        cluster.apply(change.apply)
        for name in change.delete:
            del policies[name]
        for document in change.apply:
            whole = cluster.with_addresses(document)
            policies[f"{whole['metadata']['namespace']}/{whole['metadata']['name']}"] = whole
        pods = {pod: described(cluster, pod) for pod in cluster.pods}
        check(cluster, case.probes, partial(foretold, [*policies.values()], pods), case.name)


def foretold(policies: Sequence[Document], pods: Mapping[str, Pod], attempt: Attempt) -> bool:
    return is_allowed(policies, question(pods, attempt))


def check(cluster: Cluster, probes: Sequence[str], allowed: Callable[[Attempt], bool], name: str = "") -> None:
    """Every pair, and of every attempt the verdict that was told, with a rule if one decided."""
    attempts, flows = cluster.probe(probes)
    # A datagram of a port that was used shortly before belongs to a flow that was told then, and is judged anew.
    cluster.told |= {tuple_of(flow): flow for flow in flows}
    wrong = [
        f"{one.goal.source} -> {one.goal.destination} {one.goal.address} at {one.goal.port}/{one.goal.protocol}: "
        f"{'reached' if one.answer else 'not reached'}"
        for one in attempts
        if bool(one.answer) is not allowed(one)
    ]
    assert not wrong, f"{name}: {len(wrong)} of {len(attempts)} are wrong: {wrong[:10]}"
    assert {one.answer for one in attempts if one.answer} <= {one.goal.destination for one in attempts}
    for one in attempts:
        assert one.sent in cluster.told, f"{name}: nothing was told of {one.goal}"
        assert_told(cluster.told[one.sent], bool(one.answer))


def assert_told(flow: Flow, reached: bool) -> None:
    assert flow.verdict == ("allow" if reached else "deny")
    assert flow.rule
    assert flow.rule_text
    assert flow.reason in ([""] if reached else ["POLICY_EGRESS", "POLICY_INGRESS"])


def expected(step: Step, attempt: Attempt) -> bool:
    """The last line that speaks of it decides."""
    found = True
    goal = attempt.goal
    for line in step.expect:
        ends, answer = line.rsplit(": ", 1)
        pair, _, port = ends.partition(" at ")
        source, destination = pair.split(" -> ")
        pairs = is_meant(source, goal.source) and is_meant(destination, goal.destination)
        if pairs and port in ("", f"{goal.port}/{goal.protocol}"):
            found = answer == "yes"
    return found


def is_meant(pattern: str, pod: str) -> bool:
    return pattern in ("*", pod) or pattern == f"{pod.split('/')[0]}/*"


def described(cluster: Cluster, pod: str) -> Pod:
    namespace, name = pod.split("/")
    return Pod(
        namespace,
        name,
        cluster.labels_of(pod),
        {"ns": namespace, "kubernetes.io/metadata.name": namespace} | cluster.namespace_labels.get(namespace, {}),
        list(cluster.addresses[pod].values()),
        {
            (protocol.upper(), f"serve-{port}-{protocol}"): int(port)
            for port, protocol in (one.split("/") for one in PORTS)
        },
    )


def question(pods: Mapping[str, Pod], attempt: Attempt) -> Question:
    goal = attempt.goal
    return Question(
        pods[goal.source], pods[goal.destination], goal.port, goal.protocol.upper(), 6 if ":" in goal.address else 4
    )
