"""What the programs in the kernel make of a first packet: it is run through all that it would meet on its way.

The node's own processes are asked for by real sockets, because the kernel runs their programs for nobody else; what
they are given is then the packet's destination.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from support.frames import frame
from support.packet_lab import (
    CLIENT,
    HOST_MACS,
    MACS,
    OUTSIDE_MAC,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    UNSPEC,
    UPLINK_MAC,
    Lab,
    Result,
    mac,
)
from support.random_mesh import OF_NODE
from whit.datapath.abi import DropReason, EndpointKey, FlowEvent, PolicyFlags
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.kernel.network import addresses, links, netns, routes
from whit.kernel.network.links import End
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.network.routes import Route
from whit.mesh.flows.naming import deciding_rule
from whit.mesh.policy.explain import Dump, Question
from whit.model.flow import Explanation

_SO_COOKIE = 57
_SILENT = (DropReason.POLICY_EGRESS, DropReason.POLICY_INGRESS, DropReason.SPOOFED_ADDRESS)


@dataclass(frozen=True)
class Case:
    question: Question
    source_port: int


@dataclass(frozen=True)
class Decision:
    """The event of the program that decided, if one did; and whom the packet is then for."""

    event: FlowEvent | None
    destination: str
    port: int


def told(decision: Decision) -> dict[str, object]:
    """In the words of an explanation."""
    event = decision.event
    found: dict[str, object] = {
        "verdict": verdict_of(event),
        "reason": DropReason(event.reason).name if event and event.reason else "",
        "rule": deciding_rule(event) if event else 0,
        "destination": decision.destination,
    }
    if event is None or event.protocol in (TCP_NUMBER, UDP_NUMBER):
        found["port"] = decision.port
    if event and event.reason not in (DropReason.SPOOFED_ADDRESS, DropReason.NO_BACKEND):
        found["identities"] = event.source_identity, event.destination_identity
    return found


def verdict_of(event: FlowEvent | None) -> str:
    if event and event.reason:
        return "deny"
    return "audit" if event and event.flags & PolicyFlags.AUDIT else "allow"


def foretold(found: Explanation) -> dict[str, object]:
    """All that may have been told."""
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "rule": found.rule,
        "destination": found.destination.address,
        "port": found.destination.port,
        "identities": (found.source.identity, found.destination.identity),
    }


def narrowed(dump: Dump, decision: Decision, question: Question) -> Dump:
    """With no other backend than the one that the kernel chose."""
    if (decision.destination, decision.port) == (question.destination, question.port):
        return dump
    chosen = Address.from_ip(decision.destination)
    numbers = {number for number, value in dump.backends.items() if value.address == chosen}
    return replace(dump, slots={key: number for key, number in dump.slots.items() if number in numbers})


class Kernel:
    """All instances are behind the lab's link of the client."""

    def __init__(self, lab: Lab, node: Path) -> None:
        """`node` is a namespace from `node_namespace`."""
        self.lab, self.node = lab, node

    def answer(self, case: Case) -> Decision:
        asked = case.question
        if self._is_endpoint(asked.source):
            return self._decided(self.lab.from_instance(self._frame(case, MACS[CLIENT], HOST_MACS[CLIENT])))
        if asked.source in OF_NODE:
            return self._of_node(case)
        result = self.lab.from_uplink(self._frame(case, OUTSIDE_MAC, UPLINK_MAC))
        return self._routed(case) if result.action == UNSPEC else self._decided(result)

    def _of_node(self, case: Case) -> Decision:
        asked = case.question
        if asked.protocol not in (TCP_NUMBER, UDP_NUMBER):
            return self._routed(case)
        given = netns.call_in(self.node, lambda: connected(self.lab.datapath, asked))
        if given is None:
            (event,) = self.lab.events()
            return Decision(event, str(event.destination), event.destination_port)
        return self._routed(Case(Question(asked.source, *given, asked.protocol), case.source_port))

    def _routed(self, case: Case) -> Decision:
        """By the node's stack."""
        asked = case.question
        if self._is_endpoint(asked.destination):
            return self._decided(self.lab.to_instance(self._frame(case, HOST_MACS[CLIENT], MACS[CLIENT])))
        return Decision(None, asked.destination, asked.port)

    def _frame(self, case: Case, source: str, destination: str) -> bytes:
        asked = case.question
        macs = mac(destination), mac(source)
        return frame(macs, asked.source, asked.destination, asked.protocol, case.source_port, asked.port)

    def _decided(self, result: Result) -> Decision:
        (event,) = self.lab.events()
        assert (result.action == SHOT) <= bool(event.reason), event
        assert (result.action == SHOT) or event.reason not in _SILENT, event
        return Decision(event, str(event.destination), event.destination_port)

    def _is_endpoint(self, address: str) -> bool:
        return self.lab.datapath.endpoints.get(EndpointKey(Address.from_ip(address))) is not None


def connected(datapath: Datapath, asked: Question) -> tuple[str, int] | None:
    """Where a socket of the node goes that asks for this; None if it is refused."""
    family = socket.AF_INET6 if ":" in asked.destination else socket.AF_INET
    kind = socket.SOCK_STREAM if asked.protocol == TCP_NUMBER else socket.SOCK_DGRAM
    with socket.socket(family, kind) as own:
        own.setblocking(False)
        failed = own.connect_ex((asked.destination, asked.port))
        cookie = int.from_bytes(own.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
    found = datapath.sockets.get(cookie)
    if failed == errno.ECONNREFUSED and found is None:
        return None
    assert failed in (0, errno.EINPROGRESS, errno.ECONNREFUSED), (asked, errno.errorcode[failed])
    return (str(found.backend), found.backend_port) if found else (asked.destination, asked.port)


@contextmanager
def node_namespace(path: Path) -> Iterator[int]:
    """A namespace from which every address has a route, to nowhere. Yields its cookie."""
    netns.create(path)
    try:
        with NetlinkSocket.inside(path) as netlink, netns.opened(path) as descriptor:
            ends = End("up0", "02:00:00:00:0a:01"), End("nowhere", "02:00:00:00:0a:02")
            netlink.execute([links.create_veth(*ends, mtu=1500, netns=descriptor)])
            indices = [links.by_name(netlink, end.name).index for end in ends]
            netlink.execute([links.set_up(index) for index in (1, *indices)])
            own = (IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))
            netlink.execute([addresses.add(address, indices[0]) for address in own])
            everywhere = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
            netlink.execute([routes.add(Route(network, indices[0])) for network in everywhere])
        yield netns.call_in(path, netns.cookie)
    finally:
        netns.remove(path)
