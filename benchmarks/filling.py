"""Services and policy of any number in Whit's own maps, as an agent would write them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from rulesets import PORT, Entry, Policy, Services

from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PROTOCOL,
    POLICY_PREFIX_EXACT,
    BackendState,
    BackendValue,
    Direction,
    FrontendKey,
    FrontendValue,
    PolicyKey,
    PolicyValue,
    SlotKey,
    Verdict,
)
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath

FIRST_ADDRESS = IPv4Address("10.96.0.1")
"""Of services, and of who else is named by policies."""
FIRST_PORT, PORTS = 8080, 16
FIRST_IDENTITY = 0x03000000


def services_of(count: int, backends: int, server: IPv4Address) -> Services:
    addresses = [FIRST_ADDRESS + number for number in range(count)]
    return Services(addresses, server, range(FIRST_PORT, FIRST_PORT + backends))


def policy_of(count: int, client: IPv4Address, server: IPv4Address) -> Policy:
    """`count` entries for what the client may send, as many for what the server may receive. Those about the two are
    the server's first ports, spread over the lists, which so are walked to their middle on average."""
    ports = [FIRST_PORT + number % PORTS for number in range(count)]
    others = [FIRST_ADDRESS + number // PORTS for number in range(count)]
    egress = [Entry(client, other, port) for other, port in zip(others, ports, strict=True)]
    ingress = [Entry(other, server, port) for other, port in zip(others, ports, strict=True)]
    for at, port in zip(_spread(count), open_ports(count), strict=True):
        egress[at] = ingress[at] = Entry(client, server, port)
    return Policy(client, server, egress, ingress)


def open_ports(count: int) -> range:
    """Those of the server that the client may send to under a policy of so many entries."""
    return range(FIRST_PORT, FIRST_PORT + min(count, PORTS))


def _spread(count: int) -> list[int]:
    """Places in a list, each in the middle of its share of it."""
    shares = min(count, PORTS)
    return [(2 * share + 1) * count // (2 * shares) for share in range(shares)]


def fill_services(datapath: Datapath, services: Services) -> None:
    """Each service has backends of its own numbers: none is shared."""
    many = len(services.ports)
    datapath.frontends.put_many(
        (FrontendKey(Address.from_ip(address), PORT, socket.IPPROTO_UDP), FrontendValue(number, many, 0, 0))
        for number, address in enumerate(services.addresses, 1)
    )
    slots = [SlotKey(number, slot) for number in range(1, len(services.addresses) + 1) for slot in range(many)]
    datapath.slots.put_many(zip(slots, range(1, len(slots) + 1), strict=True))
    values = [BackendValue(Address.from_ip(services.server), port, BackendState.ACTIVE) for port in services.ports]
    datapath.backends.put_many((number, values[(number - 1) % many]) for number in range(1, len(slots) + 1))


def fill_policy(datapath: Datapath, policy: Policy, client: int, server: int) -> None:
    """Of the identities of the two, in both directions; what is not in the lists is denied."""
    entries = [
        *_entries(policy, Direction.EGRESS, client, server),
        *_entries(policy, Direction.INGRESS, server, client),
    ]
    random.shuffle(entries)
    datapath.policies.put_many(entries)


def _entries(policy: Policy, direction: Direction, subject: int, peer: int) -> Iterator[tuple[PolicyKey, PolicyValue]]:
    listed: Sequence[Entry] = policy.egress if direction == Direction.EGRESS else policy.ingress
    deny = PolicyKey(POLICY_PREFIX_ANY_PROTOCOL, subject, 0, direction, 0, 0)
    yield deny, PolicyValue(1, 0, Verdict.DENY, 0, 0)
    for rule, one in enumerate(listed, 2):
        other = one.destination if direction == Direction.EGRESS else one.source
        known = other in (policy.client, policy.server)
        identity = peer if known else FIRST_IDENTITY + int(other) - int(FIRST_ADDRESS)
        key = PolicyKey(POLICY_PREFIX_EXACT, subject, identity, direction, socket.IPPROTO_UDP, one.port)
        yield key, PolicyValue(rule, 1, Verdict.ALLOW, 0, 0)
