"""Generated packets, sound and broken, whose whole result Scapy foretells.

Each is put together by chance; what is expected is built anew from the same pieces with the other end's addresses and
ports, and never changed in place, so that no sum in it comes from the code under test.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from support.packet_lab import (
    CLIENT,
    HOST_MACS,
    IPV6_OF,
    MACS,
    OK,
    OUTSIDE,
    REDIRECT,
    SERVER,
    SHOT,
    VIP,
    Lab,
    fragments,
    raw,
)

from whit.datapath.abi import DropReason, Hook

pytestmark = pytest.mark.root

PORT, BACKEND_PORT = 80, 8080


@dataclass(frozen=True)
class Case:
    """What a client sends to `asked`, where `served` answers; both as names of the lab in IPv4."""

    number: int
    ipv6: bool
    asked: str
    served: str
    protocol: str
    chain: tuple[Any, ...]
    fields: dict[str, Any]
    l4_fields: dict[str, Any]
    load: bytes

    @property
    def client_port(self) -> int:
        """Of no other case between two resets: two flows may not share the way back."""
        return self.number % 65535 + 1

    @property
    def ports(self) -> tuple[int, int]:
        """As the client names it, and as it is."""
        return PORT, BACKEND_PORT if self.asked != self.served else PORT

    @property
    def is_outside(self) -> bool:
        return self.served == OUTSIDE

    def request(self, to: str, port: int) -> Any:
        return self.network(CLIENT, to) / self.transport(self.client_port, port, "S") / self.load

    def answer(self, source: str, port: int) -> Any:
        return self.network(source, CLIENT) / self.transport(port, self.client_port, "SA") / self.load

    def network(self, source: str, to: str) -> Any:
        names = (IPV6_OF[source], IPV6_OF[to]) if self.ipv6 else (source, to)
        macs = {"src": MACS.get(source, MACS[SERVER]), "dst": HOST_MACS.get(source, HOST_MACS[SERVER])}
        made = Ether(**macs) / (IPv6 if self.ipv6 else IP)(src=names[0], dst=names[1], **self.fields)
        for header in self.chain:
            made /= header.copy()
        return made

    def transport(self, sport: int, dport: int, flags: str) -> Any:
        if self.protocol == "tcp":
            return TCP(sport=sport, dport=dport, flags=flags, **self.l4_fields)
        if self.protocol == "udp":
            return UDP(sport=sport, dport=dport, **self.l4_fields)
        if self.ipv6:
            return (ICMPv6EchoRequest if flags == "S" else ICMPv6EchoReply)(id=self.client_port, **self.l4_fields)
        return ICMP(type=8 if flags == "S" else 0, id=self.client_port, **self.l4_fields)

    def __str__(self) -> str:
        return f"{self.number}: {raw(self.request(self.asked, PORT)).hex()}"


def make_case(rng: random.Random, number: int) -> Case:
    ipv6, protocol = rng.random() < 0.5, rng.choice(("tcp", "tcp", "udp", "udp", "echo"))
    asked, served = rng.choice(((VIP, SERVER), (VIP, SERVER), (SERVER, SERVER), (OUTSIDE, OUTSIDE)))
    load = rng.randbytes(rng.choice((0, 1, 2, 3, rng.randrange(100), rng.randrange(1300))))
    chain = tuple(extensions(rng)) if ipv6 else ()
    l4_fields = transport_fields(rng, protocol, ipv6)
    return Case(number, ipv6, asked, served, protocol, chain, ip_fields(rng, ipv6), l4_fields, load)


def transport_fields(rng: random.Random, protocol: str, ipv6: bool) -> dict[str, Any]:
    if protocol == "udp":
        return {"chksum": 0} if not ipv6 and rng.random() < 0.2 else {}
    fields = {"seq": rng.randrange(2**16)}
    if protocol == "tcp":
        fields |= {"window": rng.randrange(65536), "options": [("NOP", None)] * rng.randrange(41)}
    return fields


def ip_fields(rng: random.Random, ipv6: bool) -> dict[str, Any]:
    if ipv6:
        return {"hlim": rng.randrange(1, 256), "tc": rng.randrange(256), "fl": rng.randrange(1 << 20)}
    fields = {"ttl": rng.randrange(1, 256), "tos": rng.randrange(256), "flags": rng.choice((0, "DF"))}
    options = rng.choice((0, 0, 1, 4, 10))
    return fields | ({"options": [b"\x01" * 4 * options]} if options else {})


def extensions(rng: random.Random) -> list[Any]:
    def padding() -> list[Any]:
        return [PadN(optdata=bytes(rng.choice((0, 4, 12, 20, 60))))]

    chain = []
    if rng.random() < 0.3:
        chain.append(IPv6ExtHdrHopByHop(options=padding()))
    if rng.random() < 0.2:
        chain.append(IPv6ExtHdrRouting(addresses=[IPV6_OF[OUTSIDE]] * rng.randrange(3), segleft=0))
    return chain + [IPv6ExtHdrDestOpt(options=padding()) for _ in range(rng.choice((0, 0, 0, 1, 2, 4)))]


def handed(frame: bytes, to: str) -> bytes:
    """The frame as an instance gets it."""
    return bytes.fromhex((MACS[to] + HOST_MACS[to]).replace(":", "")) + frame[12:]


def begins(lab: Lab, case: Case) -> None:
    """The first packet of the flow: there."""
    result = lab.from_instance(case.request(case.asked, case.ports[0]))
    expected = raw(case.request(case.served, case.ports[1]))
    if case.is_outside:
        assert (result.action, result.data) == (OK, expected)
    else:
        assert (result.action, result.data) == (REDIRECT, handed(expected, SERVER))


def is_answered(lab: Lab, case: Case, rng: random.Random) -> None:
    begins(lab, case)
    answer, expected = case.answer(case.served, case.ports[1]), raw(case.answer(case.asked, case.ports[0]))
    if case.is_outside:
        result = lab.to_instance(answer)
        assert (result.action, result.data) == (OK, expected)
    else:
        result = lab.from_instance(answer, SERVER)
        assert (result.action, result.data) == (REDIRECT, handed(expected, CLIENT))


def is_complained_about(lab: Lab, case: Case, rng: random.Random) -> None:
    """By who was asked, with as much of the packet as must be carried, or all of it."""
    begins(lab, case)
    got, sent = (raw(case.request(*end)) for end in ((case.served, case.ports[1]), (case.asked, case.ports[0])))
    plain = replace(case, chain=(), fields={})
    kind = ICMPv6DestUnreach(code=4) if case.ipv6 else ICMP(type=3, code=3)
    heads = len(raw(case.network(CLIENT, case.asked)))
    end = heads + 8 if rng.random() < 0.5 else len(sent)
    complaint = plain.network(case.served, CLIENT) / kind.copy() / got[14:end]
    expected = raw(plain.network(case.asked, CLIENT) / kind.copy() / sent[14:end])
    if case.is_outside:
        result = lab.to_instance(complaint)
        assert (result.action, result.data) == (OK, expected)
    else:
        result = lab.from_instance(complaint, SERVER)
        assert (result.action, result.data) == (REDIRECT, handed(expected, CLIENT))


def comes_in_pieces(lab: Lab, case: Case, rng: random.Random) -> None:
    plain = replace(case, chain=(), fields={}, load=case.load + bytes(90))
    size, number = 8 * rng.randrange(8, 40), case.number % 65536
    asked = fragments(plain.request(case.asked, case.ports[0]), size, number)
    wanted = fragments(plain.request(case.served, case.ports[1]), size, number)
    for piece, expected in zip(asked, wanted, strict=True):
        result = lab.from_instance(piece)
        if case.is_outside:
            assert (result.action, result.data) == (OK, expected)
        else:
            assert (result.action, result.data) == (REDIRECT, handed(expected, SERVER))


def is_dropped(lab: Lab, frame: bytes, reason: DropReason) -> None:
    key, flows = (reason, Hook.FROM_INSTANCE), lab.datapath.flows.count()
    before = lab.drops().get(key, 0)
    result = lab.from_instance(frame)
    assert (result.action, result.data) == (SHOT, frame)
    assert (lab.drops().get(key, 0), lab.datapath.flows.count()) == (before + 1, flows)


def is_cut_off(lab: Lab, case: Case, rng: random.Random) -> None:
    frame = raw(case.request(case.asked, case.ports[0]))
    is_dropped(lab, frame[: rng.randrange(14 + (40 if case.ipv6 else 20), len(frame))], DropReason.MALFORMED)


def is_forged(lab: Lab, case: Case, rng: random.Random) -> None:
    """One byte of the source address, or of the MAC address, is somebody else's."""
    frame = bytearray(raw(case.request(case.asked, case.ports[0])))
    first, length = rng.choice(((6, 6), (22, 16) if case.ipv6 else (26, 4)))
    frame[first + rng.randrange(length)] ^= rng.randrange(1, 256)
    is_dropped(lab, bytes(frame), DropReason.SPOOFED_ADDRESS)


def contradicts_itself(lab: Lab, case: Case, rng: random.Random) -> None:
    """A length that is larger than what is there, or another version."""
    frame = bytearray(raw(case.request(case.asked, case.ports[0])))
    if rng.random() < 0.5:
        frame[14] ^= rng.randrange(1, 16) << 4
    else:
        offset, length = (18, len(frame) - 54) if case.ipv6 else (16, len(frame) - 14)
        frame[offset : offset + 2] = rng.randrange(length + 1, 65536).to_bytes(2, "big")
    is_dropped(lab, bytes(frame), DropReason.MALFORMED)


FATES = [is_answered, is_answered, is_complained_about, comes_in_pieces, is_cut_off, is_forged, contradicts_itself]


def prepare(lab: Lab) -> None:
    """TCP, UDP and all else of a service in either family."""
    lab.reset()
    lab.populate()
    for service, (vip, server) in enumerate(((VIP, SERVER), (IPV6_OF[VIP], IPV6_OF[SERVER])), 1):
        for protocol in (6, 17):
            lab.serve((server, BACKEND_PORT), address=vip, protocol=protocol, service=service, first=service)
        lab.serve((server, BACKEND_PORT), address=vip, port=0, protocol=0, service=service, first=service)


def test_whole_packets_are_as_foretold(lab: Lab, sample: Callable[[int, int], int]) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    seen: Counter[tuple[str, str]] = Counter()
    for number in range(sample(2000, 20_000)):
        if number % 500 == 0:
            prepare(lab)
        case, fate = make_case(rng, number), rng.choice(FATES)
        try:
            fate(lab, case, rng)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {fate.__name__} {case}") from error
        seen[fate.__name__, case.protocol] += 1
    assert len(seen) == 3 * len(set(FATES)), seen
