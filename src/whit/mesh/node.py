"""The node's own part of the mesh: the link of its addresses, whose each address is, which links are uplinks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from whit.base.settings import Settings
from whit.datapath.abi import IdentityKey, IdentityValue
from whit.datapath.address import Address, prefix_of
from whit.kernel import sysctl
from whit.kernel.network.links import CreateHostLink, Link
from whit.mesh.addresses import AddressBook
from whit.mesh.policy.outside import Network
from whit.model.policy import HOST, MAPPED, RESOLVER, UNASSIGNED, WORLD

LOOPBACKS = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
AGENT_LINK = re.compile(r"w-[a-z][a-z0-9]{0,6}-(host|\d+)")
"""Links of instances and nodes, of whichever agent of this machine (`Settings.link`)."""


MAP_ENTRIES = 1 << 16
"""Of each map of services, on a small machine."""
_MOST_ENTRIES = 1 << 18
_BYTES_AN_ENTRY = 1 << 14
"""Of the machine's memory. An entry takes 60 to 90 bytes of the kernel's, whether it is used or not."""


def map_sizes(memory: int, asked: int | None = None) -> dict[str, int]:
    """Entries of the maps that grow with services, by name: as many as asked for, or as the memory (bytes) suggests."""
    entries = asked or MAP_ENTRIES
    while not asked and entries < min(_MOST_ENTRIES, memory // _BYTES_AN_ENTRY):
        entries *= 2
    # Those of a trie are taken as they are needed.
    tries = dict.fromkeys(("identities", "policies", "exact_policies"), max(entries, _MOST_ENTRIES))
    return {"frontends": entries, "slots": entries, "backends": entries} | tries


def host_link(settings: Settings, book: AddressBook) -> CreateHostLink:
    """The link of the node's own addresses and the resolver's."""
    own: list[IPv4Interface | IPv6Interface] = [IPv4Interface(book.node), IPv4Interface(book.resolver)]
    own += [IPv6Interface(address) for address in (book.node6, book.resolver6) if address]
    return CreateHostLink(settings.host_link, mac_of(book.node), tuple(own))


def mac_of(address: IPv4Address) -> str:
    """Locally administered, made of the address."""
    return bytes([0x0E, 0x57, *address.packed]).hex(":")


def is_host_link_right(links: Iterable[Link], settings: Settings, book: AddressBook) -> bool:
    wanted = set(host_link(settings, book).addresses)
    return any(link.name == settings.host_link and link.up and wanted <= set(link.addresses) for link in links)


def uplinks(links: Iterable[Link], settings: Settings) -> dict[str, int]:
    """Links by which packets come in that are not an instance's: all but the loopback and those of agents, for there a
    program of ours could come before the one that decides. Index by name."""
    return {
        link.name: link.index for link in links if link.up and link.name != "lo" and not AGENT_LINK.fullmatch(link.name)
    }


def forwarding4(link: str) -> list[tuple[str, str]]:
    return [(f"net/ipv4/conf/{link}/forwarding", "1")]


def forwarding(link: str) -> list[tuple[str, str]]:
    """The settings by which what comes in by a link is forwarded, in both families and in this order.

    IPv6 knows only all links or none before Linux 6.17 (`force_forwarding`). A node that forwards takes no more routes
    from advertisements unless `accept_ra` is 2: where it did, it is to go on.
    """
    directory = f"net/ipv6/conf/{link}"
    if sysctl.exists(f"{directory}/force_forwarding"):
        return [*forwarding4(link), (f"{directory}/force_forwarding", "1")]
    listens = sysctl.exists(f"{directory}/accept_ra") and sysctl.read(f"{directory}/accept_ra") == "1"
    keep = [(f"{directory}/accept_ra", "2")] if listens else []
    return [*forwarding4(link), *keep, ("net/ipv6/conf/all/forwarding", "1")]


def node_identities(
    book: AddressBook, links: Iterable[Link], regions: Mapping[Network, int]
) -> dict[IdentityKey, IdentityValue]:
    """Who has which address, but for instances: the host, its resolver, and regions that policy speaks of.

    The rest of the pool is nobody's: what is sent there never takes the way to the world.
    """
    found: dict[IdentityKey, IdentityValue] = {}
    if any(isinstance(network, IPv6Network) and MAPPED.subnet_of(network) for network in regions):
        # IPv4 is a part of IPv6 in the map, and none in policy: a block of `::/0` says nothing of it.
        found[_key(MAPPED)] = IdentityValue(WORLD)
    found |= {_key(network): IdentityValue(number) for network, number in regions.items() if not _is_own(network, book)}
    found |= {_key(network): IdentityValue(UNASSIGNED) for network in (book.network, book.mesh6) if network}
    found |= {_key(network): IdentityValue(HOST) for network in LOOPBACKS}
    for link in links:
        for address in link.addresses:
            found[_key(ip_network(address.ip))] = IdentityValue(HOST)
    found |= {_key(ip_network(address)): IdentityValue(HOST) for address in (book.node, book.node6) if address}
    resolvers = (book.resolver, book.resolver6)
    return found | {_key(ip_network(address)): IdentityValue(RESOLVER) for address in resolvers if address}


def service_identities(addresses: Mapping[str, int]) -> dict[IdentityKey, IdentityValue]:
    """Instances: identity by address."""
    return {IdentityKey(128, Address.from_ip(address)): IdentityValue(number) for address, number in addresses.items()}


def _is_own(region: Network, book: AddressBook) -> bool:
    """A part of the mesh's own addresses: who has them is not said by policy."""
    if isinstance(region, IPv4Network):
        return region.subnet_of(book.network)
    return book.mesh6 is not None and region.subnet_of(book.mesh6)


def _key(network: Network) -> IdentityKey:
    length, address = prefix_of(network)
    return IdentityKey(length, address)
