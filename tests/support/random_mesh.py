"""Random meshes: apps of every kind, their instances and policies, written into a datapath's maps as the agent does it.

What is kept from one mesh to the next is what an agent keeps, so each step is also a random change to a running node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from random import Random
from types import MappingProxyType
from typing import Any

from whit.base.settings import Settings
from whit.control.balancing import Balancing, Replica, outside_identities
from whit.datapath.abi import EndpointFlags, EndpointKey, EndpointValue, FrontendKey
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.kernel.network.links import Link
from whit.mesh import node, tables
from whit.mesh.addresses import AddressBook, assign_instances, assign_services
from whit.mesh.policy import identities
from whit.mesh.policy.engine import Engine, Situation
from whit.mesh.policy.identities import IdentityBook
from whit.mesh.policy.outside import outside_of
from whit.mesh.policy.rulebook import RuleBook
from whit.mesh.services import ANYWHERE
from whit.model.app import AppSpec
from whit.model.instance import NetworkSpec
from whit.model.policy import PolicySpec

BOOK = AddressBook(pool="10.7.0.0/16", pool6="fd07:0:0:1::/64", ipv6=True)
NODE_ADDRESSES = ("192.0.2.1", "2001:db8::1")
OF_NODE = (*NODE_ADDRESSES, *map(str, (BOOK.node, BOOK.node6, BOOK.resolver)))
OUTSIDERS = (
    ("203.0.113.1", "203.0.113.77", "203.0.113.200", "192.0.2.99", "198.51.100.9", "10.9.0.1"),
    ("2001:db8:1::1", "2001:db8:1::77", "2001:db8:1:8000::1", "2001:db8:ff::9", "fd99::1"),
)
NOBODY = (("10.7.99.99", "10.7.250.1"), ("fd07:0:0:1::9999", "fd07:0:0:2::1"))
UPLINK = Link(
    "eth0", 2, "", 1500, "", up=True, addresses=(IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))
)
OUTSIDE_BACKENDS = ("203.0.113.77", "2001:db8:1::77", "192.0.2.1", "2001:db8::1")
PUBLISHED = (8080, 8081, 9000, 53)
SERVED = (80, 81)
STATES = ("active", "active", "active", "unready", "leaving", "down")


@dataclass(frozen=True)
class RandomMesh:
    apps: tuple[AppSpec, ...]
    policies: tuple[PolicySpec, ...]
    replicas: Mapping[str, Sequence[str]]
    """States of a service's instances, by app/service."""


def random_apps(random: Random) -> tuple[AppSpec, ...]:
    taken: set[tuple[int, str, str]] = set()
    return tuple(_app(name, random, taken) for name in "xyz")


def random_mesh(
    random: Random, policies: Sequence[PolicySpec], counts: Mapping[str, int] = MappingProxyType({})
) -> RandomMesh:
    """`counts` are of a service's instances, where chance does not say."""
    apps = random_apps(random)
    owners = [f"{app.name}/{name}" for app in apps for name in "abc"]
    replicas = {
        owner: [random.choice(STATES) for _ in range(counts.get(owner, random.choice((0, 1, 1, 2))))]
        for owner in owners
    }
    few = policies[: random.choice((1, 2, len(policies)))]
    return RandomMesh(apps, tuple(_as_mode(few, random)), replicas)


def _as_mode(policies: Sequence[PolicySpec], random: Random) -> Sequence[PolicySpec]:
    """Often only tried, as what one policy would deny another one denies anyway."""
    if random.random() < 0.4:
        return [policy.model_copy(update={"mode": "audit"}) for policy in policies]
    return policies


def _app(name: str, random: Random, taken: set[tuple[int, str, str]]) -> AppSpec:
    services = {pod: _service(pod, random) | {"ports": _ports(random, taken)} for pod in "abc"}
    if random.random() < 0.5:
        found, ports = _endpoints(random), _ports(random, taken)
        services["d"] = {"labels": {"pod": random.choice("abc")}, "endpoints": found, "ports": ports}
    mode = random.choice(("open", "open", "declared"))
    return AppSpec.model_validate(
        {"name": name, "mode": mode, "directory": "/", "labels": {"ns": name}, "services": services}
    )


def _ports(random: Random, taken: set[tuple[int, str, str]]) -> list[dict[str, Any]]:
    """Published ports: two of the same number are at different addresses."""
    found = []
    for _ in range(random.choice((0, 0, 1, 2, 3))):
        port, protocol = random.choice(PUBLISHED), random.choice(("tcp", "udp"))
        host_ip = random.choice((*ANYWHERE, *NODE_ADDRESSES))
        keys = {(port, protocol, address) for address in (ANYWHERE if host_ip == ANYWHERE[0] else (host_ip,))}
        if not keys & taken:
            taken |= keys
            target = random.choice(SERVED)
            found.append({"published": port, "target": target, "protocol": protocol, "host_ip": host_ip})
    return found


def _service(pod: str, random: Random) -> dict[str, Any]:
    return {
        "image": "i",
        "labels": {"pod": pod},
        "expose": [
            {"name": "http", "port": 80 if pod == "a" else 81},
            {"name": "dns", "port": 80, "protocol": "udp"},
        ],
        "uses": [_use(random) for _ in range(random.choice((0, 1, 2, 4)))],
        "headless": random.random() < 0.1,
        "balance": {"algorithm": random.choice(("random",) * 9 + ("maglev",)), "affinity": random.choice((0, 60))},
    }


def _use(random: Random) -> dict[str, Any]:
    peers = [{"service": pod} for pod in "abc"]
    peers += [{"cidr": "203.0.113.0/24"}, {"cidr": "2001:db8:1::/48"}, {"entity": "world"}, {"entity": "host"}]
    port: list[dict[str, Any]] = [{}, {"port": 80}, {"port": 81, "protocol": "udp"}, {"protocol": "tcp"}]
    return random.choice(peers) | random.choice(port)


def _endpoints(random: Random) -> list[dict[str, Any]]:
    chosen = random.sample(OUTSIDE_BACKENDS, random.randint(1, 3))
    return [{"address": address, "port": random.choice(SERVED)} for address in chosen]


class RandomNode:
    """A datapath whose maps become one mesh after the other."""

    def __init__(self, settings: Settings, datapath: Datapath, endpoint: EndpointValue | None = None) -> None:
        """Every instance has the link and the MAC addresses of `endpoint`; without it, others see to endpoints."""
        self.datapath, self.endpoint = datapath, endpoint
        self.names = IdentityBook()
        self.book = BOOK
        self.engine = Engine(RuleBook())
        self.replicas: list[Replica] = []
        self._policies = tables.PolicyMap(datapath)
        self._identities = tables.IdentityMap(datapath)
        self._balancing = Balancing(settings, datapath)

    def instances(self, of: str = "") -> list[str]:
        """Addresses of both families, of a service, an app or all."""
        mine = (one for one in self.replicas if f"{one.app}/{one.service}".startswith(of))
        return [address for one in mine for address in one.network.addresses]

    def services(self, of: str, ipv6: bool) -> list[str]:
        """Addresses that services of an app, or of all, were ever given; some lead nowhere by now."""
        given = self.book.by_owner("services")
        return [self.book.addresses(offset)[ipv6] for owner, offset in given.items() if owner.startswith(of)]

    def is_frontend(self, service: str) -> bool:
        return self.datapath.frontends.get(FrontendKey(Address.from_ip(service), 0, 0)) is not None

    def become(self, mesh: RandomMesh, random: Random) -> None:
        spoken_of = outside_of(mesh.apps, mesh.policies)
        owners = [f"{app.name}/{service}" for app in mesh.apps for service in app.services]
        self.names = identities.assign(self.names, owners, spoken_of)
        self.book = assign_services(self.book, owners, now=0.0)
        self.replicas = replicas = self._replicas(mesh)
        numbers = identities.numbers_of(self.names, spoken_of)
        known = node.node_identities(self.book, [UPLINK], numbers.regions)
        known |= node.service_identities({one: r.network.identity for r in replicas for one in r.network.addresses})
        outside = {app.name: outside_identities(app, self.names.numbers) for app in mesh.apps}
        self._identities.write(known, outside)
        self._compile(mesh, replicas)
        if self.endpoint:
            self._put_endpoints(self.endpoint, random)
        self._balancing.write(mesh.apps, replicas, self.book)

    def _replicas(self, mesh: RandomMesh) -> list[Replica]:
        wanted = [(owner, index) for owner, states in mesh.replicas.items() for index in range(len(states))]
        self.book = assign_instances(self.book, [f"{owner}-{index}" for owner, index in wanted], now=0.0)
        offsets, vips = self.book.by_owner("instances"), self.book.by_owner("services")
        found = []
        for owner, index in wanted:
            app, service = owner.split("/")
            offset = offsets[f"{owner}-{index}"]
            address, address6 = self.book.addresses(offset)
            vip, vip6 = self.book.addresses(vips[owner])
            network = NetworkSpec(
                number=offset,
                address=address,
                identity=self.names.number(owner),
                service_address=vip,
                address6=address6,
                service_address6=vip6,
            )
            found.append(Replica(app, service, f"{service}-{index}", network, mesh.replicas[owner][index]))
        return found

    def _compile(self, mesh: RandomMesh, replicas: Sequence[Replica]) -> None:
        own: dict[int, tuple[Any, ...]] = {}
        for one in replicas:
            own[one.network.identity] = own.get(one.network.identity, ()) + tuple(
                map(ip_network, one.network.addresses)
            )
        spoken_of = identities.numbers_of(self.names, outside_of(mesh.apps, mesh.policies))
        now = Situation(mesh.apps, mesh.policies, (), self.names.numbers, spoken_of, own)
        touched = self.engine.compile(now, at=0.0)
        self._policies.write(self.engine.tables, touched)

    def _put_endpoints(self, endpoint: EndpointValue, random: Random) -> None:
        self.datapath.endpoints.clear()
        for one in self.replicas:
            flags = random.choice((0, EndpointFlags.TAP))
            value = replace(endpoint, identity=one.network.identity, flags=flags)
            for address in one.network.addresses:
                self.datapath.endpoints.put(EndpointKey(Address.from_ip(address)), value)
