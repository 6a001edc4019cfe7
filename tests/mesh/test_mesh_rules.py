"""From declarations to rules: who may reach whom, said by a table and asked of the compiled policy."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh.compiled import compiled
from mesh.policy_reference import Answer, Question, look_up
from pydantic import ValidationError

from whit.base.errors import InputError
from whit.datapath.abi import Verdict
from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.mesh.policy import identities, rulebook, rules
from whit.mesh.policy.explain import Dump, identity_of
from whit.mesh.policy.outside import outside_of
from whit.mesh.policy.rulebook import RuleBook, RuleSegment
from whit.model.app import AppSpec
from whit.model.policy import HOST, RESOLVER, UNASSIGNED, WORLD


def app(name: str, mode: str = "declared", **services: Any) -> AppSpec:
    full = {key: {"image": "i", **value} for key, value in services.items()}
    return AppSpec.model_validate({"name": name, "mode": mode, "directory": "/", "services": full})


SHOP = app(
    "shop",
    web={"uses": [{"service": "api", "port": 80}], "ports": [{"target": 8080, "published": 80}]},
    api={"uses": [{"service": "db"}, {"cidr": "203.0.113.0/24", "port": 443}, {"service": "api", "port": 4369}]},
    db={},
    mail={"uses": [{"entity": "world", "port": 25}, {"cidr": "203.0.113.128/25"}]},
    watch={"uses": [{"entity": "host", "port": 9100, "protocol": "udp"}]},
)
OPEN = app("blog", "open", web={"ports": [{"target": 8080, "published": 81}]}, db={})
TCP, UDP, ICMP = 6, 17, 1


class Policy:
    def __init__(self, *apps: AppSpec, known: RuleBook | None = None) -> None:
        found = compiled(apps, rules=known)
        self.table, self.book, self.ids = found.table, found.identities, found.rules
        self.regions = identities.numbers_of(self.book, outside_of(apps, ())).regions

    def number(self, name: str) -> int:
        reserved = {"world": WORLD, "host": HOST, "resolver": RESOLVER, "nobody": UNASSIGNED}
        if name[0].isdigit():
            return self.regions[IPv4Network(name)]
        return reserved.get(name) or self.book.number(name)

    def egress(self, source: str, peer: str, port: int, protocol: int) -> Answer:
        return look_up(self.table, Question(self.number(source), "egress", self.number(peer), protocol, port))

    def ingress(self, target: str, peer: str, port: int, protocol: int) -> Answer:
        return look_up(self.table, Question(self.number(target), "ingress", self.number(peer), protocol, port))

    def reaches(self, source: str, target: str, port: int, protocol: int = TCP) -> bool:
        """Both ends, as far as they are instances."""
        answers = [self.egress(source, target, port, protocol)] if "/" in source and source[0].isalpha() else []
        if "/" in target and target[0].isalpha():
            answers.append(self.ingress(target, source, port, protocol))
        return all(answer.passes for answer in answers)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(SHOP, OPEN)


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol", "expected"),
    [
        ("shop/web", "shop/api", 80, TCP, True),
        ("shop/web", "shop/api", 80, UDP, False),
        ("shop/web", "shop/api", 81, TCP, False),
        ("shop/api", "shop/web", 80, TCP, False),
        ("shop/api", "shop/db", 5432, TCP, True),
        ("shop/api", "shop/db", 9, UDP, True),
        ("shop/api", "shop/db", 0, ICMP, True),
        ("shop/web", "shop/db", 5432, TCP, False),
        ("shop/web", "shop/web", 8080, TCP, False),  # replicas
        ("shop/api", "shop/api", 4369, TCP, True),
        ("shop/api", "shop/api", 4370, TCP, False),
        ("world", "shop/web", 8080, TCP, True),
        ("host", "shop/web", 8080, TCP, True),
        ("203.0.113.0/24", "shop/web", 8080, TCP, True),  # a part of the world that has a name
        ("world", "shop/web", 80, TCP, False),
        ("world", "shop/web", 8080, UDP, False),
        ("world", "shop/db", 5432, TCP, False),
        ("host", "shop/db", 5432, TCP, False),
        ("nobody", "shop/web", 8080, TCP, False),
        ("shop/db", "shop/web", 8080, TCP, False),
        ("blog/web", "shop/web", 8080, TCP, False),
        ("shop/web", "blog/web", 8080, TCP, False),
        ("blog/web", "blog/db", 1, TCP, True),
        ("blog/db", "blog/web", 1, UDP, True),
        ("blog/db", "world", 443, TCP, True),
        ("blog/db", "203.0.113.128/25", 443, TCP, True),
        ("blog/db", "host", 22, TCP, False),
        ("world", "blog/web", 8080, TCP, True),
        ("world", "blog/db", 8080, TCP, False),
        ("shop/web", "resolver", 53, UDP, True),
        ("shop/db", "resolver", 53, TCP, True),
        ("shop/db", "resolver", 54, UDP, False),
        ("shop/db", "world", 443, TCP, False),
        ("shop/api", "203.0.113.0/24", 443, TCP, True),
        ("shop/api", "203.0.113.128/25", 443, TCP, True),  # lies in it
        ("shop/api", "203.0.113.128/25", 80, TCP, False),
        ("shop/mail", "203.0.113.128/25", 80, TCP, True),
        ("shop/mail", "203.0.113.0/24", 80, TCP, False),  # holds more than it
        ("shop/mail", "203.0.113.0/24", 25, TCP, True),  # the world does not end there
        ("shop/mail", "world", 25, TCP, True),
        ("shop/mail", "host", 25, TCP, False),
        ("shop/watch", "host", 9100, UDP, True),
        ("shop/watch", "host", 9100, TCP, False),
    ],
)
def test_who_reaches_whom(policy: Policy, source: str, target: str, port: int, protocol: int, expected: bool) -> None:
    assert policy.reaches(source, target, port, protocol) is expected


def test_what_nobody_declared_says_so(policy: Policy) -> None:
    texts = policy.ids.texts()
    assert rules.UNDECLARED in texts[policy.egress("blog/web", "blog/db", 1, TCP).rule]
    assert rules.UNDECLARED in texts[policy.egress("blog/web", "world", 1, TCP).rule]
    assert not [text for text in texts.values() if text.startswith("shop") and rules.UNDECLARED in text]


def test_a_denial_says_what_made_it(policy: Policy) -> None:
    texts = policy.ids.texts()
    assert texts[policy.ingress("shop/db", "world", 1, TCP).rule] == (
        "shop/db is declared: only those that use it reach it; its one rule does not match"
    )
    assert texts[policy.egress("shop/db", "world", 1, TCP).rule] == (
        "shop/db is declared: it reaches only what it uses; none of 2 rules matches"
    )
    assert texts[policy.ingress("blog/db", "world", 1, TCP).rule] == (
        "blog/db is open: only its own app reaches it; none of 2 rules matches"
    )


def test_an_id_stands_for_one_text_for_ever() -> None:
    first = Policy(SHOP).ids
    before = dict(first.texts())
    head, segments = first.unwritten()
    assert not first.unwritten()[1]
    again = RuleBook(head, [RuleSegment.model_validate_json(segment.model_dump_json()) for segment in segments])
    assert again.texts() == before
    both = dict(Policy(SHOP, OPEN, known=again).ids.texts())
    assert before.items() <= both.items()
    assert len(both) == len(again)


def test_a_rule_that_was_unused_for_long_is_forgotten_and_its_id_never_given_again() -> None:
    book = RuleBook()
    old = [book.number("egress", f"old {number}") for number in range(3)]
    book.use(old, [], now=0.0)
    book.use([], old[1:], now=10.0)
    book.forget(10.0 + rulebook.KEEP_SECONDS)
    assert list(book.texts()) == old
    book.forget(11.0 + rulebook.KEEP_SECONDS)
    assert list(book.texts()) == old[:1]
    head, segments = book.unwritten()
    assert RuleBook(head, segments).number("egress", "old 2") == old[-1] + 1


def test_order_of_apps_changes_no_verdict() -> None:
    one = Policy(SHOP, OPEN)
    again = compiled([OPEN, SHOP], known=one.book, rules=one.ids)
    assert again.table == one.table


def test_every_subject_is_closed_both_ways() -> None:
    policy = Policy(SHOP, OPEN)
    closed = {
        (key.subject, key.direction)
        for key, value in policy.table.items()
        if value.verdict == Verdict.DENY and not key.peer and not key.protocol
    }
    services = [number for number, name in policy.book.names.items() if name[0].isalpha()]
    assert closed == {(number, direction) for number in services for direction in (0, 1)}


nets = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.sampled_from([IPv4Address(text) for text in ("10.0.0.0", "10.1.2.3", "10.1.200.0", "203.0.113.9", "0.0.0.0")]),
    st.integers(0, 32),
)
wanted_nets = st.dictionaries(st.sampled_from("abcd"), st.lists(nets, max_size=4), min_size=1)


def test_who_uses_a_network_reaches_its_addresses_and_no_others(sample: Callable[[int, int], int]) -> None:
    """Whatever networks others use within or around it. Their identities are those of the node's own table."""

    @settings(max_examples=sample(500, 5000), deadline=None)
    @given(wanted_nets, st.ip_addresses(v=4), st.booleans())
    def check(wanted: dict[str, list[IPv4Network]], other: IPv4Address, with_world: bool) -> None:
        services = {
            name: {"uses": [{"cidr": str(net), "port": 443} for net in found]} for name, found in wanted.items()
        }
        if with_world:
            services["w"] = {"uses": [{"entity": "world", "port": 25}], "ports": [{"target": 8080, "published": 80}]}
        policy = Policy(app("nets", **services))
        known = policy.regions
        dump = Dump(identities=node.node_identities(AddressBook(pool="172.30.0.0/16"), [], known))
        ends = [net[position] for net in known for position in (0, -1)]
        for address in (*ends, *(end + 1 for end in ends if int(end) < 0xFFFFFFFF), other):
            identity = identity_of(dump, str(address))
            if identity in (HOST, RESOLVER, UNASSIGNED):
                continue
            for name, found in wanted.items():
                number = policy.number(f"nets/{name}")
                answer = look_up(policy.table, Question(number, "egress", identity, TCP, 443))
                assert answer.passes == any(address in net for net in found), (address, name)
            if with_world:
                number = policy.number("nets/w")
                assert look_up(policy.table, Question(number, "egress", identity, TCP, 25)).passes
                assert look_up(policy.table, Question(number, "ingress", identity, TCP, 8080)).passes

    check()


def test_a_peer_that_is_no_service_of_the_app_is_an_error() -> None:
    with pytest.raises(InputError, match="shop/a uses b"):
        Policy(app("shop", a={"uses": [{"service": "b"}]}))


def test_a_network_that_is_none_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"'203\.0\.113\.1/24' is not a network"):
        Policy(app("shop", a={"uses": [{"cidr": "203.0.113.1/24"}]}))


def test_a_service_that_nobody_names_any_more_is_closed_while_it_is_removed() -> None:
    found = compiled([], leaving=["shop/db"])
    number = found.number("shop/db")
    for direction in ("egress", "ingress"):
        assert not look_up(found.table, Question(number, direction, WORLD, TCP, 443)).passes
    assert {text.partition(":")[0] for text in found.rules.texts().values()} == {"shop/db is being removed"}
