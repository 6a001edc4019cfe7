"""What would happen to a first packet: computed from the dumped maps by code that shares nothing with the compiler.

It walks all entries where the datapath makes look-ups, so a fault in either shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.model.flow import Explanation, Hop, Party


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
    """A first packet: addresses as text, IP protocol number."""

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


def explain(dump: Dump, question: Question, name: Callable[[int], str], rule_text: Callable[[int], str]) -> Explanation:
    """Follow the packet through balancing, the source's egress and the destination's ingress."""
    hops: list[Hop] = []
    source = identity_of(dump, question.source)
    target, port, balanced = _balance(dump, question, hops)
    destination = identity_of(dump, target)
    answer = _Answer(question, source, target, port, destination, name, rule_text, hops)
    if not balanced:
        return answer.denied("NO_BACKEND", 0)
    audited = False
    for direction, subject, peer, applies in (
        (abi.Direction.EGRESS, source, destination, _is_endpoint(dump, question.source)),
        (abi.Direction.INGRESS, destination, source, _is_endpoint(dump, target)),
    ):
        if not applies:
            continue
        outcome = judge(dump, subject, peer, direction, question.protocol, port)
        answer.add(f"{direction.name.lower()} of {name(subject)}", outcome)
        if not outcome.allowed:
            return answer.denied(f"POLICY_{direction.name}", outcome.rule)
        audited = audited or outcome.audit
        answer.rule = answer.rule or outcome.rule
    return answer.allowed(audited)


class _Answer:
    """Gathers the hops and makes the explanation of them."""

    def __init__(
        self,
        question: Question,
        source: int,
        target: str,
        port: int,
        destination: int,
        name: Callable[[int], str],
        rule_text: Callable[[int], str],
        hops: list[Hop],
    ) -> None:
        self.question = question
        self.source = Party(address=question.source, port=0, identity=source, name=name(source))
        self.destination = Party(address=target, port=port, identity=destination, name=name(destination))
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
                "protocol": {6: "tcp", 17: "udp", 1: "icmp"}.get(self.question.protocol, str(self.question.protocol)),
                "verdict": verdict,
                "reason": reason,
                "rule": rule,
                "rule_text": self.rule_text(rule) if rule else "",
                "hops": tuple(self.hops),
            }
        )


def identity_of(dump: Dump, address: str) -> int:
    """The entry with the longest prefix that holds the address; the world if none does."""
    wanted = int.from_bytes(Address.from_ip(address).packed, "big")
    best, found = -1, int(abi.ReservedIdentity.WORLD)
    for key, value in dump.identities.items():
        shift = 128 - key.prefix_length
        if wanted >> shift == int.from_bytes(key.address.packed, "big") >> shift and key.prefix_length > best:
            best, found = key.prefix_length, value.identity
    return found


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
    if key.prefix_length > abi.POLICY_PREFIX_ANY_PROTOCOL:
        size = 1 << (abi.POLICY_PREFIX_EXACT - key.prefix_length)
        ports = "every port" if size == 1 << 16 else f"port {key.port}"
        if 1 < size < 1 << 16:
            ports = f"ports {key.port}-{key.port + size - 1}"
    return f"entry for {'this peer' if key.peer else 'every peer'}, {ports}"


def _balance(dump: Dump, question: Question, hops: list[Hop]) -> tuple[str, int, bool]:
    """Where the packet goes after balancing, and whether it could be balanced."""
    frontend = _frontend(dump, question)
    if frontend is None:
        return question.destination, question.port, True
    numbers = [dump.slots[abi.SlotKey(frontend.service, slot)] for slot in range(frontend.backends)]
    active = [b for b in (dump.backends[number] for number in numbers) if b.state == abi.BackendState.ACTIVE]
    choice = ", ".join(f"{backend.address}:{backend.port or question.port}" for backend in active)
    hops.append(Hop(step=f"service {question.destination}:{question.port}", decision=f"one of {choice or 'none'}"))
    if not active:
        return question.destination, question.port, False
    return str(active[0].address), active[0].port or question.port, True


def _frontend(dump: Dump, question: Question) -> abi.FrontendValue | None:
    address = Address.from_ip(question.destination)
    keys = [
        abi.FrontendKey(address, question.port, question.protocol),
        abi.FrontendKey(address, 0, 0),
    ]
    if identity_of(dump, question.destination) == abi.ReservedIdentity.HOST and not _is_endpoint(dump, question.source):
        keys.insert(1, abi.FrontendKey(Address.from_ip("0.0.0.0"), question.port, question.protocol))
    return next((dump.frontends[key] for key in keys if key in dump.frontends), None)


def _is_endpoint(dump: Dump, address: str) -> bool:
    return abi.EndpointKey(Address.from_ip(address)) in dump.endpoints
