"""Kubernetes' cases of NetworkPolicy over real instances, both families: who reaches whom, and what the mesh tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
from conformance.checking import check, play_case
from conformance.generated_policies import GENERATED, KINDS, Generated
from conformance.network_policies import CASES, Case, Document
from conformance.probing import Attempt
from conformance.semantics import Attempt as Question
from conformance.semantics import Pod, is_allowed
from support.cluster import PORTS, Cluster

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

QUICK = 23
"""Of the generated cases, every tenth, when not all are asked for."""


def test_there_are_as_many_cases_as_upstream() -> None:
    assert len({case.name for case in CASES}) == 48
    assert {name: len(list(make())) for name, (make, _) in KINDS.items()} == {name: n for name, (_, n) in KINDS.items()}
    assert len({case.name for case in GENERATED}) == 230


@pytest.mark.parametrize("case", [case for case in CASES if not case.needs_sctp], ids=lambda case: case.name)
def test_upstream(cluster: Cluster, case: Case) -> None:
    play_case(cluster, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.needs_sctp], ids=lambda case: case.name)
def test_upstream_sctp(case: Case) -> None:
    pytest.skip("this kernel has no SCTP")


@pytest.mark.timeout(2400)
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


def foretold(policies: Sequence[Document], pods: Mapping[str, Pod], attempt: Attempt) -> str:
    return "yes" if is_allowed(policies, question(pods, attempt)) else "no"


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
