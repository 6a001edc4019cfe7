"""The node's part: its link, which links are uplinks, and whose each address is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from whit.base.settings import Settings
from whit.datapath.abi import IdentityKey, IdentityValue
from whit.kernel.network.links import Link
from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.mesh.policy.explain import Dump, identity_of
from whit.model.policy import HOST, RESOLVER, UNASSIGNED, WORLD

SETTINGS = Settings(id="whit")
BOOK = AddressBook(pool="10.77.0.0/16")
LO = Link("lo", 1, "", 65536, "", up=True, addresses=(IPv4Interface("127.0.0.1/8"),))
ETH0 = Link("eth0", 2, "02:00:00:00:00:01", 1500, "", up=True, addresses=(IPv4Interface("192.0.2.7/24"),))
OWN = Link(
    "w-whit-host",
    3,
    "",
    1500,
    "dummy",
    up=True,
    addresses=(IPv4Interface("10.77.0.1/32"), IPv4Interface("10.77.0.2/32")),
)


def test_the_host_link_holds_the_nodes_two_addresses() -> None:
    wanted = node.host_link(SETTINGS, BOOK)
    assert (wanted.name, wanted.addresses) == (OWN.name, OWN.addresses)
    assert int(wanted.mac[:2], 16) & 3 == 2, "locally administered, of one link"


@pytest.mark.parametrize(
    ("links", "right"),
    [([LO, OWN], True), ([LO], False), ([replace(OWN, up=False)], False), ([replace(OWN, addresses=())], False)],
)
def test_what_is_missing_is_seen(links: list[Link], right: bool) -> None:
    assert node.is_host_link_right(links, SETTINGS, BOOK) is right


@pytest.mark.parametrize(
    ("name", "is_uplink"),
    [
        ("eth0", True),
        ("docker0", True),
        ("veth1234", True),
        ("w-lan", True),
        ("w-whit-lan", True),
        ("lo", False),
        ("w-whit-host", False),
        ("w-whit-16", False),
        ("w-other-16", False),
        ("w-other-host", False),
    ],
)
def test_uplinks_are_links_of_no_agent(name: str, is_uplink: bool) -> None:
    assert (name in node.uplinks([replace(ETH0, name=name)], SETTINGS)) is is_uplink


def test_a_link_that_is_down_is_no_uplink() -> None:
    assert node.uplinks([ETH0, replace(ETH0, name="eth1", index=9, up=False)], SETTINGS) == {"eth0": 2}


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("127.0.0.1", HOST),
        ("127.9.9.9", HOST),
        ("192.0.2.7", HOST),
        ("192.0.2.8", WORLD),
        ("10.77.0.1", HOST),
        ("10.77.0.2", RESOLVER),
        ("10.77.0.16", 0x1000001),
        ("10.77.0.17", UNASSIGNED),
        ("10.77.128.1", UNASSIGNED),
        ("10.78.0.1", WORLD),
        ("203.0.113.5", 0x2000001),
        ("203.0.113.200", 0x2000002),
        ("8.8.8.8", WORLD),
    ],
)
def test_whose_each_address_is(address: str, identity: int) -> None:
    networks = {IPv4Network("203.0.113.0/24"): 0x2000001, IPv4Network("203.0.113.128/25"): 0x2000002}
    known = node.node_identities(BOOK, [LO, ETH0, OWN], networks)
    known |= node.service_identities({"10.77.0.16": 0x1000001})
    assert identity_of(Dump(identities=known), address) == identity


def test_no_declared_network_takes_the_place_of_the_nodes_own() -> None:
    """Who uses 192.0.2.7/32 or the pool has not thereby declared that he uses the host, or other apps."""
    networks = {IPv4Network("192.0.2.7/32"): 5, IPv4Network("10.77.0.0/16"): 6, IPv4Network("127.0.0.0/8"): 7}
    known = node.node_identities(BOOK, [LO, ETH0, OWN], networks)
    assert not {IdentityValue(number) for number in networks.values()} & set(known.values())
    assert all(isinstance(key, IdentityKey) for key in known)


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("::1", HOST),
        ("2001:db8::7", HOST),
        ("2001:db8::8", WORLD),
        ("fd00:1::1", HOST),
        ("fd00:1::2", RESOLVER),
        ("fd00:1::10", 0x1000001),
        ("fd00:1::11", UNASSIGNED),
        ("fd00:1:0:1::1", UNASSIGNED),
        ("fd00:2::1", WORLD),
        ("2001:db8:1::5", 0x2000001),
        ("10.77.0.16", 0x1000001),
    ],
)
def test_whose_each_ipv6_address_is(address: str, identity: int) -> None:
    book = BOOK.model_copy(update={"pool6": "fd00:1::/64", "ipv6": True})
    uplink = replace(ETH0, addresses=(*ETH0.addresses, IPv6Interface("2001:db8::7/64")))
    known = node.node_identities(book, [LO, uplink, OWN], {IPv6Network("2001:db8:1::/64"): 0x2000001})
    known |= node.service_identities({"10.77.0.16": 0x1000001, "fd00:1::10": 0x1000001})
    assert identity_of(Dump(identities=known), address) == identity


def test_the_host_link_holds_the_nodes_ipv6_address_too() -> None:
    book = BOOK.model_copy(update={"pool6": "fd00:1::/64", "ipv6": True})
    own = {IPv6Interface("fd00:1::1/128"), IPv6Interface("fd00:1::2/128")}
    assert own < set(node.host_link(SETTINGS, book).addresses), "and the resolver's"
    assert not node.is_host_link_right([LO, OWN], SETTINGS, book)


@pytest.mark.parametrize(("gigabytes", "entries"), [(0.5, 1 << 16), (1, 1 << 16), (2, 1 << 17), (24, 1 << 18)])
def test_maps_grow_with_the_memory_of_the_machine(gigabytes: float, entries: int) -> None:
    sizes = node.map_sizes(int(gigabytes * 2**30))
    assert sizes["slots"] == sizes["backends"] == sizes["frontends"] == entries
    assert node.map_sizes(2**30, 1000)["slots"] == 1000
