"""Pools: which networks this node's mesh takes its addresses from. Looks at what the machine reaches already.

Two agents that start at the same moment must not take the same one: neither has an address yet that the other could
see. So each writes its choice down in its run directory, one at a time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeVar

from whit.base.errors import InputError
from whit.base.settings import Settings
from whit.kernel import probes
from whit.kernel.network import links, routes
from whit.kernel.network.netlink import NetlinkSocket
from whit.mesh import addresses
from whit.mesh.addresses import AddressBook

N = TypeVar("N", IPv4Network, IPv6Network)
CHOICE = "pool"
"""The file of an agent's choice; it goes with the run directory."""


def choose(settings: Settings) -> IPv4Network:
    """A free pool, now this agent's.

    Raises:
        Conflict: none is free, or the one of WHIT_POOL is not.
    """
    with _one_at_a_time(settings):
        taken = [network for network in _reached() if isinstance(network, IPv4Network)] + _chosen(settings)
        asked = _asked("WHIT_POOL", IPv4Network)
        if asked is not None:
            addresses.check_pool(asked, taken)
        pool = asked or addresses.choose_pool(taken)
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (settings.run_dir / CHOICE).write_text(str(pool))
        return pool


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    settings.run_root.mkdir(parents=True, exist_ok=True)
    directory = os.open(settings.run_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _chosen(settings: Settings) -> list[IPv4Network]:
    """By the other agents of this machine."""
    files = [path for path in settings.run_root.glob(f"*/{CHOICE}") if path.parent != settings.run_dir]
    return [IPv4Network(text) for path in files if (text := path.read_text())]


def with_ipv6(book: AddressBook) -> AddressBook:
    """The book with a pool of IPv6 addresses, if this machine has IPv6. One that was drawn is kept."""
    if not probes.has_ipv6():
        return book.model_copy(update={"ipv6": False})
    asked = _asked("WHIT_POOL6", IPv6Network)
    if book.pool6 and asked in (None, IPv6Network(book.pool6).supernet(new_prefix=addresses.MESH6_PREFIX)):
        return book.model_copy(update={"ipv6": True})
    taken = [network for network in _reached() if isinstance(network, IPv6Network)]
    if asked is not None:
        addresses.check_pool6(asked, taken)
    pool = asked or addresses.choose_pool6(taken)
    own = next(pool.subnets(new_prefix=addresses.NODE6_PREFIX))
    return book.model_copy(update={"ipv6": True, "pool6": str(own)})


def _asked(variable: str, family: type[N]) -> N | None:
    asked = os.environ.get(variable)
    try:
        return family(asked) if asked else None
    except ValueError as error:
        raise InputError(f"{variable}: {error}", hint="write it as 10.90.0.0/16, or fd12:3456:789a::/48") from None


def _reached() -> list[IPv4Network | IPv6Network]:
    """What this machine has routes to, but for default routes, and its own addresses: an agent without instances has
    addresses, but no routes yet."""
    with NetlinkSocket() as netlink:
        reached = [route.destination for route in routes.main_table(netlink) if route.destination.prefixlen]
        return reached + [ip_network(address.ip) for link in links.all_links(netlink) for address in link.addresses]
