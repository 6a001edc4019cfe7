"""iptables(8), ip6tables(8): let the mesh pass where Docker, ufw or an administrator drops what he does not know.

A few rules stand at the top of FORWARD and INPUT, each with the comment `whit/<id>`, by which they are found again.
Where these chains accept everything, there is nothing to do and nothing is done. All changes of a chain are one
transaction of iptables-restore(8).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from whit.base.errors import CommandError, Unavailable
from whit.tools import process

log = logging.getLogger(__name__)

Program = Literal["iptables", "ip6tables"]
PROGRAMS: tuple[Program, ...] = ("iptables", "ip6tables")
Chain = Literal["FORWARD", "INPUT"]
CHAINS: tuple[Chain, ...] = ("FORWARD", "INPUT")
Rule = tuple[str, ...]
"""What follows `-A <chain>`, in the spelling of `iptables -S`, so that the two can be compared."""


@dataclass(frozen=True)
class Admission:
    """What has to pass the packet filter of the host."""

    id: str
    mark: int
    """What the datapath has let through carries this mark in the bits of `mask`."""
    mask: int
    pool: IPv4Network
    link_prefix: str
    """Of the links of instances, as `w-whit-`."""
    resolver: IPv4Address
    port: int = 53
    pool6: IPv6Network | None = None
    """None where the mesh has no IPv6: ip6tables is then left alone."""
    resolver6: IPv6Address | None = None


@dataclass(frozen=True)
class Listing:
    """A chain as `iptables -S` prints it."""

    policy: str
    rules: tuple[Rule, ...]

    def own(self, comment: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if _comment(rule) == comment)

    def is_open(self, comment: str) -> bool:
        """Nothing but our own rules is in it, and it accepts what no rule decides."""
        return self.policy == "ACCEPT" and len(self.own(comment)) == len(self.rules)


def _comment(rule: Rule) -> str:
    return rule[rule.index("--comment") + 1] if "--comment" in rule[:-1] else ""


def comment_of(agent: str) -> str:
    return f"whit/{agent}"


def parse(text: str) -> dict[Chain, Listing]:
    """Of the output of `iptables -S`, the chains in which rules of ours may stand."""
    return {chain: _parse(chain, text) for chain in CHAINS}


def _parse(chain: Chain, text: str) -> Listing:
    policy, rules = "ACCEPT", []
    for line in text.splitlines():
        if line.startswith(f"-P {chain} "):
            policy = line.split()[2]
        elif line.startswith(f"-A {chain} "):
            rules.append(tuple(shlex.split(line)[2:]))
    return Listing(policy, tuple(rules))


def wanted_rules(admission: Admission) -> dict[Chain, tuple[Rule, ...]]:
    """FORWARD: what the datapath marked, and answers to instances. INPUT: questions to the resolver."""
    return {
        "FORWARD": _forwarded(admission, admission.pool),
        "INPUT": _questions(admission, admission.resolver),
    }


def wanted_rules6(admission: Admission) -> dict[Chain, tuple[Rule, ...]]:
    """As `wanted_rules`, for IPv6."""
    return {
        "FORWARD": _forwarded(admission, admission.pool6) if admission.pool6 else (),
        "INPUT": _questions(admission, admission.resolver6) if admission.resolver6 else (),
    }


def _questions(admission: Admission, resolver: IPv4Address | IPv6Address) -> tuple[Rule, ...]:
    asked = ("-d", f"{resolver}/{resolver.max_prefixlen}", "-i", f"{admission.link_prefix}+")
    kinds = [(*asked, "-p", name, "-m", name, "--dport", str(admission.port)) for name in ("udp", "tcp")]
    return tuple((*kind, *_ending(admission)) for kind in kinds)


def _forwarded(admission: Admission, pool: IPv4Network | IPv6Network) -> tuple[Rule, ...]:
    marked = ("-m", "mark", "--mark", f"{admission.mark:#x}/{admission.mask:#x}")
    answers = ("-d", str(pool), "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
    ending = _ending(admission)
    return (*marked, *ending), (*answers, *ending)


def _ending(admission: Admission) -> Rule:
    return ("-m", "comment", "--comment", comment_of(admission.id), "-j", "ACCEPT")


def plan(chain: Chain, listing: Listing, wanted: Sequence[Rule], comment: str) -> list[str]:
    """The commands of iptables-restore that put `wanted`, and no other rule of ours, at the top; empty if it is so."""
    if listing.is_open(comment):
        wanted = ()
    own = listing.own(comment)
    if own == tuple(wanted) == listing.rules[: len(wanted)]:
        return []
    return [
        *(f"-D {chain} {shlex.join(rule)}" for rule in own),
        *(f"-I {chain} {number} {shlex.join(rule)}" for number, rule in enumerate(wanted, start=1)),
    ]


def _wanted(admission: Admission) -> Iterator[tuple[Program, dict[Chain, tuple[Rule, ...]]]]:
    yield "iptables", wanted_rules(admission)
    if admission.pool6 is not None:
        yield "ip6tables", wanted_rules6(admission)


async def _missing(admission: Admission) -> AsyncIterator[tuple[Program, list[str]]]:
    """By program, the commands that `admit` has to give; one process each finds out."""
    for program, wanted in _wanted(admission):
        if (listings := await _list(program)) is None:
            log.info("%s does not work here: no rules of it can stand in the way", program)
            continue
        for chain, rules in wanted.items():
            if commands := plan(chain, listings[chain], rules, comment_of(admission.id)):
                yield program, commands


async def stands_in_the_way(admission: Admission) -> bool:
    """Whether `admit` would change anything."""
    return bool([program async for program, _ in _missing(admission)])


async def admit(admission: Admission) -> list[str]:
    """Make it so. Returns what was changed, in words; empty if nothing had to be."""
    said = []
    async for program, commands in _missing(admission):
        await _restore(program, commands)
        said += [f"{program} {command}" for command in commands]
    return said


async def remove(agent: str) -> None:
    """Take away every rule of this agent. Safe if there is none."""
    comment = comment_of(agent)
    for program in PROGRAMS:
        for chain, listing in (await _list(program) or {}).items():
            if own := listing.own(comment):
                await _restore(program, [f"-D {chain} {shlex.join(rule)}" for rule in own])


async def found(agent: str) -> list[str]:
    """The rules of this agent, as `iptables -S` prints them."""
    return [
        f"-A {chain} {shlex.join(rule)}"
        for program in PROGRAMS
        for chain, listing in (await _list(program) or {}).items()
        for rule in listing.own(comment_of(agent))
    ]


async def _list(program: Program) -> dict[Chain, Listing] | None:
    """None if the program is not installed, or the kernel has no such filter for IPv6."""
    try:
        return parse((await process.run([program, "--wait", "10", "-S"], timeout=20)).text)
    except Unavailable:
        return None
    except CommandError:
        if program == "iptables":
            raise
        return None


async def _restore(program: Program, commands: Sequence[str]) -> None:
    text = "\n".join(["*filter", *commands, "COMMIT", ""])
    await process.run([f"{program}-restore", "--noflush", "--wait", "10"], stdin=text.encode(), timeout=20)


@dataclass(frozen=True)
class AdmitTraffic:
    admission: Admission

    def describe(self) -> str:
        return f"let the mesh pass in iptables, with comment {comment_of(self.admission.id)}"

    async def do(self) -> None:
        for change in await admit(self.admission):
            log.info("%s", change)

    async def undo(self) -> None:
        await remove(self.admission.id)
