"""Addresses are given out once, rest before they are given again, and never lie in somebody else's network."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import Conflict, Unavailable
from whit.mesh import addresses
from whit.mesh.addresses import (
    CANDIDATES,
    FIRST_INSTANCE,
    REST_SECONDS,
    AddressBook,
    Lease,
    assign_instances,
    assign_services,
    check_pool,
    check_pool6,
    choose_pool,
    choose_pool6,
    draw_pool6,
    release,
)

BOOK = AddressBook(pool="10.77.0.0/16")


def assign_instance(book: AddressBook, owner: str, now: float) -> tuple[AddressBook, int]:
    book = assign_instances(book, [owner], now)
    return book, book.by_owner("instances")[owner]


def assign_service(book: AddressBook, owner: str, now: float) -> tuple[AddressBook, int]:
    book = assign_services(book, [owner], now)
    return book, book.by_owner("services")[owner]


HALF = 1 << 15

networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.one_of(st.ip_addresses(v=4), st.sampled_from([pool[5] for pool in CANDIDATES])),
    st.integers(4, 32),
)


@given(st.lists(networks, max_size=6))
def test_the_pool_overlaps_no_route(taken: list[IPv4Network]) -> None:
    try:
        pool = choose_pool(taken)
    except Unavailable:
        assert all(any(one.overlaps(network) for network in taken) for one in CANDIDATES)
        return
    assert not any(pool.overlaps(network) for network in taken)
    check_pool(pool, taken)


def test_a_machine_that_routes_all_of_10_has_a_pool_too() -> None:
    assert choose_pool([IPv4Network("10.0.0.0/8")]) == IPv4Network("172.30.0.0/16")
    assert all(pool.is_private and pool.prefixlen == 16 for pool in CANDIDATES)
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_no_pool_left_is_an_error_that_says_what_to_do() -> None:
    everything = [IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15")]
    with pytest.raises(Unavailable, match="WHIT_POOL"):
        choose_pool(everything)


@pytest.mark.parametrize("pool", ["10.90.0.0/24", "10.90.0.0/15"])
def test_a_pool_of_another_size_is_refused(pool: str) -> None:
    with pytest.raises(Conflict, match="/16"):
        check_pool(IPv4Network(pool), [])


def test_a_pool_that_overlaps_a_route_is_refused_by_its_name() -> None:
    with pytest.raises(Conflict, match=r"10\.90\.4\.0/24"):
        check_pool(IPv4Network("10.90.0.0/16"), [IPv4Network("10.90.4.0/24")])


def test_first_addresses_are_the_nodes_own() -> None:
    assert (BOOK.node, BOOK.resolver) == (IPv4Address("10.77.0.1"), IPv4Address("10.77.0.2"))
    book, offset = assign_instance(BOOK, "a", 0)
    assert book.address(offset) == IPv4Address("10.77.0.16")
    book, offset = assign_service(book, "a", 0)
    assert book.address(offset) == IPv4Address("10.77.128.1")


owners = st.sampled_from([f"owner-{number}" for number in range(8)])
steps = st.lists(st.tuples(st.sampled_from(["give", "keep"]), st.sets(owners), st.floats(0, 90)), max_size=30)


@given(steps)
def test_no_address_has_two_owners_or_too_short_a_rest(found: list[tuple[str, set[str], float]]) -> None:
    book, now = BOOK, 0.0
    left_at: dict[int, tuple[str, float]] = {}
    held: dict[str, int] = {}
    for kind, names, passed in found:
        now += passed
        if kind == "give":
            for name in sorted(names):
                book, offset = assign_instance(book, name, now)
                assert held.setdefault(name, offset) == offset
                assert list(held.values()).count(offset) == 1
                owner, since = left_at.pop(offset, (name, -REST_SECONDS))
                assert owner == name or now - since >= REST_SECONDS
        else:
            book = release(book, names, now)
            for name in set(held) - names:
                left_at[held.pop(name)] = (name, now)
    assert all(FIRST_INSTANCE <= offset < HALF for offset in held.values())


def test_who_comes_back_while_his_address_rests_has_it_again() -> None:
    book, offset = assign_instance(BOOK, "a", 0)
    book = release(book, [], 1)
    _, other = assign_instance(book, "b", 2)
    back, again = assign_instance(book, "a", 2)
    assert (again, other) == (offset, offset + 1)
    assert back.instances == (Lease(owner="a", offset=offset),)


def test_what_has_rested_is_forgotten_and_given_to_others() -> None:
    book, offset = assign_instance(BOOK, "a", 0)
    book = release(book, [], 10)
    assert release(book, [], 10 + REST_SECONDS - 1).instances
    book = release(book, [], 10 + REST_SECONDS)
    assert not book.instances
    assert assign_instance(book, "b", 80)[1] == offset


@pytest.mark.parametrize("assign", [assign_instance, assign_service])
def test_exhaustion_is_an_error_that_says_what_to_do(assign: object, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tuple(Lease(owner=f"o{offset}", offset=offset) for offset in range(1, 2 * HALF))
    book = BOOK.model_copy(update={"instances": full, "services": full})
    with pytest.raises(Unavailable, match="wait 60 s"):
        assign(book, "one more", 0)  # type: ignore[operator]
    rested = book.model_copy(update={"instances": tuple(one.model_copy(update={"released_at": 0.0}) for one in full)})
    assert assign_instance(rested, "one more", REST_SECONDS)[1] == FIRST_INSTANCE


def test_services_stay_within_the_upper_half_without_its_ends() -> None:
    full = tuple(Lease(owner=f"o{offset}", offset=offset) for offset in range(HALF + 1, 2 * HALF - 2))
    book, offset = assign_service(BOOK.model_copy(update={"services": full}), "last", 0)
    assert book.address(offset) == IPv4Address("10.77.255.254")


def test_nothing_is_written_anew_for_an_owner_that_has_an_address() -> None:
    book, _ = assign_instance(BOOK, "a", 0)
    assert assign_instance(book, "a", 5)[0] == book
    assert addresses.AddressBook.model_validate_json(book.model_dump_json()) == book


BOTH = AddressBook(pool="10.77.0.0/16", pool6="fd00:1:2::/64", ipv6=True)


def test_an_offset_has_an_address_in_each_family() -> None:
    assert BOTH.addresses(16) == ("10.77.0.16", "fd00:1:2::10")
    assert BOTH.addresses(HALF + 1) == ("10.77.128.1", "fd00:1:2::8001")
    assert (str(BOTH.node6), str(BOTH.mesh6)) == ("fd00:1:2::1", "fd00:1:2::/48")


def test_without_ipv6_the_drawn_pool_is_kept_and_not_used() -> None:
    book = BOTH.model_copy(update={"ipv6": False})
    assert (book.addresses(16), book.node6, book.mesh6) == (("10.77.0.16",), None, None)
    assert book.model_copy(update={"ipv6": True}) == BOTH


def test_pools_are_drawn_until_one_is_free() -> None:
    drawn = iter([IPv6Network("fd00:1::/48"), IPv6Network("fd00:2::/48")])
    assert choose_pool6([IPv6Network("fd00:1::5/128")], lambda: next(drawn)) == IPv6Network("fd00:2::/48")
    first, second = draw_pool6(), draw_pool6()
    assert first != second
    check_pool6(first, [])


@pytest.mark.parametrize("pool", ["2001:db8::/48", "fd00:1::/64", "fd00::/8"])
def test_a_pool_that_is_no_unique_local_48_is_refused(pool: str) -> None:
    with pytest.raises(Conflict, match="/48"):
        check_pool6(IPv6Network(pool), [])


def test_a_pool_of_ipv6_that_overlaps_a_route_is_refused_by_its_name() -> None:
    with pytest.raises(Conflict, match="fd00:1:0:9::/64"):
        check_pool6(IPv6Network("fd00:1::/48"), [IPv6Network("fd00:1:0:9::/64")])


def test_who_comes_back_is_not_given_what_another_has_by_now_nor_the_other_way_round() -> None:
    book, offset = assign_instance(BOOK, "a", 0)
    book = release(book, [], 1)
    later = 2 + REST_SECONDS
    both = assign_instances(book, ["b", "a"], later).by_owner("instances")
    assert both == {"a": offset, "b": offset + 1}
    other = assign_instances(book, ["b"], later)
    assert other.by_owner("instances") == {"b": offset}
    assert assign_instances(other, ["b", "a"], later).by_owner("instances") == {"b": offset, "a": offset + 1}


def test_ten_thousand_services_are_given_addresses_in_no_time() -> None:
    owners = [f"app/service-{number}" for number in range(10_000)]
    taken = []
    for _ in range(3):
        began = time.process_time()
        book = assign_services(BOOK, owners, 0)
        assert len(set(book.by_owner("services").values())) == len(owners)
        assert assign_services(release(book, owners, 1), owners, 1) == book
        taken.append(time.process_time() - began)
    assert min(taken) < 0.5
