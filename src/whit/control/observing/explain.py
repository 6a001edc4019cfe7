"""Answers `explain`: turns names into addresses, asks the dumped maps, and turns numbers back into names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from whit.base.errors import InputError, NotFound
from whit.control.network import NodeNetwork
from whit.mesh.policy.explain import Dump, Question, explain
from whit.model.flow import Explanation
from whit.model.instance import InstanceStatus
from whit.model.policy import NUMBERS, VERSIONS

A_WORLD_ADDRESS, A_WORLD_ADDRESS6 = "192.0.2.1", "2001:db8::1"
"""Of networks that are reserved for documentation, so that they stand for all that have no name."""
_OTHER = {"icmp": "--protocol icmpv6", "icmpv6": "--protocol icmp"}


async def answer(
    network: NodeNetwork,
    instances: Sequence[InstanceStatus],
    source: str,
    destination: str,
    port: int,
    protocol: str,
) -> Explanation:
    """Raises NotFound for a name that nobody has, InputError for a protocol that policy does not know, or one that the
    addresses do not carry."""
    if protocol not in NUMBERS:
        raise InputError(f"protocol {protocol} is not one of {', '.join(NUMBERS)}")
    there = _destination(network, instances, destination, by_ipv6=VERSIONS.get(protocol) == 6)
    here = _source(network, instances, source, ":" in there)
    if any(ip_address(end).version != VERSIONS.get(protocol, ip_address(end).version) for end in (here, there)):
        raise InputError(f"{here} -> {there}: {protocol} is of IPv{VERSIONS[protocol]} alone", hint=_OTHER[protocol])
    question = Question(here, there, port, NUMBERS[protocol])
    dump = await asyncio.to_thread(Dump.of, network.datapath)
    rules = network.books.rules.texts()
    return explain(dump, question, network.books.identities.name, lambda number: rules.get(number, ""))


def _source(network: NodeNetwork, instances: Sequence[InstanceStatus], name: str, by_ipv6: bool) -> str:
    """A service asks from its first instance, by the family of what it asks for."""
    for one in instances:
        if name in (one.name, one.service, f"{one.app}/{one.service}"):
            return one.address6 if by_ipv6 and one.address6 else one.address
        if name in (one.address, one.address6):
            return name
    return _elsewhere(network, name, instances, by_ipv6)


def _destination(network: NodeNetwork, instances: Sequence[InstanceStatus], name: str, by_ipv6: bool) -> str:
    for one in instances:
        if name in (one.service, f"{one.app}/{one.service}"):
            return _of_family(network.service_addresses(one.app, one.service), by_ipv6)
        if name == one.name:
            return _of_family((one.address, one.address6), by_ipv6)
    return _elsewhere(network, name, instances, by_ipv6)


def _of_family(addresses: Sequence[object], by_ipv6: bool) -> str:
    """The first if there is none of the family."""
    there = [str(address) for address in addresses if address]
    return next((address for address in there if (":" in address) == by_ipv6), there[0])


def _elsewhere(network: NodeNetwork, name: str, instances: Sequence[InstanceStatus], by_ipv6: bool) -> str:
    book = network.books.addresses
    known: dict[str, tuple[object, ...]] = {
        "world": (A_WORLD_ADDRESS, A_WORLD_ADDRESS6),
        "host": (book.node, book.node6),
        "resolver": (book.resolver, book.resolver6),
    }
    if found := known.get(name) or network.addresses_of_name(name):
        return _of_family(found, by_ipv6)
    try:
        return str(ip_address(name))
    except ValueError:
        services = sorted({f"{one.app}/{one.service}" for one in instances})
        raise NotFound(
            f"{name} is no service, instance or address, and no name that policy speaks of",
            hint=f"services: {', '.join(services) or 'none'}; or world, host, resolver",
        ) from None
