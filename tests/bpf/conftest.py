"""The real programs in the kernel, on maps of their own, run by BPF_PROG_TEST_RUN on packets made with Scapy."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from whit.datapath import abi, libbpf
from whit.datapath.address import Address
from whit.datapath.build import object_path
from whit.datapath.codec import U32, struct_codec
from whit.datapath.events import FlowEvents
from whit.datapath.maps import ArrayMap, HashMap, LpmMap, PerCpuMap
from whit.datapath.objects import BpfObject
from whit.datapath.pins import mount_bpffs

LOOPBACK = 1
"""Link of every packet of a test run."""
PASS, DROP, REDIRECT = 0, 2, 7
MARK, MARK_MASK = 0x01200000, 0x0FF00000

HOST_MAC, WEB_MAC, API_MAC = "0e:58:00:00:00:01", "0a:58:00:00:00:10", "0a:58:00:00:00:11"
WEB, API, STRANGER, WORLD = "10.77.0.16", "10.77.0.17", "10.77.0.99", "203.0.113.9"
VIP, NODE, RESOLVER = "10.77.128.1", "192.0.2.2", "10.77.0.2"
WEB_ID, API_ID = 0x01000001, 0x01000002


@dataclass
class Kernel:
    """The loaded object with typed maps."""

    object: BpfObject

    def __post_init__(self) -> None:
        self.identities = self._map(LpmMap, "identities", abi.IdentityKey, abi.IdentityValue)
        self.endpoints = self._map(HashMap, "endpoints", abi.EndpointKey, abi.EndpointValue)
        self.policies = self._map(LpmMap, "policies", abi.PolicyKey, abi.PolicyValue)
        self.frontends = self._map(HashMap, "frontends", abi.FrontendKey, abi.FrontendValue)
        self.flows = self._map(HashMap, "flows", abi.FlowKey, abi.FlowValue)
        self.drops = self._map(PerCpuMap, "drops", abi.DropKey, abi.DropValue)
        self.slots: HashMap[abi.SlotKey, int] = HashMap(
            self.object.map_fd("slots"), struct_codec(abi.SlotKey), U32, "slots"
        )
        self.backends: HashMap[int, abi.BackendValue] = HashMap(
            self.object.map_fd("backends"), U32, struct_codec(abi.BackendValue), "backends"
        )
        self.state: ArrayMap[abi.DatapathState] = ArrayMap(
            self.object.map_fd("state"), U32, struct_codec(abi.DatapathState), "state"
        )

    def _map(self, kind: Any, name: str, key: Any, value: Any) -> Any:
        return kind(self.object.map_fd(name), struct_codec(key), struct_codec(value), name)

    def run(self, program: str, packet: Packet | bytes, repeat: int = 1) -> tuple[int, bytes]:
        """What the program says of the packet, and the packet afterwards."""
        done = libbpf.prog_test_run(self.object.program_fd(program), bytes(packet), repeat=repeat)
        return done[0], done[1]

    def mark_after(self, program: str, packet: Packet) -> int:
        """skb->mark, the third field of struct __sk_buff."""
        done = libbpf.prog_test_run(self.object.program_fd(program), bytes(packet), ctx=bytes(192))
        return int(struct.unpack_from("<I", done[2], 8)[0])

    # ---- what the maps hold ----

    def name(self, network: str, identity: int, length: int = 32) -> None:
        self.identities.put(abi.IdentityKey(96 + length, Address.from_ip(network)), abi.IdentityValue(identity))

    def endpoint(self, address: str, mac: str, identity: int) -> None:
        raw = bytes.fromhex(mac.replace(":", ""))
        host = bytes.fromhex(HOST_MAC.replace(":", ""))
        self.name(address, identity)
        self.endpoints.put(abi.EndpointKey(Address.from_ip(address)), abi.EndpointValue(LOOPBACK, identity, raw, host))

    def rule(
        self,
        subject: int,
        direction: abi.Direction,
        rule: int,
        *,
        peer: int = 0,
        protocol: int = 0,
        port: int = 0,
        bits: int = 16,
        allow: bool = True,
        precedence: int = 1,
        audit: bool = False,
    ) -> None:
        length = abi.POLICY_PREFIX_ANY_PORT + bits if protocol else abi.POLICY_PREFIX_ANY_PROTOCOL
        key = abi.PolicyKey(length, subject, peer, direction, protocol, port)
        verdict = abi.Verdict.ALLOW if allow else abi.Verdict.DENY
        flags = abi.PolicyFlags.AUDIT if audit else abi.PolicyFlags(0)
        self.policies.put(key, abi.PolicyValue(rule, precedence, verdict, flags, 0))

    def service(
        self, address: str, backends: list[tuple[str, int]], *, port: int = 0, protocol: int = 0, number: int = 7
    ) -> None:
        for slot, (backend, target) in enumerate(backends):
            self.backends.put(
                number * 16 + slot, abi.BackendValue(Address.from_ip(backend), target, abi.BackendState.ACTIVE)
            )
            self.slots.put(abi.SlotKey(number, slot), number * 16 + slot)
        key = abi.FrontendKey(Address.from_ip(address), port, protocol)
        self.frontends.put(key, abi.FrontendValue(number, len(backends), 0))

    def set_backend(self, number: int, state: abi.BackendState) -> None:
        value = self.backends.get(number)
        assert value is not None
        self.backends.put(number, replace(value, state=state))

    def dropped(self, reason: abi.DropReason, hook: abi.Hook) -> int:
        value = self.drops.get(abi.DropKey(reason, hook))
        return value.packets if value else 0

    def events(self) -> list[abi.FlowEvent]:
        """Those since the last call."""
        return list(self.ring.poll())

    ring: Any = None


def open_maps(kernel: Kernel) -> None:
    """web may reach api on port 8000, and the resolver; nothing else is open."""
    kernel.endpoint(WEB, WEB_MAC, WEB_ID)
    kernel.endpoint(API, API_MAC, API_ID)
    kernel.name(NODE, abi.ReservedIdentity.HOST)
    kernel.name(RESOLVER, abi.ReservedIdentity.RESOLVER)
    kernel.service(VIP, [(API, 0)])
    for subject, base in ((WEB_ID, 10), (API_ID, 20)):
        kernel.rule(subject, abi.Direction.EGRESS, base, allow=False, precedence=0)
        kernel.rule(subject, abi.Direction.INGRESS, base + 1, allow=False, precedence=0)
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 30, peer=API_ID, protocol=6, port=8000)
    kernel.rule(API_ID, abi.Direction.INGRESS, 31, peer=WEB_ID, protocol=6, port=8000)
    kernel.rule(WEB_ID, abi.Direction.EGRESS, 32, peer=abi.ReservedIdentity.RESOLVER, protocol=17, port=53)


@pytest.fixture
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    mount_bpffs()
    pin = Path(f"/sys/fs/bpf/whit-test-{token_hex(4)}")
    pool = IPv4Network("10.77.0.0/16")
    with ExitStack() as stack:
        obj = stack.enter_context(BpfObject(object_path("datapath")))
        obj.set_constants(
            {
                "pool": int(pool.network_address),
                "pool_mask": int(pool.netmask),
                "mark": MARK,
                "mark_mask": MARK_MASK,
                "redirect_peer": True,
            }
        )
        obj.set_max_entries("events", 1 << 16)
        obj.load()
        obj.pin_map("events", pin)
        stack.callback(pin.unlink)
        kernel = Kernel(obj)
        kernel.ring = stack.enter_context(FlowEvents(pin))  # type: ignore[type-var]
        open_maps(kernel)
        yield kernel


def frame(source: str, target: str, *, mac: str = WEB_MAC, to: str = HOST_MAC) -> Packet:
    return Ether(src=mac, dst=to) / IP(src=source, dst=target, ttl=64, id=1)


def syn(source: str = WEB, target: str = VIP, sport: int = 40000, dport: int = 8000, **more: Any) -> Packet:
    return frame(source, target, **more) / TCP(sport=sport, dport=dport, flags="S", seq=1)


def datagram(source: str = WEB, target: str = VIP, sport: int = 40000, dport: int = 8000, **more: Any) -> Packet:
    return frame(source, target, **more) / UDP(sport=sport, dport=dport) / b"question"


def echo(source: str = WEB, target: str = API, number: int = 9, kind: int = 8, **more: Any) -> Packet:
    return frame(source, target, **more) / ICMP(type=kind, id=number, seq=1) / b"echo"


def rebuilt(packet: Packet) -> bytes:
    """The packet's bytes with every checksum and length computed anew."""
    copy = packet.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in copy:
            del copy[layer].chksum
    return bytes(copy)
