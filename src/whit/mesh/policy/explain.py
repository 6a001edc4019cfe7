"""What would happen to a first packet: computed from the dumped maps by code that shares nothing with the compiler.

It knows neither apps nor policies, only what the kernel holds, and walks all entries where the datapath makes look-ups:
a fault in either shows as a difference. tests/bpf/test_explain_equals_kernel.py looks for one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.mesh.flows.naming import PROTOCOLS
from whit.model.flow import Explanation, Hop, Party
from whit.model.policy import UNASSIGNED

BALANCED = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
"""What the node's own sockets, and packets from outside, are balanced for; an instance's are whatever they carry. Only
of these a port is translated."""
ICMP = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
WITH_PORTS = (*BALANCED, socket.IPPROTO_SCTP)
_EGRESS, _INGRESS = abi.Direction.EGRESS, abi.Direction.INGRESS
NODE = (abi.ReservedIdentity.HOST, abi.ReservedIdentity.RESOLVER)
"""Processes of the node."""


@dataclass(frozen=True)
class Dump:
    """The maps that decide, as they were at one moment."""

    identities: dict[abi.IdentityKey, abi.IdentityValue] = field(default_factory=dict)
    endpoints: dict[abi.EndpointKey, abi.EndpointValue] = field(default_factory=dict)
    policies: dict[abi.PolicyKey, abi.PolicyValue] = field(default_factory=dict)
    frontends: dict[abi.FrontendKey, abi.FrontendValue] = field(default_factory=dict)
    slots: dict[abi.SlotKey, int] = field(default_factory=dict)
    backends: dict[int, abi.BackendValue] = field(default_factory=dict)

    @classmethod
    def of(cls, datapath: Datapath) -> Dump:
        return cls(
            identities=dict(datapath.identities.items()),
            endpoints=dict(datapath.endpoints.items()),
            policies=dict(datapath.policies.items()),
            frontends=dict(datapath.frontends.items()),
            slots=dict(datapath.slots.items()),
            backends=dict(datapath.backends.items()),
        )


@dataclass(frozen=True)
class Question:
    """A first packet: addresses as text, IP protocol number. The port of ICMP is its type << 8 | code."""

    source: str
    destination: str
    port: int
    protocol: int


@dataclass(frozen=True)
class Outcome:
    """`rule` is the one that decided."""

    allowed: bool
    audit: bool
    rule: int
    entry: str


@dataclass(frozen=True)
class _Target:
    """Where a packet goes after balancing; `reason` says why it cannot go anywhere."""

    address: str
    port: int
    is_backend: bool = False
    reason: str = ""


def explain(dump: Dump, question: Question, name: Callable[[int], str], rule_text: Callable[[int], str]) -> Explanation:
    """Follow the packet through balancing, the source's egress and the destination's ingress."""
    hops: list[Hop] = []
    source = _sender(dump, question.source)
    is_forged = _leads_nowhere(dump, question.source)
    target = _Target(question.destination, question.port) if is_forged else _balance(dump, question, hops)
    destination = identity_of(dump, target.address)
    answer = _Answer(question, source, target, destination, name, rule_text, hops)
    hops.append(
        Hop(step="who", decision=f"{question.source} is {name(source)}, {target.address} is {name(destination)}")
    )
    if is_forged:
        return answer.denied(abi.DropReason.SPOOFED_ADDRESS.name, 0)
    if target.reason:
        return answer.denied(target.reason, 0)
    if not _is_seen(dump, question, target):
        hops.append(Hop(step="policy", decision="neither end is an instance of this node: nothing is decided here"))
        return answer.allowed(audited=False)
    if _leads_nowhere(dump, target.address):
        return answer.denied(abi.DropReason.UNKNOWN_ENDPOINT.name, 0)
    return _judged(dump, answer)


def _judged(dump: Dump, answer: _Answer) -> Explanation:
    source, destination = answer.source, answer.destination
    audited = False
    for direction, own, other in ((_EGRESS, source, destination), (_INGRESS, destination, source)):
        outcome = judge(dump, own.identity, other.identity, direction, answer.question.protocol, destination.port)
        if outcome.rule or _is_endpoint(dump, own.address):
            answer.add(f"{direction.name.lower()} of {own.name}", outcome)
        if not outcome.allowed:
            return answer.denied(f"POLICY_{direction.name}", outcome.rule)
        audited = audited or outcome.audit
        answer.rule = answer.rule or outcome.rule
    return answer.allowed(audited)


def _is_seen(dump: Dump, question: Question, target: _Target) -> bool:
    """Whether a program that judges is on the way: at an instance's link, or where a published port is asked from
    outside. The node's own processes are only balanced."""
    ends = question.source, target.address
    if any(_is_endpoint(dump, end) for end in ends):
        return True
    return target.is_backend and identity_of(dump, question.source) not in NODE


class _Answer:
    """Gathers the hops and makes the explanation of them."""

    def __init__(
        self,
        question: Question,
        source: int,
        target: _Target,
        destination: int,
        name: Callable[[int], str],
        rule_text: Callable[[int], str],
        hops: list[Hop],
    ) -> None:
        self.question = question
        self.target = target
        self.source = Party(address=question.source, port=0, identity=source, name=name(source))
        self.destination = Party(address=target.address, port=target.port, identity=destination, name=name(destination))
        self.rule_text = rule_text
        self.hops = hops
        self.rule = 0

    def add(self, step: str, outcome: Outcome) -> None:
        verdict = "audit" if outcome.audit else "allow" if outcome.allowed else "deny"
        decision = f"{verdict}: {outcome.entry}"
        self.hops.append(Hop(step=step, decision=decision, rule=outcome.rule, rule_text=self.rule_text(outcome.rule)))

    def denied(self, reason: str, rule: int) -> Explanation:
        return self._made("deny", reason, rule)

    def allowed(self, audited: bool) -> Explanation:
        return self._made("audit" if audited else "allow", "", self.rule)

    def _made(self, verdict: str, reason: str, rule: int) -> Explanation:
        return Explanation.model_validate(
            {
                "source": self.source,
                "destination": self.destination,
                "protocol": PROTOCOLS.get(self.question.protocol, str(self.question.protocol)),
                "verdict": verdict,
                "reason": reason,
                "rule": rule,
                "rule_text": self.rule_text(rule) if rule else "",
                "hops": tuple(self.hops),
            }
        )


def identity_of(dump: Dump, address: str) -> int:
    """The entry with the longest prefix that holds the address; the world if none does."""
    holding = [(key.prefix_length, value.identity) for key, value in dump.identities.items() if _holds(key, address)]
    return max(holding, default=(-1, int(abi.ReservedIdentity.WORLD)))[1]


def _sender(dump: Dump, address: str) -> int:
    """Of an instance, what its link stands for."""
    endpoint = dump.endpoints.get(abi.EndpointKey(Address.from_ip(address)))
    return endpoint.identity if endpoint else identity_of(dump, address)


def judge(dump: Dump, subject: int, peer: int, direction: abi.Direction, protocol: int, port: int) -> Outcome:
    """One direction of policy: the entry for the peer and the one for every peer, the stronger of the two."""
    candidates = [
        found
        for found in (
            _longest(dump, subject, peer, direction, protocol, port),
            _longest(dump, subject, 0, direction, protocol, port),
        )
        if found is not None
    ]
    if not candidates:
        return Outcome(True, False, 0, "no policy selects it in this direction")
    key, value = max(candidates, key=lambda one: (one[1].precedence, one[1].verdict == abi.Verdict.DENY))
    denied = value.verdict == abi.Verdict.DENY
    audit = denied and bool(value.flags & abi.PolicyFlags.AUDIT)
    return Outcome(not denied or audit, audit, value.rule, _entry_text(key))


def _longest(
    dump: Dump, subject: int, peer: int, direction: abi.Direction, protocol: int, port: int
) -> tuple[abi.PolicyKey, abi.PolicyValue] | None:
    matching = [
        (key, value)
        for key, value in dump.policies.items()
        if (key.subject, key.peer, key.direction) == (subject, peer, direction) and _covers(key, protocol, port)
    ]
    return max(matching, key=lambda one: one[0].prefix_length, default=None)


def _covers(key: abi.PolicyKey, protocol: int, port: int) -> bool:
    if key.prefix_length <= abi.POLICY_PREFIX_ANY_PROTOCOL:
        return True
    free = abi.POLICY_PREFIX_EXACT - key.prefix_length
    return key.protocol == protocol and key.port >> free == port >> free


def _entry_text(key: abi.PolicyKey) -> str:
    ports = "every protocol"
    if key.protocol in ICMP and key.prefix_length > abi.POLICY_PREFIX_ANY_PORT:
        return f"entry for {'this peer' if key.peer else 'every peer'}, type {key.port >> 8}"
    if key.prefix_length > abi.POLICY_PREFIX_ANY_PROTOCOL:
        size = 1 << (abi.POLICY_PREFIX_EXACT - key.prefix_length)
        ports = "every port" if size == 1 << 16 else f"port {key.port}"
        if 1 < size < 1 << 16:
            ports = f"ports {key.port}-{key.port + size - 1}"
    return f"entry for {'this peer' if key.peer else 'every peer'}, {ports}"


def _balance(dump: Dump, question: Question, hops: list[Hop]) -> _Target:
    frontend = _frontend(dump, question)
    if frontend is None:
        return _Target(question.destination, question.port)
    targets = [_target(backend, question) for backend in _active(dump, frontend)]
    choice = ", ".join(_at(one.address, one.port, question.protocol) for one in targets)
    unlike = "; not all are of one identity: what follows is about the first"
    several = unlike if len({identity_of(dump, one.address) for one in targets}) > 1 else ""
    step = f"service {_at(question.destination, question.port, question.protocol)}"
    hops.append(Hop(step=step, decision=f"one of {choice or 'none'}{several}"))
    if not targets:
        return _Target(question.destination, question.port, reason=abi.DropReason.NO_BACKEND.name)
    return targets[0]


def _at(address: str, port: int, protocol: int) -> str:
    return f"{address}:{port}" if protocol in WITH_PORTS else address


def _active(dump: Dump, frontend: abi.FrontendValue) -> list[abi.BackendValue]:
    """Each once, in the order of the slots."""
    numbers = dict.fromkeys(dump.slots.get(abi.SlotKey(frontend.service, slot)) for slot in range(frontend.backends))
    backends = [dump.backends[number] for number in numbers if number in dump.backends]
    return [one for one in backends if one.state == abi.BackendState.ACTIVE]


def _target(backend: abi.BackendValue, question: Question) -> _Target:
    port = (question.protocol in BALANCED and backend.port) or question.port
    return _Target(str(backend.address), port, is_backend=True)


def _frontend(dump: Dump, question: Question) -> abi.FrontendValue | None:
    """Instances reach services. What comes from outside reaches published ports, the node's own processes both."""
    address = Address.from_ip(question.destination)
    anywhere = Address.from_ip("::" if ":" in question.destination else "0.0.0.0")
    own = abi.FrontendKey(address, question.port, question.protocol)
    every_address = abi.FrontendKey(anywhere, question.port, question.protocol)
    every_port = abi.FrontendKey(address, 0, 0)
    to_node = identity_of(dump, question.destination) == abi.ReservedIdentity.HOST
    if not _is_endpoint(dump, question.source):
        is_outside = identity_of(dump, question.source) not in NODE
        if question.protocol not in BALANCED or (is_outside and not to_node):
            return None
    keys = [own, every_address, every_port] if to_node else [own, every_port]
    return next((dump.frontends[key] for key in keys if key in dump.frontends), None)


def _is_endpoint(dump: Dump, address: str) -> bool:
    return abi.EndpointKey(Address.from_ip(address)) in dump.endpoints


def _leads_nowhere(dump: Dump, address: str) -> bool:
    """An address of the mesh that nobody has: nothing is sent to it, and nobody sends from it."""
    if _is_endpoint(dump, address) or identity_of(dump, address) in NODE:
        return False
    pools = [key for key, value in dump.identities.items() if value.identity == UNASSIGNED]
    return any(_holds(pool, address) for pool in pools)


def _holds(key: abi.IdentityKey, address: str) -> bool:
    wanted = int.from_bytes(Address.from_ip(address).packed, "big")
    shift = 128 - key.prefix_length
    return wanted >> shift == int.from_bytes(key.address.packed, "big") >> shift
