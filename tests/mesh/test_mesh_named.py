"""Addresses of names among all other entries of the kernel's map of identities, in whatever order they come and go."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, ip_network

import pytest

from whit.base.settings import Settings
from whit.datapath.abi import IdentityKey, IdentityValue
from whit.datapath.address import Address, prefix_of
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.mesh import tables
from whit.mesh.dns.named import key_of
from whit.mesh.policy.identities import NAME_SCOPE, NETWORK_SCOPE, SERVICE_SCOPE
from whit.model.policy import HOST, WORLD

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ADDRESSES = [f"192.0.2.{number}" for number in range(6)]
Entries = dict[IdentityKey, IdentityValue]


@pytest.fixture
def datapath(settings: Settings) -> Iterator[Datapath]:
    with Datapath.install(settings, DatapathConfig(IPv4Network("10.219.0.0/16"))) as opened:
        yield opened
    uninstall(settings)


def some(chance: random.Random, *numbers: int) -> Entries:
    return {key_of(one): IdentityValue(chance.choice(numbers)) for one in ADDRESSES if chance.random() < 0.4}


def test_names_lie_over_networks_and_under_all_else(
    datapath: Datapath, settings: Settings, sample: Callable[[int, int], int]
) -> None:
    """With new agents in between, which find what the last one left."""
    table = tables.IdentityMap(datapath)
    wanted: Entries = {}
    outside: dict[str, Entries] = {}
    named: Entries = {}
    table.write(wanted, outside)
    for seed in range(sample(300, 10_000)):
        chance = random.Random(seed)
        step = chance.choice(["wanted", "outside", "named", "add", "agent"])
        if step == "wanted":
            wanted = some(chance, NETWORK_SCOPE + 1, NETWORK_SCOPE + 2, WORLD, HOST, SERVICE_SCOPE + 1)
            wanted[IdentityKey(*prefix_of(ip_network("192.0.2.0/24")))] = IdentityValue(NETWORK_SCOPE + 3)
            table.write(wanted, outside)
        elif step == "outside":
            outside = {name: some(chance, SERVICE_SCOPE + 2) for name in ("x", "y") if chance.random() < 0.7}
            table.write(wanted, outside)
        elif step == "named":
            named = some(chance, NAME_SCOPE + 1, NAME_SCOPE + 2)
            table.write_named(named)
        elif step == "add":
            more = some(chance, NAME_SCOPE + 3)
            named |= more
            table.write_named(more, whole=False)
        else:
            table = tables.IdentityMap(datapath)
            table.write(wanted, outside)
            table.write_named(named)
        assert kernel(datapath) == expected(wanted, outside, named), f"seed {seed}: {step}"


def kernel(datapath: Datapath) -> Entries:
    return dict(datapath.identities.items())


def expected(wanted: Entries, outside: dict[str, Entries], named: Entries) -> Entries:
    strong = {key: one for key, one in wanted.items() if one.identity in (HOST, SERVICE_SCOPE + 1)}
    endpoints = {key: one for part in outside.values() for key, one in part.items()}
    # Who said a network means the world or a set said so of an endpoint too.
    weak = {key: one for key, one in wanted.items() if key not in strong}
    return endpoints | weak | {key: one for key, one in named.items() if key in weak or key not in endpoints} | strong


def test_an_address_of_a_name_is_found_before_and_after_by_its_network(datapath: Datapath) -> None:
    table = tables.IdentityMap(datapath)
    own = {IdentityKey(128, Address.from_ip("192.0.2.1")): IdentityValue(NETWORK_SCOPE + 1)}
    table.write(own)
    table.write_named({key_of("192.0.2.1"): IdentityValue(NAME_SCOPE + 1)})
    table.write(own)
    assert kernel(datapath) == {key_of("192.0.2.1"): IdentityValue(NAME_SCOPE + 1)}
    table.write_named({})
    assert kernel(datapath) == own
