"""Whit's services and policy written for others: nftables with maps and without, iptables as kube-proxy writes it.

A service is a UDP port of an address of its own with backends that are ports of one server. A policy is a list of who
may send to which port of whom, asked once for what the sender may and once for what the receiver may; what is in
neither list is dropped, and the answers of a flow that was let through are let through.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

PORT = 80
NFT, IPTABLES_NFT, IPTABLES_LEGACY = ("nft", "-f", "-"), ("iptables-nft-restore",), ("iptables-legacy-restore",)
"""What takes rules. Debian's iptables are both: the old commands with nftables under them, and the old tables."""


@dataclass(frozen=True)
class Services:
    """Each of `addresses` has the same backends: ports of `server`."""

    addresses: Sequence[IPv4Address]
    server: IPv4Address
    ports: Sequence[int]


@dataclass(frozen=True)
class Entry:
    """May send to this port."""

    source: IPv4Address
    destination: IPv4Address
    port: int


@dataclass(frozen=True)
class Policy:
    """Lists of the client's and of the server's; others in them are only named."""

    client: IPv4Address
    server: IPv4Address
    egress: Sequence[Entry]
    ingress: Sequence[Entry]


def nft_service_maps(services: Services) -> str:
    """A chain for each service, found by one look-up."""
    chains = [f"chain s{at} {{\nmeta l4proto udp {_dnat(services)}\n}}" for at in range(len(services.addresses))]
    found = ", ".join(f"{address} . {PORT} : goto s{at}" for at, address in enumerate(services.addresses))
    return _table([*chains, _nat(f"ip daddr . udp dport vmap {{ {found} }}")])


def nft_service_rules(services: Services) -> str:
    rules = [f"ip daddr {address} udp dport {PORT} {_dnat(services)}" for address in services.addresses]
    return nft_nat("\n".join(rules))


def _dnat(services: Services) -> str:
    backends = ", ".join(f"{at} : {services.server} . {port}" for at, port in enumerate(services.ports))
    return f"dnat ip to numgen random mod {len(services.ports)} map {{ {backends} }}"


def nft_nat(rules: str) -> str:
    """A table of rules for what comes in."""
    return _table([_nat(rules)])


def _nat(rules: str) -> str:
    return f"chain services {{\ntype nat hook prerouting priority -100;\n{rules}\n}}"


def nft_policy_maps(policy: Policy) -> str:
    def chain(name: str, entries: Sequence[Entry]) -> str:
        found = ", ".join(f"{one.source} . {one.destination} . {one.port} : return" for one in entries)
        return f"chain {name} {{\nip saddr . ip daddr . udp dport vmap {{ {found} }}\ndrop\n}}"

    return _nft_policy(policy, chain)


def nft_policy_rules(policy: Policy) -> str:
    def chain(name: str, entries: Sequence[Entry]) -> str:
        rules = [f"ip saddr {one.source} ip daddr {one.destination} udp dport {one.port} return" for one in entries]
        return "\n".join([f"chain {name} {{", *rules, "drop", "}"])

    return _nft_policy(policy, chain)


def _nft_policy(policy: Policy, chain: Callable[[str, Sequence[Entry]], str]) -> str:
    rules = "ct state established,related accept\njump egress\njump ingress"
    forward = f"chain judged {{\ntype filter hook forward priority 0;\n{rules}\n}}"
    return _table([chain("egress", policy.egress), chain("ingress", policy.ingress), forward])


def _table(chains: Sequence[str]) -> str:
    return "\n".join(["table ip rival {", *chains, "}", ""])


def iptables_services(services: Services) -> str:
    """Rules of KUBE-SERVICES one after the other, a chain for each service that lets chance pick a backend, a chain for
    each backend (kube-proxy, pkg/proxy/iptables/proxier.go)."""
    lines = ["*nat", ":KUBE-SERVICES - [0:0]"]
    numbers = range(len(services.addresses))
    lines += [f":KUBE-SVC-{at} - [0:0]" for at in numbers]
    lines += [f":KUBE-SEP-{at}-{port} - [0:0]" for at in numbers for port in services.ports]
    lines.append("-A PREROUTING -j KUBE-SERVICES")
    for at, address in enumerate(services.addresses):
        lines.append(f"-A KUBE-SERVICES -d {address}/32 -p udp -m udp --dport {PORT} -j KUBE-SVC-{at}")
        lines += _iptables_service(services, at)
    return "\n".join([*lines, "COMMIT", ""])


def _iptables_service(services: Services, at: int) -> list[str]:
    lines = []
    for left, port in zip(range(len(services.ports), 0, -1), services.ports, strict=True):
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        lines.append(f"-A KUBE-SVC-{at} {chance}-j KUBE-SEP-{at}-{port}")
        lines.append(f"-A KUBE-SEP-{at}-{port} -p udp -m udp -j DNAT --to-destination {services.server}:{port}")
    return lines


def iptables_policy(policy: Policy) -> str:
    lines = ["*filter", ":EGRESS - [0:0]", ":INGRESS - [0:0]"]
    lines += ["-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
    for chain, entries in (("EGRESS", policy.egress), ("INGRESS", policy.ingress)):
        lines.append(f"-A FORWARD -j {chain}")
        for one in entries:
            match = f"-s {one.source}/32 -d {one.destination}/32 -p udp -m udp --dport {one.port}"
            lines.append(f"-A {chain} {match} -j RETURN")
        lines.append(f"-A {chain} -j DROP")
    return "\n".join([*lines, "COMMIT", ""])


def load(place: Path, tool: Sequence[str], text: str) -> None:
    """Give a namespace these rules. Raises SystemExit with what the tool said."""
    argv = ["nsenter", f"--net={place}", *tool]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr[:500]}")
