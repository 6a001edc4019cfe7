"""The object as a whole: it loads, its structs have no holes, and no input makes it do what it should not."""

from __future__ import annotations

import ctypes
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from support.packet_lab import (
    CLIENT,
    HOST_MACS,
    MACS,
    NODE,
    OK,
    OUTSIDE,
    REDIRECT,
    RESOLVER,
    SERVER,
    SHOT,
    UDP_NUMBER,
    UNSPEC,
    VIP,
    Lab,
    echo,
    laboratory,
    raw,
    tcp,
    udp,
)

from whit.base.errors import SystemCallError
from whit.base.settings import Settings
from whit.datapath import build, libbpf
from whit.datapath.abi import LAYOUT
from whit.datapath.attach import CGROUP_HOOKS
from whit.datapath.btf import Btf

PROGRAMS = ("from_instance", "to_instance", "from_uplink", "to_uplink", *CGROUP_HOOKS)
_VERIFIED_INSTRUCTIONS = 216
"""Offset of verified_insns in struct bpf_prog_info, Linux 5.16."""


@pytest.mark.root
def test_every_program_loads(lab: Lab, record_number: Callable[[str, object], None]) -> None:
    for name in PROGRAMS:
        info, size = ctypes.create_string_buffer(256), ctypes.c_uint32(256)
        libbpf.call("bpf_obj_get_info_by_fd", lab.program(name), info, ctypes.byref(size))
        verified = int.from_bytes(info.raw[_VERIFIED_INSTRUCTIONS : _VERIFIED_INSTRUCTIONS + 4], "little")
        record_number(f"bpf: instructions that the verifier walked in {name}", verified)
        assert 0 < verified < 200_000, "far from the limit of a million, so that other kernels have room"


@pytest.mark.root
def test_it_loads_without_redirecting_to_the_peer(settings: Settings, lab_links: dict[str, int]) -> None:
    for lab in laboratory(settings, lab_links, redirect_peer=False):
        assert lab.from_instance(tcp(CLIENT, SERVER)).action == REDIRECT


def test_no_struct_of_the_object_has_a_hole() -> None:
    """A key with indeterminate bytes would never be found again."""
    btf = Btf.from_file(build.object_path("datapath"))
    shared = btf.structs.keys() & LAYOUT.keys()
    assert {"flow_key", "policy_key", "identity_key", "frontend_key", "slot_key", "drop_key"} <= shared
    for name in shared:
        position = 0
        for field in btf.struct(name).fields:
            assert field.offset == position, f"hole in {name} before {field.name}"
            position += field.size
        assert position == btf.struct(name).size, f"hole at the end of {name}"


def test_packets_end_in_one_place_only() -> None:
    """STYLE: no bare TC_ACT_SHOT; every end of a packet has a reason that is counted."""
    sources = [*build.SOURCES.glob("lib/*.h"), *build.SOURCES.glob("progs/*.c")]
    ends = [(path.name, line) for path in sources for line in path.read_text().splitlines() if "TC_ACT_SHOT;" in line]
    assert ends == [("event.h", "\treturn TC_ACT_SHOT;")]


def test_no_function_is_long() -> None:
    for path in [*build.SOURCES.glob("lib/*.h"), *build.SOURCES.glob("progs/*.c")]:
        for body in re.findall(r"^\{\n(.*?)^\}", path.read_text(), re.M | re.S):
            assert body.count("\n") < 60, f"{path.name}: {body[:80]}"


def seeds() -> list[bytes]:
    """One of each kind that the parsers know."""
    head = Ether(src=MACS[CLIENT], dst=HOST_MACS[CLIENT])
    error = IP(src=SERVER, dst=CLIENT) / ICMP(type=3, code=4) / raw(tcp(CLIENT, SERVER, 40000, 8080))[14:]
    packets = [
        tcp(CLIENT, VIP),
        tcp(CLIENT, SERVER, 40000, 8080, "PA", b"x" * 100),
        udp(CLIENT, SERVER),
        udp(CLIENT, VIP, dport=53),
        echo(CLIENT, SERVER),
        head / error,
        Ether(src=MACS[SERVER], dst=HOST_MACS[SERVER]) / error,
        head / IP(src=CLIENT, dst=SERVER, options=[b"\x01" * 8]) / UDP(),
        head / ARP(hwsrc=MACS[CLIENT], psrc=CLIENT),
        head / IPv6(),
        tcp(OUTSIDE, NODE),
        udp(RESOLVER, CLIENT),
    ]
    return [raw(packet) for packet in packets]


def mutated(rng: random.Random) -> Iterator[bytes]:
    """Bytes changed, cut off and added, mostly in the headers."""
    known = seeds()
    while True:
        packet = bytearray(rng.choice(known))
        for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
            packet[rng.randrange(min(len(packet), 80))] = rng.choice((0, 1, 0x45, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.4:
            del packet[rng.randrange(14, len(packet) + 1) :]
        if rng.random() < 0.1:
            packet += rng.randbytes(rng.randrange(1, 1400))
        yield bytes(packet)


@pytest.mark.root
def test_no_packet_upsets_a_program(lab: Lab, sample: Callable[[int, int], int]) -> None:
    lab.serve((SERVER, 8080))
    lab.serve(protocol=UDP_NUMBER, port=53)
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    allowed = {
        "from_instance": {OK, SHOT, REDIRECT},
        "to_instance": {OK, SHOT},
        "from_uplink": {UNSPEC, SHOT, REDIRECT},
        "to_uplink": {UNSPEC, SHOT},
    }
    seen: Counter[tuple[str, int]] = Counter()
    packets = mutated(rng)
    for _ in range(sample(1500, 100_000)):
        name, packet = rng.choice(list(allowed)), next(packets)
        try:
            result = lab.run(name, packet, rng.choice((CLIENT, SERVER, OUTSIDE)))
        except SystemCallError:
            continue  # the kernel does not make a test packet of so little
        assert result.action in allowed[name], f"seed {seed}: {name} gave {result.action} for {packet.hex()}"
        seen[name, result.action] += 1
    assert {("from_instance", REDIRECT), ("from_instance", SHOT), ("to_instance", OK)} <= seen.keys(), seen
    assert sum(lab.drops().values()) > 0
