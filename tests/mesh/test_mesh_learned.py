"""What names stand for: how long it is kept, how much of it, and which set each address belongs to."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from whit.mesh.addresses import AddressBook
from whit.mesh.dns import learned
from whit.mesh.dns.answers import MOST_ALIASES, Given, given_by
from whit.mesh.dns.learned import Learned, LearnedNames, Timing, with_learned
from whit.mesh.dns.named import can_be_named
from whit.mesh.policy import identities
from whit.mesh.policy.identities import NAME_SCOPE, IdentityBook
from whit.mesh.policy.outside import Block, Outside, title

NOW = 1_000_000.0
API = Outside(names=("*.example.com", "api.example.com"))


def test_an_address_is_kept_for_its_time_and_a_while_longer() -> None:
    known = Learned(timing=Timing(minimum=60, grace=30))
    assert known.learn("api.example.com", {"192.0.2.1": 300, "192.0.2.2": 5}, NOW) == ["192.0.2.1", "192.0.2.2"]
    assert known.learn("api.example.com", {"192.0.2.1": 10}, NOW) == [], "and the longer time counts"
    assert not known.expire(NOW + 89)
    assert known.expire(NOW + 90)
    assert known.addresses_of("api.example.com") == ["192.0.2.1"]
    assert known.expire(NOW + 330)
    assert (len(known), known.document()) == (0, LearnedNames())


def test_a_new_agent_knows_it_from_the_document() -> None:
    known = Learned()
    known.learn("api.example.com", {"192.0.2.1": 300, "2001:db8::1": 300}, NOW)
    known.given(known.sets(API).values(), NOW)
    again = Learned(LearnedNames.model_validate_json(known.document().model_dump_json()))
    assert again.document() == known.document()
    assert again.sets(API) == known.sets(API)
    assert set(again.kept) == {frozenset(API.names)}


def test_a_name_has_bounded_room_and_the_oldest_makes_way() -> None:
    known = Learned()
    for number in range(learned.MOST_OF_NAME + 10):
        known.learn("cdn.example.com", {str(ip_address(number)): 60 + number}, NOW)
    assert len(known) == learned.MOST_OF_NAME
    assert "0.0.0.9" not in known.addresses_of("cdn.example.com")
    assert (known.dropped, "0.0.0.10" in known.addresses_of("cdn.example.com")) == (0, True)


def test_when_all_room_is_taken_new_names_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MOST_ADDRESSES", 20)
    known = Learned()
    for number in range(20):
        known.learn(f"n{number}.example.com", {str(ip_address(number)): 60}, NOW)
    assert known.learn("more.example.com", {"192.0.2.1": 60, "0.0.0.5": 60}, NOW) == ["0.0.0.5"]
    assert (known.dropped, known.names_of("0.0.0.5")) == (1, {"n5.example.com", "more.example.com"})


def test_sets_are_kept_until_no_flow_bears_them() -> None:
    known = Learned(timing=Timing(minimum=0, grace=0))
    known.learn("api.example.com", {"192.0.2.1": 10}, NOW)
    wider = Outside(blocks=(Block(ip_network("192.0.2.0/24")),), names=("api.example.com",))
    held = frozenset({"192.0.2.0/24", "api.example.com"})
    assert with_learned(wider, known).shared == (held,)
    known.given(known.sets(wider).values(), NOW)
    known.expire(NOW + 20)
    known.given(known.sets(wider).values(), NOW + 20)
    assert with_learned(wider, known).shared == (held,), "flows may have it"
    assert not known.release([held], NOW + 30), "they have"
    assert not known.release([], NOW + 15), "they were looked at before"
    assert known.release([], NOW + 30)
    assert with_learned(wider, known).shared == ()


def test_names_that_no_policy_speaks_of_any_more_are_forgotten() -> None:
    known = Learned()
    known.learn("a.example.com", {"192.0.2.1": 60}, NOW)
    known.learn("b.example.org", {"192.0.2.1": 60, "192.0.2.2": 60}, NOW)
    known.forget_unless(["*.example.com"])
    assert known.sets(API) == {"192.0.2.1": {"*.example.com"}}


labels = st.sampled_from(["a", "b", "example", "com"])
dns_names = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.one_of(dns_names, dns_names.map("*.{}".format))
v4 = st.integers(0, 15).map(lambda number: str(ip_address(number << 28)))
networks = st.builds(lambda number, length: ip_network((number << 28, length), strict=False), *[st.integers(0, 4)] * 2)


@given(st.lists(patterns, max_size=5), st.lists(networks, max_size=4), st.lists(st.tuples(dns_names, v4), max_size=12))
@settings(deadline=None)
def test_an_address_is_in_the_set_of_all_that_mean_it(spoken_of: list[str], nets: list, told: list) -> None:  # type: ignore[type-arg]
    """Also when policies and answers come one after the other, as the sets are remembered."""
    known = Learned()
    outside = Outside(tuple(Block(net) for net in sorted(set(nets), key=str)), tuple(sorted(set(spoken_of))))
    for name, address in told:
        known.learn(name, {address: 60}, NOW)
        found = known.sets(outside)
    for address in {address for _, address in told}:
        mine = {name for name, where in told if where == address}
        by_name = {one for one in spoken_of if any(_means(one, name) for name in mine)}
        by_network = {str(net) for net in nets if ip_address(address) in net}
        assert found.get(address, frozenset()) == (by_name | by_network if by_name else frozenset())
    whole = with_learned(outside, known)
    book = identities.assign(IdentityBook(), (), whole)
    numbers = identities.numbers_of(book, whole)
    for address, members in known.sets(outside).items() if told else ():
        number = numbers.number(members)
        assert number & 0xFF000000 == NAME_SCOPE
        assert all(number in numbers.of(selector) for selector in members), address
        assert number in numbers.world


def _means(pattern: str, name: str) -> bool:
    """Label by label, where the code compares ends."""
    if not pattern.startswith("*."):
        return pattern == name
    below = pattern.split(".")[1:]
    return len(name.split(".")) > len(below) and name.split(".")[-len(below) :] == below


def test_sets_that_nobody_has_are_forgotten_but_their_numbers_are_not_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identities, "MOST_UNUSED_SETS", 3)
    book, seen = IdentityBook(), {}
    for number in range(10):
        outside = Outside(names=(f"n{number}.example",))
        book = identities.assign(book, (), outside)
        given_now = book.number(title(frozenset(outside.names)))
        assert given_now not in seen
        seen[given_now] = number
        book = IdentityBook.model_validate_json(book.model_dump_json())
    assert len(book.names) <= 5


@pytest.mark.parametrize(
    ("address", "can"),
    [
        ("192.0.2.1", True),
        ("10.1.2.3", True),
        ("2001:db8::1", True),
        ("10.77.0.16", False),
        ("fd00:1:0:5::1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::ffff:192.0.2.1", False),
        ("::ffff:10.77.0.16", False),
    ],
)
def test_what_a_name_may_stand_for(address: str, can: bool) -> None:
    book = AddressBook(pool="10.77.0.0/16", pool6="fd00:1::/64", ipv6=True)
    assert can_be_named(address, book) is can


# ---- answers ----


def reply(*records: RR, name: str = "www.example.com", code: int = RCODE.NOERROR) -> bytes:
    made = DNSRecord.question(name).reply()
    made.header.rcode = code
    made.add_answer(*records)
    return bytes(made.pack())


def record(name: str, data: A | AAAA | CNAME, ttl: int = 60) -> RR:
    return RR(name, QTYPE.reverse[type(data).__name__], rdata=data, ttl=ttl)


def test_aliases_are_followed_and_the_least_time_counts() -> None:
    found = given_by(
        reply(
            record("pop.example.net", A("192.0.2.1"), 300),
            record("WWW.example.com", CNAME("edge.example.net"), 20),
            record("edge.example.net", CNAME("POP.example.net"), 40),
            record("pop.example.net", AAAA("2001:db8::1"), 5),
            record("evil.example.net", A("192.0.2.66")),
        )
    )
    assert found == Given("www.example.com", {"192.0.2.1": 20, "2001:db8::1": 5}, "pop.example.net", 20)


def test_aliases_in_a_circle_end() -> None:
    circle = [record("www.example.com", CNAME("b.example")), record("b.example", CNAME("www.example.com"))]
    found = given_by(reply(*circle))
    assert found is not None
    assert not found.addresses
    long = [record(f"{number}.x", CNAME(f"{number + 1}.x")) for number in range(MOST_ALIASES + 5)]
    found = given_by(reply(*long, record(f"{MOST_ALIASES + 5}.x", A("192.0.2.1")), name="0.x"))
    assert found is not None
    assert not found.addresses


def test_what_is_no_answer_gives_nothing() -> None:
    assert given_by(reply(record("www.example.com", A("192.0.2.1")), code=RCODE.NXDOMAIN)) is None
    assert given_by(b"") is None
    other = given_by(reply(record("other.example.com", A("192.0.2.1"))))
    assert other == Given("www.example.com")


def test_no_answer_is_too_strange(sample: Callable[[int, int], int]) -> None:
    whole = reply(record("www.example.com", CNAME("b.example")), record("b.example", A("192.0.2.1")))
    for seed in range(sample(500, 20_000)):
        chance = random.Random(seed)
        broken = bytearray(whole[: chance.randint(0, len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randint(1, 6)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        found = given_by(bytes(broken))
        assert found is None or all(ip_address(address) for address in found.addresses)
