"""Named addresses: brings what names of the DNS stand for into the map of identities, once policy knows their sets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address

from whit.datapath.abi import IdentityKey, IdentityValue
from whit.datapath.address import Address
from whit.mesh.addresses import AddressBook
from whit.mesh.dns.learned import Learned
from whit.mesh.policy.outside import Numbers
from whit.mesh.tables import IdentityMap


class NamedAddresses:
    """Not for several threads at once."""

    def __init__(self, table: IdentityMap) -> None:
        self.learned = Learned()
        self._table = table
        self._enforced = Numbers()
        """Those that policy in the kernel knows."""
        self._written: tuple[int, Numbers | None] = (-1, None)

    def write(self, enforced: Numbers) -> None:
        """All of them. What policy does not know yet stays as it was. Raises MapFull."""
        self._enforced = enforced
        if self._written[0] == self.learned.version and self._written[1] is enforced:
            return
        sets = self.learned.sets(enforced.outside)
        there = self._table.named()
        wanted = {key_of(address): enforced.number(found) for address, found in sets.items()}
        known = {key: IdentityValue(number) for key, number in wanted.items() if number}
        self._table.write_named({key: there[key] for key in wanted if key in there} | known)
        self.learned.given(sets.values(), time.time())
        self._written = self.learned.version, enforced

    def add(self, addresses: Iterable[str]) -> bool:
        """Returns whether policy knows them all: else it has to be written first. Raises MapFull."""
        sets = self.learned.sets_of(addresses, self._enforced.outside)
        numbers = {key_of(one): self._enforced.number(found) for one, found in sets.items()}
        if not all(numbers.values()):
            return False
        self._table.write_named({key: IdentityValue(number) for key, number in numbers.items()}, whole=False)
        self.learned.hold(sets.values())
        return True

    def left_behind(self, titles: Mapping[int, str]) -> dict[str, frozenset[str]]:
        """The sets of the addresses that are in the kernel, as of an agent before this one. `titles` by identity."""
        there = self._table.named().items()
        return {
            str(key.address): frozenset(titles[one.identity].split(" & "))
            for key, one in there
            if one.identity in titles
        }


def can_be_named(address: str, book: AddressBook) -> bool:
    """Whether it is nobody's of the mesh and no special one: that a name leads there opens nothing."""
    found = ip_address(address)
    pools = [pool for pool in (book.network, book.mesh6) if pool is not None and pool.version == found.version]
    special = found.is_loopback or found.is_multicast or found.is_unspecified or found.is_link_local
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return False  # in the maps it is an IPv4 address, and maybe another's
    return not special and not any(found in pool for pool in pools)


def key_of(address: str) -> IdentityKey:
    return IdentityKey(128, Address.from_ip(address))
