"""`explain`, from the dumped maps alone, says of a first packet what the programs in the kernel make of it.

Random meshes are compiled and written by the agent's own code; each packet then runs through the programs that it would
meet on its way (BPF_PROG_TEST_RUN), and the event that they report is compared.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from support.frames import frame
from support.leftovers import leftovers_after
from support.packet_lab import (
    CLIENT,
    HOST_MACS,
    ICMP_NUMBER,
    ICMPV6_NUMBER,
    MACS,
    OUTSIDE_MAC,
    SCTP_NUMBER,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    Lab,
    Result,
    mac,
)
from support.policy_strategies import wide_sets
from support.random_mesh import BOOK, NODE_ADDRESSES, RandomNode, random_mesh

from whit.base.settings import Settings
from whit.datapath.abi import DropReason, EndpointKey, EndpointValue, FlowEvent, PolicyFlags
from whit.datapath.address import Address
from whit.mesh.explain import Dump, Question, explain
from whit.mesh.naming import deciding_rule
from whit.model.flow import Explanation
from whit.model.policy import PolicySpec

pytestmark = [pytest.mark.root, pytest.mark.machine]

CASES_OF_A_MESH = 100
OUTSIDERS = (
    ("203.0.113.1", "203.0.113.77", "203.0.113.200", "192.0.2.99", "198.51.100.9", "10.9.0.1"),
    ("2001:db8:1::1", "2001:db8:1::77", "2001:db8:1:8000::1", "2001:db8:ff::9", "fd99::1"),
)
NOBODY = (("10.7.99.99", "10.7.250.1"), ("fd07:0:0:1::9999", "fd07:0:0:2::1"))
LOOPBACK = ("127.0.0.1", "::1")
PORTS = (0, 1, 53, 79, 80, 81, 82, 8080, 8081, 9000, 65535)
ECHO, TIMESTAMP, ECHO6 = 0x0800, 0x0D00, 0x8000


@pytest.fixture(scope="module")
def random_node(
    tmp_path_factory: pytest.TempPathFactory, lab_links: dict[str, int]
) -> Iterator[tuple[Lab, RandomNode]]:
    """Its pools are those that an agent would set."""
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("lab"))
    small = dict.fromkeys(("flows", "sockets", "fragments", "identities", "backends", "edges", "affinity"), 4096)
    lab = Lab(settings, lab_links, pool=BOOK.network, pool6=BOOK.mesh6, sizes=small)
    try:
        endpoint = EndpointValue(lab_links[CLIENT], 0, 0, mac(MACS[CLIENT]), mac(HOST_MACS[CLIENT]))
        yield lab, RandomNode(settings, lab.datapath, endpoint)
    finally:
        lab.close()
    assert not leftovers_after(settings)


@dataclass(frozen=True)
class Case:
    question: Question
    source_port: int


def cases(node: RandomNode, random: Random) -> Iterator[Case]:
    """Those where something is decided, mostly: an instance or a published port is at one end."""
    for number in range(CASES_OF_A_MESH):
        ipv6 = random.random() < 0.4
        source, destination = _ends(node, random, ipv6)
        protocol = random.choice((TCP_NUMBER,) * 5 + (UDP_NUMBER,) * 3 + (ICMP_NUMBER, SCTP_NUMBER))
        if protocol == ICMP_NUMBER and ipv6:
            protocol = ICMPV6_NUMBER
        yield Case(Question(source, destination, _port(protocol, random), protocol), 10_000 + number)


def _port(protocol: int, random: Random) -> int:
    if protocol == ICMP_NUMBER:
        return random.choice((ECHO, ECHO, TIMESTAMP))
    if protocol == ICMPV6_NUMBER:
        return ECHO6
    return random.choice(PORTS) if random.random() < 0.9 else random.randrange(65536)


def _ends(node: RandomNode, random: Random, ipv6: bool) -> tuple[str, str]:
    app = random.choice(("x/", "y/", "z/", "", "", ""))  # often of the same app, which is more open
    known = {owner: found for owner, found in node.instances.items() if owner.startswith(app)}
    instances = [address for found in known.values() for address in found if (":" in address) == ipv6]
    offsets = node.book.by_owner("services")
    services = [node.book.addresses(offset)[ipv6] for owner, offset in offsets.items() if owner.startswith(app)]
    own = (NODE_ADDRESSES[ipv6], str(BOOK.node6 if ipv6 else BOOK.node), *([] if ipv6 else [str(BOOK.resolver)]))
    anywhere = (*OUTSIDERS[ipv6], *NOBODY[ipv6])
    if random.random() < 0.7 and instances:
        source = random.choice(instances)
        pools = (instances, instances, instances, services, services, services, own, OUTSIDERS[ipv6], anywhere)
        return source, random.choice(random.choice(pools))
    if random.random() < 0.3 and instances:
        return random.choice(own), random.choice(instances)
    return random.choice(anywhere), random.choice(random.choice((instances or services, own)))


class Kernel:
    """What the programs make of a first packet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def answer(self, case: Case) -> FlowEvent | None:
        """The event of the program that decided; None if none did."""
        asked = case.question
        is_from_instance = self._is_endpoint(asked.source)
        if is_from_instance:
            return self._event(self.lab.from_instance(self._frame(case, MACS[CLIENT], HOST_MACS[CLIENT])))
        if not _is_of_node(asked.source):
            result = self.lab.from_uplink(self._frame(case, OUTSIDE_MAC, UPLINK_MAC))
            if result.action != UNSPEC:
                return self._event(result)
        if self._is_endpoint(asked.destination):
            return self._event(self.lab.to_instance(self._frame(case, HOST_MACS[CLIENT], MACS[CLIENT])))
        return None

    def _frame(self, case: Case, source: str, destination: str) -> bytes:
        asked = case.question
        macs = mac(destination), mac(source)
        return frame(macs, asked.source, asked.destination, asked.protocol, case.source_port, asked.port)

    def _event(self, result: Result) -> FlowEvent:
        (event,) = self.lab.events()
        assert (result.action == SHOT) <= bool(event.reason), (result.action, event)
        return event

    def _is_endpoint(self, address: str) -> bool:
        return self.lab.datapath.endpoints.get(EndpointKey(Address.from_ip(address))) is not None


def _is_of_node(address: str) -> bool:
    return address in (*NODE_ADDRESSES, *LOOPBACK, str(BOOK.node), str(BOOK.node6), str(BOOK.resolver))


def told(event: FlowEvent) -> dict[str, object]:
    """In the words of an explanation."""
    found: dict[str, object] = {
        "verdict": "deny" if event.reason else "audit" if event.flags & PolicyFlags.AUDIT else "allow",
        "reason": DropReason(event.reason).name if event.reason else "",
        "rule": deciding_rule(event),
        "destination": str(event.destination),
    }
    if event.protocol in (TCP_NUMBER, UDP_NUMBER):
        found["port"] = event.destination_port
    if event.reason not in (DropReason.SPOOFED_ADDRESS, DropReason.NO_BACKEND):
        found["identities"] = event.source_identity, event.destination_identity
    return found


def foretold(found: Explanation) -> dict[str, object]:
    """All that may have been told."""
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "rule": found.rule,
        "destination": found.destination.address,
        "port": found.destination.port,
        "identities": (found.source.identity, found.destination.identity),
    }


def narrowed(dump: Dump, event: FlowEvent) -> Dump:
    """With no other backend than the one that the kernel chose."""
    if event.destination == event.service and event.destination_port == event.service_port:
        return dump
    chosen = {number for number, value in dump.backends.items() if value.address == event.destination}
    return replace(dump, slots={key: number for key, number in dump.slots.items() if number in chosen})


def differences(lab: Lab, node: RandomNode, random: Random, seen: Counter[str]) -> Iterator[tuple[object, ...]]:
    dump = Dump.of(lab.datapath)
    kernel = Kernel(lab)
    for case in cases(node, random):
        event = kernel.answer(case)
        found = explain(narrowed(dump, event) if event else dump, case.question, str, str)
        known = foretold(found)
        expected = told(event) if event else {"verdict": "allow", "reason": "", "rule": 0}
        seen["undecided" if event is None else str(expected["reason"] or expected["verdict"])] += 1
        if not expected.items() <= known.items():
            yield case, expected, known, found.hops
        if case.question.protocol not in (TCP_NUMBER, UDP_NUMBER):
            lab.datapath.flows.clear()


def test_on_random_meshes(
    random_node: tuple[Lab, RandomNode], sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    lab, node = random_node
    seen: Counter[str] = Counter()
    count = sample(5_000, 100_000)

    @hypothesis_settings(
        max_examples=count // CASES_OF_A_MESH,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # smaller policies would come with another mesh
    )
    @given(wide_sets)
    def check(policies: list[PolicySpec]) -> None:
        random = Random(repr(policies))
        node.become(random_mesh(random, policies), random)
        lab.datapath.flows.clear()
        wrong = list(differences(lab, node, random, seen))
        assert not wrong, wrong[0]

    check()
    record_number("explained as the kernel decided", dict(seen))
    kinds = ("allow", "audit", "undecided", "POLICY_EGRESS", "POLICY_INGRESS", "NO_BACKEND", "UNKNOWN_ENDPOINT")
    assert min(seen[kind] for kind in (*kinds, "SPOOFED_ADDRESS")) >= count // 500, seen
