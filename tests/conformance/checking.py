"""Plays cases in a cluster: every pair is tried, and of every attempt the mesh is to have told verdict and rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from conformance.network_policies import Case, Step
from conformance.probing import Attempt
from support.cluster import Cluster, tuple_of

from whit.model.flow import Flow


def play_case(cluster: Cluster, case: Case) -> None:
    try:
        for number, step in enumerate(case.steps, start=1):
            cluster.label(step.pod_labels, step.namespace_labels)
            cluster.delete(step.delete)
            cluster.apply(step.apply)
            check(cluster, step.probes, lambda attempt, step=step: expected(step, attempt), f"step {number}")
    finally:
        cluster.reset()


def check(cluster: Cluster, probes: Sequence[str], answer: Callable[[Attempt], str], name: str = "") -> None:
    """Every pair: `yes`, `no`, or `no by` and a word of the rule. Of every attempt the mesh is to have told as much."""
    attempts, flows = cluster.probe(probes)
    # A datagram of a port that was used shortly before belongs to a flow that was told then, and is judged anew.
    cluster.told |= {tuple_of(flow): flow for flow in flows}
    answers = [(one, answer(one)) for one in attempts]
    wrong = [
        f"{described(one)}: wanted is {wanted}; {cluster.said_of(one)}"
        for one, wanted in answers
        if bool(one.answer) is not (wanted == "yes")
    ]
    assert not wrong, f"{name}: {len(wrong)} of {len(attempts)} are wrong: {wrong[:10]}"
    assert {one.answer for one in attempts if one.answer} <= {one.goal.destination for one in attempts}
    for one, wanted in answers:
        assert one.sent in cluster.told, f"{name}: nothing was told of {one.goal}"
        assert_told(cluster.told[one.sent], bool(one.answer), wanted.partition(" by ")[2], f"{name}: {described(one)}")


def described(attempt: Attempt) -> str:
    goal = attempt.goal
    pair = f"{goal.source} -> {goal.destination} {goal.address} at {goal.port}/{goal.protocol}"
    return f"{pair}: {'reached' if attempt.answer else 'not reached'}"


def assert_told(flow: Flow, reached: bool, word: str, title: str) -> None:
    assert flow.verdict == ("allow" if reached else "deny"), title
    assert flow.rule, title
    assert flow.rule_text, title
    assert word in flow.rule_text, f"{title}: {flow.rule_text}"
    assert flow.reason in ([""] if reached else ["POLICY_EGRESS", "POLICY_INGRESS"]), title


def expected(step: Step, attempt: Attempt) -> str:
    """The last line that speaks of it decides."""
    found = "yes"
    goal = attempt.goal
    for line in step.expect:
        ends, answer = line.rsplit(": ", 1)
        pair, _, port = ends.partition(" at ")
        source, destination = pair.split(" -> ")
        pairs = is_meant(source, goal.source) and is_meant(destination, goal.destination)
        if pairs and port in ("", f"{goal.port}/{goal.protocol}"):
            found = answer
    return found


def is_meant(pattern: str, pod: str) -> bool:
    return pattern in ("*", pod) or pattern == f"{pod.split('/')[0]}/*"
