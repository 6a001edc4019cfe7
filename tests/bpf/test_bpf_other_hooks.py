"""Published ports and their replies, what the host's stack sends to instances, ICMP errors, and garbage."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from bpf.conftest import (
    API,
    API_ID,
    API_MAC,
    DROP,
    HOST_MAC,
    NODE,
    PASS,
    REDIRECT,
    VIP,
    WEB,
    WEB_ID,
    WEB_MAC,
    WORLD,
    Kernel,
    datagram,
    frame,
    rebuilt,
    syn,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP

from whit.datapath import abi
from whit.datapath.abi import DropReason, Hook

pytestmark = pytest.mark.root

CLIENT_MAC, NODE_MAC = "02:00:00:00:00:09", "02:00:00:00:00:02"


@pytest.fixture
def published(kernel: Kernel) -> Kernel:
    """Port 80 of the node, on every address, leads to port 8080 of web; the world is admitted there."""
    kernel.service("0.0.0.0", [(WEB, 8080)], port=80, protocol=6, number=9)
    kernel.rule(WEB_ID, abi.Direction.INGRESS, 90, peer=abi.ReservedIdentity.WORLD, protocol=6, port=8080)
    return kernel


def from_outside(dport: int = 80, flags: str = "S") -> object:
    return frame(WORLD, NODE, mac=CLIENT_MAC, to=NODE_MAC) / TCP(sport=50000, dport=dport, flags=flags, seq=1)


def test_published_port_keeps_its_source(published: Kernel) -> None:
    verdict, out = published.run("from_uplink", from_outside())  # type: ignore[arg-type]
    expected = frame(WORLD, WEB, mac=HOST_MAC, to=WEB_MAC) / TCP(sport=50000, dport=8080, flags="S", seq=1)
    assert (verdict, out) == (REDIRECT, rebuilt(expected))
    (event,) = published.events()
    assert (event.ingress_rule, event.hook, event.source_identity) == (90, Hook.FROM_UPLINK, 2)
    assert (str(event.service), event.service_port) == (NODE, 80)


def test_its_reply_leaves_from_the_published_port(published: Kernel) -> None:
    published.run("from_uplink", from_outside())  # type: ignore[arg-type]
    reply = frame(WEB, WORLD) / TCP(sport=8080, dport=50000, flags="SA", seq=7, ack=2)
    verdict, out = published.run("from_instance", reply)
    expected = frame(NODE, WORLD) / TCP(sport=80, dport=50000, flags="SA", seq=7, ack=2)
    assert (verdict, out) == (REDIRECT, rebuilt(expected))


def test_without_a_rule_the_world_is_not_admitted(published: Kernel) -> None:
    published.service("0.0.0.0", [(API, 8000)], port=81, protocol=6, number=10)
    assert published.run("from_uplink", from_outside(81))[0] == DROP  # type: ignore[arg-type]
    (event,) = published.events()
    assert (event.reason, event.ingress_rule) == (DropReason.POLICY_INGRESS, 21)


@pytest.mark.parametrize(("port", "flags"), [(22, "S"), (80, "A")])
def test_what_is_the_hosts_own_passes_untouched(published: Kernel, port: int, flags: str) -> None:
    packet = from_outside(port, flags)
    assert published.run("from_uplink", packet) == (PASS, bytes(packet))  # type: ignore[arg-type, call-overload]
    assert published.events() == []


@pytest.mark.parametrize("source", [WEB, VIP, NODE])
@pytest.mark.parametrize("kind", ["tcp", "icmp", "fragment"])
def test_nobody_outside_has_our_addresses(published: Kernel, source: str, kind: str) -> None:
    """An instance's identity cannot be borrowed by writing its address into packets."""
    packet = frame(source, API, mac=CLIENT_MAC, to=NODE_MAC)
    packet = packet / {"icmp": ICMP(id=1)}.get(kind, TCP(sport=50000, dport=8000, flags="S"))
    if kind == "fragment":
        packet[IP].flags = "MF"
    assert published.run("from_uplink", packet)[0] == DROP
    assert published.dropped(DropReason.SPOOFED_ADDRESS, Hook.FROM_UPLINK) == 1


def test_the_hosts_processes_meet_policy(kernel: Kernel) -> None:
    packet = frame(NODE, API, mac=HOST_MAC, to=API_MAC) / TCP(sport=33000, dport=8000, flags="S")
    assert kernel.run("to_instance", packet)[0] == DROP
    assert kernel.events()[0].ingress_rule == 21
    kernel.rule(API_ID, abi.Direction.INGRESS, 95, peer=abi.ReservedIdentity.HOST, protocol=6, port=8000)
    assert kernel.run("to_instance", packet) == (PASS, bytes(packet))
    reply = frame(API, NODE, mac=API_MAC) / TCP(sport=8000, dport=33000, flags="SA")
    assert kernel.run("from_instance", reply)[0] == PASS


def test_answers_of_the_world_pass(kernel: Kernel) -> None:
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 96, peer=abi.ReservedIdentity.WORLD)
    assert kernel.run("from_instance", syn(target=WORLD, dport=443))[0] == PASS
    answer = frame(WORLD, WEB, mac=HOST_MAC, to=WEB_MAC) / TCP(sport=443, dport=40000, flags="SA")
    assert kernel.run("to_instance", answer)[0] == PASS
    uninvited = frame(WORLD, WEB, mac=HOST_MAC, to=WEB_MAC) / TCP(sport=444, dport=40000, flags="SA")
    assert kernel.run("to_instance", uninvited)[0] == DROP


def test_an_icmp_error_speaks_of_the_service(kernel: Kernel) -> None:
    """api has no such UDP port: web must hear it of the address and port that it asked."""
    kernel.service(VIP, [(API, 8000)], port=53, protocol=17, number=11)
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 97, peer=API_ID, protocol=17, port=8000)
    kernel.rule(API_ID, abi.Direction.INGRESS, 98, peer=WEB_ID, protocol=17, port=8000)
    question = datagram(dport=53)
    _, received = kernel.run("from_instance", question)
    quoted = IP(received[14:])
    error = frame(API, WEB, mac=API_MAC) / ICMP(type=3, code=3) / quoted
    verdict, out = kernel.run("from_instance", error)
    assert verdict == REDIRECT
    answer = IP(out[14:])
    inner = answer[ICMP].payload
    assert (inner.dst, inner.dport, inner.src, inner.sport) == (VIP, 53, WEB, 40000)
    assert inner.chksum == IP(bytes(question[IP])).chksum
    assert bytes(answer[ICMP])[2:4] == bytes(ICMP(rebuilt_icmp(answer)))[2:4]


def rebuilt_icmp(packet: IP) -> bytes:
    copy = packet[ICMP].copy()
    del copy.chksum
    return bytes(copy)


def test_an_icmp_error_about_nothing_is_dropped(kernel: Kernel) -> None:
    quoted = IP(src=WEB, dst=API) / UDP(sport=1, dport=2)
    error = frame(API, WEB, mac=API_MAC) / ICMP(type=3, code=3) / quoted
    assert kernel.run("from_instance", error)[0] == DROP
    assert kernel.dropped(DropReason.UNRELATED_ERROR, Hook.FROM_INSTANCE) == 1
    assert kernel.events() == []


def test_garbage_never_passes_an_instance_unseen(kernel: Kernel, sample: Callable[[int, int], int]) -> None:
    """Mutated and truncated packets: only known verdicts, and nothing reaches the world without a rule."""
    chance = random.Random(7)
    originals = [bytes(packet) for packet in (syn(), datagram(), frame(WEB, API) / ICMP(id=3) / (b"x" * 40))]
    for _ in range(sample(2_000, 50_000)):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(12, len(data))] = chance.randrange(256)
        packet = bytes(data[: chance.randrange(34, len(data) + 1)])
        for program in ("from_instance", "to_instance", "from_uplink"):
            verdict, out = kernel.run(program, packet)
            assert verdict in (PASS, DROP, REDIRECT)
            assert len(out) == len(packet)
        kernel.events()
