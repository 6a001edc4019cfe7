"""Identities: the numbers that stand for services and for networks outside, never reused. Pure.

The top byte is the scope: 0 reserved, 1 a service, 2 a network that only this node's policy speaks of.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from pydantic import Field

from whit.base.errors import Unavailable
from whit.model.base import Noun
from whit.model.policy import HOST, RESOLVER, UNASSIGNED, WORLD

SERVICE_SCOPE = 1 << 24
NETWORK_SCOPE = 2 << 24
SCOPE_SIZE = 1 << 24

RESERVED = {HOST: "host", WORLD: "world", RESOLVER: "resolver", UNASSIGNED: "nobody"}


class IdentityBook(Noun):
    """Names by number, as control stores them. A number is never given to another name."""

    names: dict[int, str] = Field(default_factory=dict)

    def number(self, name: str) -> int:
        """Raises KeyError if the name has none."""
        return {known: number for number, known in self.names.items()}[name]

    def name(self, number: int) -> str:
        return RESERVED.get(number) or self.names.get(number, f"identity {number}")


def service_name(app: str, service: str) -> str:
    """The security labels of a service, sorted and joined, in the form in which people read them."""
    return f"{app}/{service}"


def assign(book: IdentityBook, services: Iterable[str], networks: Iterable[IPv4Network]) -> IdentityBook:
    """Numbers for all that have none yet. Raises Unavailable when a scope is used up."""
    names = dict(book.names)
    known = set(names.values())
    for scope, wanted in ((SERVICE_SCOPE, services), (NETWORK_SCOPE, map(str, networks))):
        following = max((number for number in names if number & 0xFF000000 == scope), default=scope) + 1
        for name in wanted:
            if name not in known:
                if following == scope + SCOPE_SIZE:
                    raise Unavailable(f"all {SCOPE_SIZE - 1:,} identities of this scope were given out")
                names[following] = name
                known.add(name)
                following += 1
    return IdentityBook(names=names)


def within(networks: Iterable[IPv4Network], wanted: IPv4Network) -> list[IPv4Network]:
    """Those of `networks` that lie in `wanted`, with itself.

    An address has the identity of the longest of all prefixes that hold it. So what is said of a network is said of
    each of these identities, and prefixes may overlap as they like.
    """
    return [network for network in networks if network.subnet_of(wanted)]
