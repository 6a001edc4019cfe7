"""The meaning of policy, slow and obvious: every rule that covers the question is looked at, one by one.

`look_up` is what the datapath does with a table (bpf/lib/policy.h), entry by entry. Neither knows the compiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from whit.datapath.abi import PolicyFlags, PolicyKey, PolicyValue, Verdict
from whit.model.policy import ANY_PEER, Direction


@dataclass(frozen=True)
class Rule:
    """A line of policy with numbers."""

    id: int
    subject: int
    direction: Direction
    peer: int = ANY_PEER
    protocol: int = 0
    first_port: int = 0
    last_port: int = 65535
    verdict: Literal["allow", "deny"] = "allow"
    audit: bool = False
    precedence: int = 1


@dataclass(frozen=True)
class Question:
    subject: int
    direction: str
    peer: int
    protocol: int
    port: int


@dataclass(frozen=True)
class Answer:
    """`rule` is 0 where nothing selects the subject."""

    passes: bool
    audit: bool
    rule: int = 0


NOT_SELECTED = Answer(passes=True, audit=False)


def judge(rules: Iterable[Rule], question: Question) -> Answer:
    """Higher precedence decides, then deny, then the rule that names the peer, then the older one. Audited rules decide
    nothing: if with them there would be a denial where there is none, that is told."""
    covering = [rule for rule in rules if covers(rule, question)]
    enforced = _best(rule for rule in covering if not rule.audit)
    tried = _best(covering)
    if enforced is not None and enforced.verdict == "deny":
        return Answer(passes=False, audit=False, rule=enforced.id)
    if tried is not None and tried.verdict == "deny":
        return Answer(passes=True, audit=True, rule=tried.id)
    told = enforced or tried
    return Answer(passes=True, audit=False, rule=told.id) if told else NOT_SELECTED


def _best(rules: Iterable[Rule]) -> Rule | None:
    def strength(rule: Rule) -> tuple[int, bool, bool, int]:
        return rule.precedence, rule.verdict == "deny", rule.peer != ANY_PEER, -rule.id

    return max(rules, key=strength, default=None)


def covers(rule: Rule, question: Question) -> bool:
    return (
        rule.subject == question.subject
        and rule.direction == question.direction
        and rule.peer in (ANY_PEER, question.peer)
        and (rule.protocol == 0 or rule.protocol == question.protocol)
        and (rule.protocol == 0 or rule.first_port <= question.port <= rule.last_port)
    )


def look_up(table: Mapping[PolicyKey, PolicyValue], question: Question) -> Answer:
    """Two longest-prefix look-ups, and the stronger of what they find."""
    exact, any_peer = (_longest(table, question, peer) for peer in (question.peer, ANY_PEER))
    found = _stronger(exact, any_peer)
    if found is None:
        return NOT_SELECTED
    denied = found.verdict == Verdict.DENY
    audit = denied and bool(found.flags & PolicyFlags.AUDIT)
    return Answer(not denied or audit, audit, found.rule)


def _stronger(exact: PolicyValue | None, any_peer: PolicyValue | None) -> PolicyValue | None:
    if exact is None or any_peer is None:
        return exact or any_peer
    if exact.precedence != any_peer.precedence:
        return exact if exact.precedence > any_peer.precedence else any_peer
    if exact.verdict != Verdict.DENY and any_peer.verdict == Verdict.DENY:
        return any_peer
    return exact


def _longest(table: Mapping[PolicyKey, PolicyValue], question: Question, peer: int) -> PolicyValue | None:
    wanted = _number(question.subject, peer, question.direction == "ingress", question.protocol, question.port)
    best, found = -1, None
    for key, value in table.items():
        ignored = 96 - key.prefix_length
        own = _number(key.subject, key.peer, bool(key.direction), key.protocol, key.port)
        if own >> ignored == wanted >> ignored and key.prefix_length > best:
            best, found = key.prefix_length, value
    return found


def _number(subject: int, peer: int, ingress: bool, protocol: int, port: int) -> int:
    """The key as the trie compares it. Numbers of one machine's byte order compare alike in any order."""
    return subject << 64 | peer << 32 | ingress << 24 | protocol << 16 | port
