"""A small mesh in the datapath's own maps, and packets that are run through its programs without a network.

Addresses: clients and servers of the pool 10.7.0.0/16, the node 192.0.2.1, and somebody outside, 198.51.100.9. All
have an IPv6 address too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from whit.base.settings import Settings
from whit.datapath import libbpf
from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PORT,
    POLICY_PREFIX_ANY_PROTOCOL,
    POLICY_PREFIX_EXACT,
    BackendState,
    BackendValue,
    DatapathState,
    Direction,
    DropReason,
    EndpointKey,
    EndpointValue,
    FlowEvent,
    FlowKey,
    FlowValue,
    FrontendKey,
    FrontendValue,
    Hook,
    IdentityKey,
    IdentityValue,
    PolicyFlags,
    PolicyKey,
    PolicyValue,
    SlotKey,
    Verdict,
)
from whit.datapath.address import Address, prefix_of
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig

OK, SHOT, REDIRECT, UNSPEC = 0, 2, 7, -1
"""TC_ACT_… of <linux/pkt_cls.h>."""

TCP_NUMBER, UDP_NUMBER, ICMP_NUMBER, ICMPV6_NUMBER, SCTP_NUMBER = 6, 17, 1, 58, 132
POOL, POOL6 = IPv4Network("10.7.0.0/16"), IPv6Network("fd07::/32")
CLIENT, SERVER, SECOND, NOBODY = "10.7.0.2", "10.7.0.3", "10.7.0.4", "10.7.0.99"
VIP, RESOLVER, NODE, OUTSIDE = "10.7.128.1", "10.7.0.53", "192.0.2.1", "198.51.100.9"
CLIENT6, SERVER6, SECOND6, NOBODY6 = "fd07::2", "fd07::3", "fd07::4", "fd07::99"
VIP6, RESOLVER6, NODE6, OUTSIDE6 = "fd07:0:1::1", "fd07::53", "2001:db8::1", "2001:db8:ff::9"
GATEWAY6 = "fe80::1"
CLIENT_ID, SERVER_ID, HOST_ID, WORLD_ID, RESOLVER_ID = 0x02000010, 0x02000020, 1, 2, 3
MACS = {CLIENT: "02:00:00:00:01:02", SERVER: "02:00:00:00:01:03", SECOND: "02:00:00:00:01:04"}
HOST_MACS = {CLIENT: "02:00:00:00:02:02", SERVER: "02:00:00:00:02:03", SECOND: "02:00:00:00:02:04"}
MACS |= {CLIENT6: MACS[CLIENT], SERVER6: MACS[SERVER], SECOND6: MACS[SECOND]}
HOST_MACS |= {CLIENT6: HOST_MACS[CLIENT], SERVER6: HOST_MACS[SERVER], SECOND6: HOST_MACS[SECOND]}
IPV6_OF = {
    CLIENT: CLIENT6,
    SERVER: SERVER6,
    SECOND: SECOND6,
    NOBODY: NOBODY6,
    VIP: VIP6,
    RESOLVER: RESOLVER6,
    NODE: NODE6,
    OUTSIDE: OUTSIDE6,
}
UPLINK_MAC, OUTSIDE_MAC = "02:00:00:00:03:01", "02:00:00:00:03:02"
MARK, MARK_MASK = 0x500, 0xF00
SERVICE = 7

ICMPV6 = (
    ICMPv6EchoRequest,
    ICMPv6EchoReply,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    ICMPv6ParamProblem,
)
_CONTEXT = 192
"""Bytes of struct __sk_buff."""
_MARK, _IFINDEX, _GSO_SEGMENTS, _GSO_SIZE = 8, 40, 164, 176


@dataclass(frozen=True)
class Result:
    """What became of a packet."""

    action: int
    data: bytes
    mark: int

    @property
    def frame(self) -> Any:
        """For reading only: scapy keeps checksums as they are."""
        return Ether(self.data)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def raw(packet: Packet) -> bytes:
    """With all lengths and checksums filled in by scapy, not by the code under test."""
    return bytes(packet)


def tcp(source: str, destination: str, sport: int = 40000, dport: int = 80, flags: str = "S", load: bytes = b"") -> Any:
    """From an instance, to whom it sees as its gateway."""
    return ip(source, destination) / TCP(sport=sport, dport=dport, flags=flags, seq=7) / load


def udp(source: str, destination: str, sport: int = 40000, dport: int = 80, load: bytes = b"hello") -> Any:
    return ip(source, destination) / UDP(sport=sport, dport=dport) / load


def echo(source: str, destination: str, kind: str = "echo-request", number: int = 77) -> Any:
    if is_ipv6(source):
        answer = ICMPv6EchoRequest if kind == "echo-request" else ICMPv6EchoReply
        return ip(source, destination) / answer(id=number, seq=1, data=b"ping")
    return ip(source, destination) / ICMP(type=kind, id=number, seq=1) / b"ping"


def ip(source: str, destination: str, **fields: Any) -> Any:
    """Headers up to layer 3, of the addresses' family."""
    ethernet = Ether(src=MACS.get(source, OUTSIDE_MAC), dst=HOST_MACS.get(source, UPLINK_MAC))
    return ethernet / (IPv6 if is_ipv6(source) else IP)(src=source, dst=destination, **fields)


def is_ipv6(address: str) -> bool:
    return ":" in address


def network_layer(packet: Packet) -> Any:
    """The IP header, of either family."""
    return packet[IPv6] if IPv6 in packet else packet[IP]


def delivered(packet: Packet, to: str) -> Any:
    """The same packet as an instance gets it; lengths and checksums are to be computed anew."""
    fresh = packet.copy()
    fresh[Ether].src, fresh[Ether].dst = HOST_MACS[to], MACS[to]
    return renewed(fresh)


def renewed(packet: Any) -> Any:
    """Without checksums, so that scapy computes them."""
    for layer in (IP, TCP, UDP, ICMP):
        if layer in packet:
            del packet[layer].chksum
    for layer in ICMPV6:
        if layer in packet:
            del packet[layer].cksum
    return packet


class Lab:
    """The installed datapath. `links` are indices of links that exist, by the address of who is behind them."""

    def __init__(self, settings: Settings, links: dict[str, int], **config: Any) -> None:
        self.links = links | {IPV6_OF[address]: index for address, index in links.items()}
        self.settings = settings
        usual = {"pool": POOL, "pool6": POOL6, "mark": MARK, "mark_mask": MARK_MASK}
        wanted = DatapathConfig(**usual | config)
        self.datapath = Datapath.install(settings, wanted)
        self._rules = 0
        self._programs: dict[str, int] = {}

    def close(self) -> None:
        while self._programs:
            os.close(self._programs.popitem()[1])
        self.datapath.close()
        uninstall(self.settings)

    def reset(self) -> None:
        """As after installation."""
        for table in self.datapath.tables():
            table.clear()
        self.datapath.state.put(0, DatapathState(0, 0))
        for ring in (self.datapath.events, self.datapath.control):
            ring.read()
        self._rules = 0

    def populate(self) -> None:
        """Three instances, the node and its resolver; no policy, no service."""
        for ipv4, identity in ((CLIENT, CLIENT_ID), (SERVER, SERVER_ID), (SECOND, SERVER_ID)):
            for address in (ipv4, IPV6_OF[ipv4]):
                self.identify(address, identity)
                self.datapath.endpoints.put(EndpointKey(Address.from_ip(address)), self.endpoint(address, identity))
        for address in (NODE, "127.0.0.0/8", NODE6, "::1", GATEWAY6):
            self.identify(address, HOST_ID)
        for address in (RESOLVER, RESOLVER6):
            self.identify(address, RESOLVER_ID)

    def endpoint(self, address: str, identity: int) -> EndpointValue:
        return EndpointValue(self.links[address], identity, 0, mac(MACS[address]), mac(HOST_MACS[address]))

    def identify(self, network: str, identity: int) -> None:
        length, address = prefix_of(ip_network(network))
        self.datapath.identities.put(IdentityKey(length, address), IdentityValue(identity))

    def serve(
        self,
        *backends: tuple[str, int],
        address: str = VIP,
        port: int = 80,
        protocol: int = TCP_NUMBER,
        service: int = SERVICE,
        first: int = 1,
    ) -> None:
        """A service of these backends; their numbers count from `first`."""
        key = FrontendKey(Address.from_ip(address), port, protocol)
        self.datapath.frontends.put(key, FrontendValue(service, len(backends), 0, 0))
        for slot, (backend, backend_port) in enumerate(backends):
            self.datapath.slots.put(SlotKey(service, slot), first + slot)
            self.set_backend(first + slot, backend, backend_port)

    def set_backend(self, number: int, address: str, port: int, state: BackendState = BackendState.ACTIVE) -> None:
        self.datapath.backends.put(number, BackendValue(Address.from_ip(address), port, state))

    def rule(
        self,
        subject: int,
        direction: Direction,
        verdict: Verdict,
        *,
        peer: int = 0,
        protocol: int = 0,
        port: int = 0,
        bits: int = 16,
        precedence: int = 1,
        flags: PolicyFlags | int = 0,
    ) -> int:
        """One policy entry; `bits` is the length of the port's prefix. Returns the number of its rule."""
        length = POLICY_PREFIX_ANY_PROTOCOL if not protocol else POLICY_PREFIX_ANY_PORT if not port else 80 + bits
        assert length <= POLICY_PREFIX_EXACT
        self._rules += 1
        key = PolicyKey(length, subject, peer, direction, protocol, port)
        self.datapath.policies.put(key, PolicyValue(self._rules, precedence, verdict, flags, 0))
        return self._rules

    def deny_all(self, subject: int, direction: Direction) -> int:
        """Default deny, as a policy that selects the subject brings it."""
        return self.rule(subject, direction, Verdict.DENY, precedence=0)

    def policy_changed(self) -> None:
        generation = self.datapath.state.get(0).generation
        self.datapath.state.put(0, DatapathState(generation + 1, 0))

    def run(
        self, program: str, packet: Packet | bytes, link: str, *, mark: int = 0, segments: int = 0, size: int = 0
    ) -> Result:
        """`segments` and `size` of their payload are those of a packet that is still to be cut."""
        context = bytearray(_CONTEXT)
        struct.pack_into("<I", context, _IFINDEX, self.links[link])
        struct.pack_into("<I", context, _MARK, mark)
        struct.pack_into("<I", context, _GSO_SEGMENTS, segments)
        struct.pack_into("<I", context, _GSO_SIZE, size)
        run = libbpf.prog_test_run(self.program(program), _bytes(packet), ctx=bytes(context))
        return Result(run.retval, run.data_out, struct.unpack_from("<I", run.ctx_out, _MARK)[0])

    def program(self, name: str) -> int:
        """A descriptor, closed with the lab."""
        if name not in self._programs:
            self._programs[name] = libbpf.open_pin(self.datapath.pins.program(name))
        return self._programs[name]

    def from_instance(self, packet: Packet | bytes, link: str = CLIENT, **more: int) -> Result:
        return self.run("from_instance", packet, link, **more)

    def to_instance(self, packet: Packet | bytes, link: str = CLIENT, **more: int) -> Result:
        return self.run("to_instance", packet, link, **more)

    def from_uplink(self, packet: Packet | bytes, **more: int) -> Result:
        return self.run("from_uplink", packet, OUTSIDE, **more)

    def to_uplink(self, packet: Packet | bytes, **more: int) -> Result:
        return self.run("to_uplink", packet, OUTSIDE, **more)

    def events(self) -> list[FlowEvent]:
        return list(self.datapath.events.poll())

    def drops(self) -> dict[tuple[DropReason, Hook], int]:
        """Packets by reason and hook."""
        return {(DropReason(k.reason), Hook(k.hook)): v.packets for k, v in self.datapath.drops.items()}

    def flow(
        self, source: str, destination: str, sport: int, dport: int, protocol: int = TCP_NUMBER
    ) -> FlowValue | None:
        return self.datapath.flows.get(flow_key(source, destination, sport, dport, protocol))

    def change_flow(
        self, source: str, destination: str, sport: int, dport: int, protocol: int = TCP_NUMBER, **to: Any
    ) -> None:
        key = flow_key(source, destination, sport, dport, protocol)
        value = self.datapath.flows.get(key)
        assert value is not None
        self.datapath.flows.put(key, replace(value, **to))

    def flows(self) -> dict[FlowKey, FlowValue]:
        return dict(self.datapath.flows.items())


def flow_key(source: str, destination: str, sport: int, dport: int, protocol: int = TCP_NUMBER) -> FlowKey:
    return FlowKey(Address.from_ip(source), Address.from_ip(destination), sport, dport, protocol)


def _bytes(packet: Packet | bytes) -> bytes:
    return packet if isinstance(packet, bytes) else raw(packet)


def laboratory(settings: Settings, links: dict[str, int], **config: Any) -> Iterator[Lab]:
    """A lab for the length of a test."""
    lab = Lab(settings, links, **config)
    try:
        lab.populate()
        yield lab
    finally:
        lab.close()


def fragments(packet: Any, size: int = 16, number: int = 77) -> list[bytes]:
    """The frame cut into fragments of `size` bytes of payload, of either family."""
    head, load = network_layer(packet), raw(network_layer(packet).payload)
    found = []
    for start in range(0, len(load), size):
        part, more = load[start : start + size], start + size < len(load)
        ethernet = Ether(src=packet[Ether].src, dst=packet[Ether].dst)
        if IPv6 in packet:
            cut = IPv6(src=head.src, dst=head.dst, hlim=head.hlim)
            cut /= IPv6ExtHdrFragment(nh=head.nh, offset=start // 8, m=int(more), id=number)
        else:
            fields = {"id": number, "flags": int(more), "frag": start // 8, "ttl": head.ttl, "proto": head.proto}
            cut = IP(src=head.src, dst=head.dst, **fields)
        found.append(raw(ethernet / cut / part))
    return found
