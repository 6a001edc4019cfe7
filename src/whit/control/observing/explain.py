"""Answers `explain`: turns names into addresses, asks the dumped maps, and turns numbers back into names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from whit.base.errors import InputError, NotFound
from whit.control.network import NodeNetwork
from whit.mesh.policy.explain import Dump, Question, explain
from whit.mesh.policy.rules import PROTOCOLS
from whit.model.flow import Explanation
from whit.model.instance import InstanceStatus

A_WORLD_ADDRESS = "192.0.2.1"
"""Of a network that is reserved for documentation, so that it stands for all that have no name."""


async def answer(
    network: NodeNetwork,
    instances: Sequence[InstanceStatus],
    source: str,
    destination: str,
    port: int,
    protocol: str,
) -> Explanation:
    """Raises NotFound for a name that nobody has, InputError for a protocol that is not balanced."""
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol} is not one of {', '.join(PROTOCOLS)}")
    there = _destination(network, instances, destination)
    question = Question(_source(network, instances, source, ":" in there), there, port, PROTOCOLS[protocol])
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
    return _elsewhere(network, name, instances)


def _destination(network: NodeNetwork, instances: Sequence[InstanceStatus], name: str) -> str:
    for one in instances:
        if name in (one.service, f"{one.app}/{one.service}"):
            return network.service_address(one.app, one.service)
        if name == one.name:
            return one.address
    return _elsewhere(network, name, instances)


def _elsewhere(network: NodeNetwork, name: str, instances: Sequence[InstanceStatus]) -> str:
    book = network.books.addresses
    known = {"world": A_WORLD_ADDRESS, "host": str(book.node), "resolver": str(book.resolver)}
    if name in known:
        return known[name]
    if addresses := network.addresses_of_name(name):
        return addresses[0]
    try:
        return str(ip_address(name))
    except ValueError:
        services = sorted({f"{one.app}/{one.service}" for one in instances})
        raise NotFound(
            f"{name} is no service, instance or address, and no name that policy speaks of",
            hint=f"services: {', '.join(services) or 'none'}; or world, host, resolver",
        ) from None
