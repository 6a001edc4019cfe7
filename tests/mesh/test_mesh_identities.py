"""Identities: never reused, in the scope of their kind; overlapping networks are told apart."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import Unavailable
from whit.mesh.policy import identities
from whit.mesh.policy.identities import NETWORK_SCOPE, SERVICE_SCOPE, IdentityBook, assign
from whit.mesh.policy.outside import Block, Outside, title
from whit.model.policy import HOST, RESOLVER, UNASSIGNED, WORLD

names = st.lists(st.sampled_from([f"app/{letter}" for letter in "abcdefgh"]), max_size=6)
networks = st.lists(
    st.builds(
        lambda number, length: IPv4Network((number << 28, length), strict=False), st.integers(0, 15), st.integers(0, 4)
    ),
    max_size=6,
)


@given(st.lists(st.tuples(names, networks), max_size=5))
def test_a_number_stands_for_one_name_for_ever(steps: list[tuple[list[str], list[IPv4Network]]]) -> None:
    book = IdentityBook()
    for services, nets in steps:
        after = assign(book, services, outside(nets))
        assert book.names.items() <= after.names.items()
        assert len(set(after.names.values())) == len(after.names)
        assert all(after.number(name) >> 24 == SERVICE_SCOPE >> 24 for name in services)
        assert all(after.number(title(one)) >> 24 == NETWORK_SCOPE >> 24 for one in outside(nets).sets)
        assert IdentityBook.model_validate_json(after.model_dump_json()) == after
        book = after


def test_names_of_the_reserved() -> None:
    book = assign(IdentityBook(), ["shop/web"], Outside())
    assert [book.name(number) for number in (HOST, WORLD, RESOLVER, UNASSIGNED)] == [
        "host",
        "world",
        "resolver",
        "nobody",
    ]
    assert book.name(SERVICE_SCOPE + 1) == "shop/web"
    assert book.name(77) == "identity 77"
    with pytest.raises(KeyError):
        book.number("shop/db")


def test_a_scope_that_is_used_up_is_an_error() -> None:
    book = IdentityBook(names={SERVICE_SCOPE + identities.SCOPE_SIZE - 1: "app/last"})
    with pytest.raises(Unavailable):
        assign(book, ["app/more"], Outside())


@given(networks, st.integers(0, 15))
def test_an_address_is_allowed_as_all_networks_that_hold_it(nets: list[IPv4Network], top: int) -> None:
    """The set of the longest prefix names exactly the networks that hold the address."""
    address = IPv4Address(top << 28)
    found = outside(nets)
    holding = [net for net in found.regions if address in net]
    longest = max(holding, key=lambda net: net.prefixlen, default=None)
    members = found.regions[longest] if longest is not None else frozenset()
    assert members == {str(net) for net in nets if address in net}


def outside(nets: list[IPv4Network]) -> Outside:
    return Outside(tuple(Block(net) for net in sorted(set(nets))))
