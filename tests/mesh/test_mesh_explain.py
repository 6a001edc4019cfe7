"""`explain` reads the maps as the datapath does. That it predicts real packets is in test_two_instances.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh import policy_reference
from mesh.compiled import compiled
from mesh.policy_cases import compile_rules, questions, rule_sets

from whit.datapath.abi import (
    BackendValue,
    Direction,
    EndpointKey,
    EndpointValue,
    FrontendKey,
    IdentityKey,
    IdentityValue,
    PolicyFlags,
    PolicyKey,
    PolicyValue,
    SlotKey,
    Verdict,
)
from whit.datapath.address import Address, prefix_of
from whit.kernel.network.links import Link
from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.mesh.policy.explain import Dump, Question, explain, identity_of, judge
from whit.mesh.services import Backend, Service, service_tables
from whit.model.app import AppSpec
from whit.model.flow import Explanation
from whit.model.policy import WORLD as WORLD_ID

BOOK = AddressBook(pool="10.77.0.0/16")
APP = AppSpec.model_validate(
    {
        "name": "shop",
        "directory": "/",
        "services": {
            "web": {
                "image": "i",
                "uses": [{"service": "api", "port": 80}],
                "ports": [{"target": 8080, "published": 80}],
            },
            "api": {"image": "i", "uses": [{"cidr": "203.0.113.0/24"}]},
            "idle": {"image": "i", "uses": [{"service": "idle"}]},
        },
    }
)
WEB, API, IDLE = "10.77.0.16", "10.77.0.17", "10.77.0.18"
VIPS = {"web": "10.77.128.1", "api": "10.77.128.2", "idle": "10.77.128.3"}
HOST, WORLD = "192.0.2.7", "198.51.100.1"


@pytest.fixture(scope="module")
def dump() -> Dump:
    return dumped()[0]


def dumped() -> tuple[Dump, Callable[[int], str], Callable[[int], str]]:
    found = compiled([APP])
    book, texts = found.identities, found.rules
    network = IPv4Network("203.0.113.0/24")
    eth0 = Link("eth0", 2, "", 1500, "", up=True, addresses=(IPv4Interface(f"{HOST}/24"),))
    owners = dict(zip((WEB, API, IDLE), VIPS, strict=True))
    known = node.node_identities(BOOK, [eth0], {network: book.number(str(network))})
    known |= node.service_identities({address: book.number(f"shop/{name}") for address, name in owners.items()})
    wanted = service_tables(
        Service(
            0x8000 + number,
            (VIPS[name],),
            APP.services[name].ports,
            (Backend(number << 16, address, "unready" if name == "idle" else "active"),),
        )
        for number, (address, name) in enumerate(owners.items(), start=16)
    )
    endpoints = {
        EndpointKey(Address.from_ip(address)): EndpointValue(9, book.number(f"shop/{name}"), 0, bytes(6), bytes(6))
        for address, name in owners.items()
    }
    maps = Dump(known, endpoints, found.table, wanted.frontends, wanted.slots, wanted.backends)
    return maps, book.name, lambda number: texts.texts().get(number, "")


def asked(source: str, destination: str, port: int, protocol: int = 6) -> Explanation:
    maps, name, rule_text = dumped()
    return explain(maps, Question(source, destination, port, protocol), name, rule_text)


@pytest.mark.parametrize(
    ("source", "destination", "port", "verdict", "reason", "target"),
    [
        (WEB, VIPS["api"], 80, "allow", "", f"{API}:80"),
        (WEB, API, 80, "allow", "", f"{API}:80"),
        (WEB, VIPS["api"], 81, "deny", "POLICY_EGRESS", f"{API}:81"),
        (API, VIPS["web"], 8080, "deny", "POLICY_EGRESS", f"{WEB}:8080"),
        (WORLD, HOST, 80, "allow", "", f"{WEB}:8080"),
        (HOST, HOST, 80, "allow", "", f"{WEB}:8080"),
        ("127.0.0.1", "127.0.0.1", 80, "allow", "", f"{WEB}:8080"),
        (WORLD, WEB, 8080, "allow", "", f"{WEB}:8080"),
        (WORLD, WEB, 80, "deny", "POLICY_INGRESS", f"{WEB}:80"),
        (WORLD, VIPS["web"], 8080, "allow", "", f"{VIPS['web']}:8080"),
        (HOST, VIPS["web"], 8080, "allow", "", f"{WEB}:8080"),
        (HOST, VIPS["api"], 80, "deny", "POLICY_INGRESS", f"{API}:80"),
        (IDLE, VIPS["idle"], 80, "deny", "NO_BACKEND", f"{VIPS['idle']}:80"),
        (IDLE, IDLE, 80, "allow", "", f"{IDLE}:80"),
        (API, "203.0.113.9", 443, "allow", "", "203.0.113.9:443"),
        (API, WORLD, 443, "deny", "POLICY_EGRESS", f"{WORLD}:443"),
        (WEB, "203.0.113.9", 443, "deny", "POLICY_EGRESS", "203.0.113.9:443"),
        (WEB, "10.77.0.99", 443, "deny", "UNKNOWN_ENDPOINT", "10.77.0.99:443"),
        (WEB, "10.77.200.1", 443, "deny", "UNKNOWN_ENDPOINT", "10.77.200.1:443"),
        (WEB, HOST, 22, "deny", "POLICY_EGRESS", f"{HOST}:22"),
        (HOST, WORLD, 443, "allow", "", f"{WORLD}:443"),
    ],
)
def test_verdicts(source: str, destination: str, port: int, verdict: str, reason: str, target: str) -> None:
    found = asked(source, destination, port)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert f"{found.destination.address}:{found.destination.port}" == target


def test_each_decision_is_a_hop() -> None:
    found = asked(WEB, VIPS["api"], 80)
    assert [hop.step for hop in found.hops] == [
        f"service {VIPS['api']}:80",
        "who",
        "egress of shop/web",
        "ingress of shop/api",
    ]
    assert found.hops[0].decision == f"one of {API}:80"
    assert found.hops[1].decision == f"{WEB} is shop/web, {API} is shop/api"
    assert {hop.rule_text for hop in found.hops[2:]} == {"shop/web uses api:80/tcp"}
    assert found.rule_text == "shop/web uses api:80/tcp"


def test_a_denial_ends_the_way_and_names_the_rule() -> None:
    found = asked(API, VIPS["web"], 8080)
    assert [hop.step for hop in found.hops][-1] == "egress of shop/api"
    assert found.rule_text == "shop/api is declared: it reaches only what it uses; none of 3 rules matches"


def test_who_asks_its_own_service_is_judged_as_all_others_are() -> None:
    """A client may be its own backend."""
    found = asked(WEB, VIPS["web"], 8080)
    assert (found.destination.address, found.reason) == (WEB, "POLICY_EGRESS")


def test_only_streams_and_datagrams_of_the_node_are_balanced() -> None:
    """There is no hook of sockets for others: an echo request to a service leads nowhere."""
    assert asked(HOST, VIPS["web"], 0, 1).destination.address == VIPS["web"]
    assert asked(API, VIPS["web"], 0, 1).destination.address == WEB


@pytest.mark.parametrize("destination", [WEB, VIPS["api"], HOST])
def test_an_address_of_the_mesh_that_nobody_has_sends_nothing(destination: str) -> None:
    found = asked("10.77.0.99", destination, 80)
    assert (found.verdict, found.reason, found.rule) == ("deny", "SPOOFED_ADDRESS", 0)


def test_the_resolver_is_a_process_of_the_node(dump: Dump) -> None:
    found = explain(dump, Question(str(BOOK.resolver), VIPS["web"], 8080, 6), str, str)
    assert found.destination.address == WEB


def test_a_backend_that_is_gone_leads_nowhere(dump: Dump) -> None:
    gone = EndpointKey(Address.from_ip(API))
    torn = replace(dump, endpoints={key: value for key, value in dump.endpoints.items() if key != gone})
    found = explain(torn, Question(WEB, VIPS["api"], 80, 6), str, str)
    assert (found.verdict, found.reason, found.destination.address) == ("deny", "UNKNOWN_ENDPOINT", API)


def test_who_is_elsewhere_has_a_policy_too(dump: Dump) -> None:
    """A service's endpoints outside have its identity, and whoever reaches them from here meets its ingress policy."""
    here, there = dump.identities[IdentityKey(128, Address.from_ip(API))].identity, 0x1000099
    outside = dump.identities | {IdentityKey(128, Address.from_ip("203.0.113.9")): IdentityValue(there)}
    closed = PolicyValue(77, 1, Verdict.DENY, 0, 0)
    policies = {PolicyKey(72, there, 0, Direction.INGRESS, 0, 0): closed}
    found = explain(replace(dump, identities=outside, policies=policies), Question(API, "203.0.113.9", 80, 6), str, str)
    assert (found.source.identity, found.reason, found.rule) == (here, "POLICY_INGRESS", 77)


@pytest.mark.parametrize(("protocol", "port"), [(6, 80), (132, 80), (1, 0x0800)])
def test_who_is_its_own_backend_answers_itself(protocol: int, port: int) -> None:
    maps, name, rule_text = dumped()
    found = explain(replace(maps, policies={}), Question(WEB, VIPS["web"], port, protocol), name, rule_text)
    assert (found.destination.address, found.reason) == (WEB, "")


def test_only_of_streams_and_datagrams_the_port_is_translated() -> None:
    maps, name, rule_text = dumped()
    moved = {number: replace(value, port=8080) for number, value in maps.backends.items()}
    for protocol, port in ((6, 8080), (17, 8080), (132, 80), (1, 80)):
        question = Question(WEB, VIPS["api"], 80, protocol)
        assert explain(replace(maps, backends=moved), question, name, rule_text).destination.port == port


def test_backends_of_several_identities_are_told(dump: Dump) -> None:
    """An endpoint that is the node itself has the node's identity, and may be ruled about otherwise."""
    backends = dict(dump.backends)
    frontend = dump.frontends[FrontendKey(Address.from_ip(VIPS["api"]), 0, 0)]
    backends[1] = BackendValue(Address.from_ip(HOST), 80, 0)
    more = {SlotKey(frontend.service, 1): 1}
    frontends = dump.frontends | {FrontendKey(Address.from_ip(VIPS["api"]), 0, 0): replace(frontend, backends=2)}
    torn = replace(dump, backends=backends, slots=dump.slots | more, frontends=frontends)
    found = explain(torn, Question(WEB, VIPS["api"], 80, 6), str, str)
    assert found.destination.address == API
    expected = f"one of {API}:80, {HOST}:80; not all are of one identity: what follows is about the first"
    assert found.hops[0].decision == expected


def test_maps_that_are_being_written_are_no_error(dump: Dump) -> None:
    torn = replace(dump, slots={}, backends={})
    question = Question(WEB, VIPS["api"], 80, 6)
    assert explain(torn, question, str, str).reason == "NO_BACKEND"


def test_it_judges_as_the_rules_do(sample: Callable[[int, int], int]) -> None:
    @settings(max_examples=sample(2000, 20000), deadline=None, suppress_health_check=list(HealthCheck))
    @given(rule_sets)
    def check(found: list[policy_reference.Rule]) -> None:
        maps = Dump(policies=compile_rules(found))
        for one in questions(found):
            direction = Direction.INGRESS if one.direction == "ingress" else Direction.EGRESS
            outcome = judge(maps, one.subject, one.peer, direction, one.protocol, one.port)
            expected = policy_reference.judge(found, one)
            assert (outcome.allowed, outcome.audit, outcome.rule) == (expected.passes, expected.audit, expected.rule)

    check()


networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.sampled_from([IPv4Address(text) for text in ("10.0.0.0", "10.1.2.3", "10.1.2.255", "203.0.113.9")]),
    st.integers(0, 32),
)


@given(st.lists(networks, unique=True, max_size=8), st.integers(0, 0xFFFFFFFF))
def test_an_address_has_the_identity_of_its_longest_prefix(found: list[IPv4Network], other: int) -> None:
    known = {}
    for number, network in enumerate(found, start=100):
        length, first = prefix_of(network)
        known[IdentityKey(length, first)] = IdentityValue(number)
    ends = [network[position] for network in found for position in (0, -1)]
    for address in (*ends, IPv4Address(other)):
        holding = [(network.prefixlen, number) for number, network in enumerate(found, 100) if address in network]
        assert identity_of(Dump(identities=known), str(address)) == max(holding, default=(0, WORLD_ID))[1]


def test_an_audited_denial_is_told_as_such() -> None:
    maps, name, rule_text = dumped()
    audited = {key: replace(value, flags=PolicyFlags.AUDIT) for key, value in maps.policies.items()}
    found = explain(replace(maps, policies=audited), Question(API, VIPS["web"], 8080, 6), name, rule_text)
    assert (found.verdict, found.reason) == ("audit", "")
