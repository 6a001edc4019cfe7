"""What the datapath is told of the mesh's addresses when it is loaded."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from whit.base.settings import Settings
from whit.control.network import config_of
from whit.mesh import node
from whit.mesh.addresses import AddressBook
from whit.mesh.policy.explain import Dump, identity_of
from whit.model.policy import UNASSIGNED


def test_the_pools_are_what_the_map_of_identities_gives_to_nobody(settings: Settings) -> None:
    """Otherwise an address of the mesh that nobody has would go to the world, where everybody is allowed."""
    book = AddressBook(pool="10.77.0.0/16", pool6="fd12:3456:789a:1::/64", ipv6=True)
    config = config_of(settings, book)
    assert (config.pool, config.pool6) == (IPv4Network("10.77.0.0/16"), IPv6Network("fd12:3456:789a::/48"))
    known = Dump(identities=node.node_identities(book, [], {}))
    for network in (config.pool, config.pool6):
        assert {identity_of(known, str(network[position])) for position in (0, 1000, -1)} == {UNASSIGNED}


def test_without_ipv6_there_is_no_pool_of_it(settings: Settings) -> None:
    book = AddressBook(pool="10.77.0.0/16", pool6="fd12:3456:789a:1::/64", ipv6=False)
    assert config_of(settings, book).pool6 is None
