"""nft(8): the agent's own table, which masquerades what instances send to the world, and what is passed on to it.

Nothing else of the packet filter is touched here. Rules in tables of others, which nft cannot overrule from outside
(a drop in any base chain is final), are found and reported; those of iptables are in iptables.py.
Format: libnftables-json(5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from whit.base.errors import CommandError, TimedOut, Unavailable
from whit.model.feature import Feature
from whit.tools import process

Statement = dict[str, Any]

_FAMILY = "inet"
_CHAIN = "postrouting"
_SRCNAT = 100
"""Priority by which source addresses are translated."""


@dataclass(frozen=True)
class Masquerade:
    """What `pool` sends outside of `mesh`, and what else carries the mark, gets the node's address, unless it leaves by
    the link of an instance."""

    table: str
    pool: IPv4Network
    """Addresses of the instances of this node."""
    mesh: tuple[IPv4Network, ...]
    """Addresses that are reached as they are: those of all nodes, and of services."""
    link_prefix: str
    """Of the links of instances, as `w-whit-`."""
    pool6: IPv6Network | None = None
    mesh6: IPv6Network | None = None
    mark: int = 0
    """What the datapath sends on for who asks from outside carries this mark in the bits of `mask`; 0: nothing does."""
    mask: int = 0


def ruleset(wanted: Masquerade) -> Statement:
    """The whole table, for one transaction that puts it in the place of the one that may be there."""
    table = {"family": _FAMILY, "name": wanted.table}
    chain = {
        "family": _FAMILY,
        "table": wanted.table,
        "name": _CHAIN,
        "type": "nat",
        "hook": "postrouting",
        "prio": _SRCNAT,
        "policy": "accept",
    }
    where = {"family": _FAMILY, "table": wanted.table, "chain": _CHAIN}
    rules = [{"add": {"rule": {**where, "expr": expressions}}} for expressions in _rules(wanted)]
    return {"nftables": [*_removal(wanted.table), {"add": {"table": table}}, {"add": {"chain": chain}}, *rules]}


def _rules(wanted: Masquerade) -> Iterator[list[Statement]]:
    # The ranges of a set must not overlap.
    mesh = [_prefix(network) for network in collapse_addresses([wanted.pool, *wanted.mesh])]
    yield from _of_family("ip", wanted, wanted.pool, mesh)
    if wanted.pool6 is not None:
        yield from _of_family("ip6", wanted, wanted.pool6, [_prefix(wanted.mesh6 or wanted.pool6)])


def _of_family(
    protocol: str, wanted: Masquerade, pool: IPv4Network | IPv6Network, mesh: list[Statement]
) -> Iterator[list[Statement]]:
    of_pool = _match("==", {"payload": {"protocol": protocol, "field": "saddr"}}, _prefix(pool))
    yield _rule(of_pool, protocol, wanted, mesh)
    if wanted.mark:
        marked = _match("==", {"&": [{"meta": {"key": "mark"}}, wanted.mask]}, wanted.mark)
        yield _rule(marked, protocol, wanted, mesh)


def _rule(whose: Statement, protocol: str, wanted: Masquerade, mesh: list[Statement]) -> list[Statement]:
    return [
        whose,
        _match("!=", {"payload": {"protocol": protocol, "field": "daddr"}}, {"set": mesh}),
        _match("!=", {"meta": {"key": "oifname"}}, f"{wanted.link_prefix}*"),
        {"masquerade": None},
    ]


def _match(operator: str, left: Statement, right: Statement | str | int) -> Statement:
    return {"match": {"op": operator, "left": left, "right": right}}


def _prefix(network: IPv4Network | IPv6Network) -> Statement:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _removal(table: str) -> list[Statement]:
    """Adding first makes the deletion succeed also where there is none (`destroy` is newer than Linux 6.1)."""
    named = {"table": {"family": _FAMILY, "name": table}}
    return [{"add": named}, {"delete": named}]


async def apply(document: Statement, *, check: bool = False) -> None:
    """Carry out a document in one transaction; with `check`, have the kernel try it and then forget it.

    Raises:
        Unavailable: nft is not installed.
        CommandError: the kernel or nft refuses it.
    """
    argv = ["nft", *(["--check"] if check else []), "--json", "--file", "-"]
    await process.run(argv, stdin=json.dumps(document).encode(), timeout=20)


async def remove(table: str) -> None:
    """Delete the table with all in it. Safe if there is none, also where nft is not installed: then nobody made one."""
    try:
        await apply({"nftables": _removal(table)})
    except Unavailable:
        return


async def tables() -> list[str]:
    """Names of the tables of the family that Whit's are in."""
    return [table["name"] for table in await _listed("tables", "table") if table["family"] == _FAMILY]


async def rules(table: str) -> list[Statement]:
    """The rules of a table as nft lists them; CommandError if there is no such table."""
    return await _listed(f"table {_FAMILY} {table}", "rule")


async def blocking_chains() -> list[str]:
    """Base chains of others that drop by default what is forwarded, as `inet filter forward`.

    Those that iptables keeps (`ip filter`, `ip6 filter`) are left out: iptables.py admits our traffic there.
    """
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in await _listed("chains", "chain")
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("inet", "ip", "ip6")
        and (chain["family"], chain["table"]) not in (("ip", "filter"), ("ip6", "filter"))
    ]


async def _listed(what: str, kind: str) -> list[Statement]:
    answer = await process.run(["nft", "--json", "list", *what.split()], timeout=20)
    return [item[kind] for item in json.loads(answer.text)["nftables"] if kind in item]


async def features() -> list[Feature]:
    """Whether the kernel takes our table, and whether others' tables let our traffic pass."""
    trial = Masquerade("whit_probe", IPv4Network("192.0.2.0/25"), (IPv4Network("192.0.2.0/24"),), "w-probe-")
    try:
        await apply(ruleset(trial), check=True)
        blocking = await blocking_chains()
    except (Unavailable, CommandError, TimedOut) as error:
        hint = "apt install nftables; the kernel needs CONFIG_NFT_MASQ"
        return [Feature(name="nftables", state="missing", detail=error.message, hint=hint, required=True)]
    return [Feature(name="nftables", state="works", detail="masquerade", required=True), _firewall(blocking)]


def _firewall(blocking: list[str]) -> Feature:
    if not blocking:
        return Feature(name="firewall", state="works", detail="no nft chain drops what is forwarded")
    chains = ", ".join(blocking)
    hint = f'let the mesh pass: nft insert rule {blocking[0]} iifname "w-*" accept, and its replies by ct state'
    return Feature(name="firewall", state="degraded", detail=f"drops what is forwarded: {chains}", hint=hint)


@dataclass(frozen=True)
class InstallMasquerade:
    wanted: Masquerade

    def describe(self) -> str:
        pools = " and ".join(str(pool) for pool in (self.wanted.pool, self.wanted.pool6) if pool)
        return f"masquerade {pools} in nft table {_FAMILY} {self.wanted.table}"

    async def do(self) -> None:
        await apply(ruleset(self.wanted))

    async def undo(self) -> None:
        await remove(self.wanted.table)
