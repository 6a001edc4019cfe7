"""Traces one packet: has the datapath look out for it, sends it from the instance's namespace, and tells its way.

The instance's own stack knows nothing of the packet, so it resets the connection when an answer comes.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal

from whit.base.errors import Conflict, InputError, NotFound, Unavailable
from whit.control.network import NodeNetwork
from whit.datapath import abi
from whit.datapath.address import Address
from whit.kernel.network import frames
from whit.mesh.flows.log import FlowLog
from whit.mesh.flows.naming import HOOKS, REASONS, endpoint_text
from whit.mesh.probe import Probe
from whit.model.flow import Family, Party, Trace, TracedHop
from whit.model.instance import REACHABLE, InstanceStatus
from whit.model.policy import ECHO_REQUESTS, NUMBERS, VERSIONS

PATIENCE = 5.0
"""Seconds to wait for what becomes of the packet: who is asked may be asleep, and the machine busy."""
GRACE = 0.15
"""Seconds after the packet's end: hops of other processors may come a look later."""
INNER_LINK = "eth0"
_A_WORLD_ADDRESS = ("192.0.2.1", "2001:db8::1")
_LAST = {abi.HopStep.DROPPED, abi.HopStep.OUTSIDE}
_HANDED_ON = {abi.HopStep.INSTANCE, abi.HopStep.STACK, abi.HopStep.OUTSIDE}

Ip = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Asked:
    """What is to be sent."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    family: Family = 0
    """0: that of an address that is named, else IPv4."""


class Tracer:
    """Of one node. Several may trace at once."""

    def __init__(self, network: NodeNetwork, flow_log: FlowLog) -> None:
        self.network = network
        self.flow_log = flow_log
        self._active: set[int] = set()

    async def reset(self) -> None:
        """An agent that was killed may have left tuples."""
        self.network.datapath.traces.clear()
        await self.network.set_tracing(0)

    async def trace(self, instances: Sequence[InstanceStatus], asked: Asked) -> Trace:
        """Send, wait and tell.

        Raises:
            NotFound: a name that nobody has. InputError: no such protocol, or no address of the family.
            Unavailable: the source is a guest, whose packets nobody else can send.
        """
        if asked.protocol not in NUMBERS:
            raise InputError(f"protocol {asked.protocol} is not one of {', '.join(NUMBERS)}")
        sender = source_of(instances, asked.source)
        probe = self._probe(sender, self._ends(sender, instances, asked), asked)
        number = self._draw()
        hops: list[abi.HopEvent] = []
        told = asyncio.Event()

        def listener(hop: abi.HopEvent) -> None:
            if hop.trace == number:
                hops.append(hop)
                told.set()

        end = self.flow_log.listen(listener)
        try:
            await self._look_out(number, probe)
            await asyncio.to_thread(frames.send, self._place(sender), INNER_LINK, probe.frame())
            await self._wait(hops, told, probe)
        finally:
            end()
            await self._forget(number)
        told_of = sorted(hops, key=lambda hop: hop.time_ns)
        parties = self._parties(instances, probe)
        return self._told(probe, asked.protocol, told_of, parties)

    # ---- who and where ----

    def _ends(self, sender: InstanceStatus, instances: Sequence[InstanceStatus], asked: Asked) -> tuple[Ip, Ip]:
        """Both of one family."""
        there = self._addresses(instances, asked.destination)
        version = _version(asked, there)
        here = [ip_address(text) for text in (sender.address, sender.address6) if text]
        for addresses, who in ((here, sender.name), (there, asked.destination)):
            if not any(one.version == version for one in addresses):
                raise InputError(f"{who} has no IPv{version} address")
        return tuple(next(one for one in each if one.version == version) for each in (here, there))  # type: ignore[return-value]

    def _addresses(self, instances: Sequence[InstanceStatus], name: str) -> list[Ip]:
        book = self.network.books.addresses
        for one in instances:
            if name in (one.service, f"{one.app}/{one.service}"):
                return _ips(self.network.service_addresses(one.app, one.service))
            if name == one.name:
                return _ips((one.address, one.address6))
        known = {
            "world": _A_WORLD_ADDRESS,
            "host": (book.node, book.node6),
            "resolver": (book.resolver, book.resolver6),
        }
        if addresses := self.network.addresses_of_name(name):
            return _ips(addresses)
        try:
            return _ips(known[name]) if name in known else [ip_address(name)]
        except ValueError:
            services = sorted({f"{one.app}/{one.service}" for one in instances})
            raise NotFound(
                f"{name} is no service, instance or address",
                hint=f"services: {', '.join(services) or 'none'}; or world, host, resolver",
            ) from None

    def _probe(self, sender: InstanceStatus, ends: tuple[Ip, Ip], asked: Asked) -> Probe:
        endpoint = self.network.datapath.endpoints.get(abi.EndpointKey(Address.from_ip(ends[0])))
        if endpoint is None:
            raise Conflict(f"{sender.name} is not connected", hint="`whit ps` shows how it is")
        if endpoint.flags & abi.EndpointFlags.TAP:
            raise Unavailable(
                f"{sender.name} is a guest: only itself can send its packets",
                hint="let it connect, with `whit exec`, and look at `whit flows`; `whit explain` sends nothing",
            )
        ports = self._free_ports(ends, asked)
        return Probe(*ends, *ports, NUMBERS[asked.protocol], endpoint.mac, endpoint.host_mac)

    def _free_ports(self, ends: tuple[Ip, Ip], asked: Asked) -> tuple[int, int]:
        """With a port, or an identifier of ICMP, of which the datapath knows no flow to there."""
        while True:
            drawn = random.randint(1024, 32767)
            ports = drawn, drawn if asked.protocol in ECHO_REQUESTS else asked.port
            if self.network.datapath.flows.get(_key(ends, *ports, NUMBERS[asked.protocol])) is None:
                return ports

    def _place(self, sender: InstanceStatus) -> Path:
        return self.network.settings.netns_dir / sender.name

    # ---- the datapath ----

    def _draw(self) -> int:
        number = random.randint(1, 0xFFFFFFFF)
        self._active.add(number)
        return number

    async def _look_out(self, number: int, probe: Probe) -> None:
        key = _key((probe.source, probe.destination), probe.source_port, probe.destination_port, probe.protocol)
        self.network.datapath.traces.put(key, number)
        await self.network.set_tracing(len(self._active))

    async def _forget(self, number: int) -> None:
        """Also the tuples that the datapath entered on the way."""
        self._active.discard(number)
        traces = self.network.datapath.traces
        traces.delete_many([key for key, value in traces.items() if value == number])
        await self.network.set_tracing(len(self._active))

    async def _wait(self, hops: Sequence[abi.HopEvent], told: asyncio.Event, probe: Probe) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not _is_over(hops, probe):
                    told.clear()
                    await told.wait()
                await asyncio.sleep(GRACE)
        except TimeoutError:
            return

    # ---- in words ----

    def _told(self, probe: Probe, protocol: str, events: Sequence[abi.HopEvent], parties: tuple[Party, Party]) -> Trace:
        back = [_is_back(hop, probe) for hop in events]
        hops = tuple(self._hop(hop, events[0].time_ns, way) for hop, way in zip(events, back, strict=True))
        drop = next((hop for hop in events if hop.step == abi.HopStep.DROPPED and not _is_held(hop)), None)
        reason = REASONS.get(drop.reason) if drop else None
        ruled = [hop for hop in hops if hop.rule] if reason and reason.name.startswith("POLICY") else []
        return Trace(
            source=parties[0],
            destination=parties[1],
            protocol=protocol,
            outcome=_outcome(events, back),
            reason=reason.name if reason else "",
            reason_text=abi.DROP_TEXTS[reason] if reason else "",
            rule=ruled[-1].rule if ruled else 0,
            rule_text=ruled[-1].rule_text if ruled else "",
            hops=hops,
        )

    def _parties(self, instances: Sequence[InstanceStatus], probe: Probe) -> tuple[Party, Party]:
        """The address of a service is nobody's, so the service gives it its name."""
        source = self._party(probe.source, probe.source_port)
        destination = self._party(probe.destination, probe.destination_port)
        for app, service in sorted({(one.app, one.service) for one in instances}):
            if destination.address in map(str, self.network.service_addresses(app, service)):
                destination = destination.model_copy(update={"name": f"{app}/{service}"})
        return source, destination

    def _party(self, address: Ip, port: int) -> Party:
        found = self.network.datapath.identities.get(abi.IdentityKey(128, Address.from_ip(address)))
        identity = found.identity if found else int(abi.ReservedIdentity.WORLD)
        return Party(address=str(address), port=port, identity=identity, name=self._name(identity))

    def _name(self, identity: int) -> str:
        return self.flow_log.words.identities.name(identity)

    def _hop(self, event: abi.HopEvent, began_ns: int, back: bool) -> TracedHop:
        judged = event.step in (abi.HopStep.EGRESS, abi.HopStep.INGRESS)
        return TracedHop(
            step=_STEPS.get(event.step, f"step {event.step}"),
            decision=self._decision(event),
            rule=event.a if judged else 0,
            rule_text=self.flow_log.words.rule(event.a) if judged else "",
            back=back,
            microseconds=(event.time_ns - began_ns) / 1000,
            hook=HOOKS.get(event.hook, str(event.hook)),
            link=self._link(event.ifindex),
            source=endpoint_text(event.source, event.source_port),
            destination=endpoint_text(event.destination, event.destination_port),
        )

    def _decision(self, event: abi.HopEvent) -> str:
        way = (
            f"{endpoint_text(event.source, event.source_port)} -> "
            f"{endpoint_text(event.destination, event.destination_port)}"
        )
        match event.step:
            case abi.HopStep.ENTERED:
                return f"{way} enters from {self._link(event.ifindex)}"
            case abi.HopStep.SENDER:
                return f"the link stands for {self._name(event.a)}"
            case abi.HopStep.KNOWN:
                return f"belongs to a flow that is known ({_flags(event.a) or 'new'})"
            case abi.HopStep.SERVICE:
                return f"a service: balanced to {self._backend(event)}"
            case abi.HopStep.EGRESS | abi.HopStep.INGRESS:
                verdict = "deny" if event.b == abi.Verdict.DENY else "allow"
                return verdict if event.a else f"{verdict}: no policy selects it in this direction"
            case abi.HopStep.TRANSLATED:
                return f"now {way}"
            case abi.HopStep.INSTANCE | abi.HopStep.OUTSIDE:
                return f"{_PLAIN[event.step]} {self._link(event.a)}"
            case abi.HopStep.DROPPED:
                reason = REASONS.get(event.reason)
                return f"{reason.name}: {abi.DROP_TEXTS[reason]}" if reason else f"reason {event.reason}"
            case _:
                return _PLAIN.get(event.step, f"{event.a} {event.b}")

    def _backend(self, event: abi.HopEvent) -> str:
        found = self.network.datapath.backends.get(event.b)
        if found is None:
            return f"backend {event.b}"
        return endpoint_text(found.address, found.port or event.destination_port)

    def _link(self, index: int) -> str:
        try:
            return self.flow_log.words.link(socket.if_indextoname(index))
        except OSError:
            return f"link {index}"


_STEPS = {step.value: step.name.lower() for step in abi.HopStep}
_PLAIN: dict[int, str] = {
    abi.HopStep.REMEMBERED: "a flow is entered",
    abi.HopStep.INSTANCE: "handed to",
    abi.HopStep.STACK: "handed to the node's own stack",
    abi.HopStep.OUTSIDE: "sent out by",
    abi.HopStep.ANSWERED: "the sender is told so",
}


def source_of(instances: Sequence[InstanceStatus], name: str) -> InstanceStatus:
    """A service sends from its first running instance. Raises NotFound, and Conflict if none runs."""
    found = [one for one in instances if name in _names(one)]
    if not found:
        raise NotFound(
            f"{name} is no service or instance", hint="packets are sent from instances; `whit ps` lists them"
        )
    running = [one for one in found if one.state in REACHABLE]
    if not running:
        raise Conflict(f"no instance of {name} runs", hint="`whit ps` shows why")
    return running[0]


def _names(one: InstanceStatus) -> set[str]:
    return {one.name, one.service, f"{one.app}/{one.service}", *filter(None, (one.address, one.address6))}


def _version(asked: Asked, there: Sequence[Ip]) -> int:
    carried = VERSIONS.get(asked.protocol)
    if carried and asked.family not in (0, carried):
        raise InputError(f"{asked.protocol} is of IPv{carried} alone", hint="icmp by IPv4, icmpv6 by IPv6")
    return asked.family or carried or (there[0].version if len(there) == 1 else 4)


def _ips(texts: Iterable[object]) -> list[Ip]:
    return [ip_address(str(text)) for text in texts if text]


def _key(ends: tuple[Ip, Ip], source_port: int, destination_port: int, protocol: int) -> abi.FlowKey:
    return abi.FlowKey(Address.from_ip(ends[0]), Address.from_ip(ends[1]), source_port, destination_port, protocol)


def _is_back(hop: abi.HopEvent, probe: Probe) -> bool:
    """Whether it is a packet towards the sender."""
    sender = Address.from_ip(probe.source)
    return hop.destination == sender and hop.destination_port == probe.source_port


def _is_over(hops: Sequence[abi.HopEvent], probe: Probe) -> bool:
    """It was dropped or left the node, or an answer has come to the sender."""
    return any(
        (hop.step in _LAST and not _is_held(hop)) or (_is_back(hop, probe) and hop.step == abi.HopStep.INSTANCE)
        for hop in hops
    ) or any(hop.step == abi.HopStep.ANSWERED for hop in hops)


def _is_held(hop: abi.HopEvent) -> bool:
    """It is delivered later."""
    return hop.step == abi.HopStep.DROPPED and hop.reason == abi.DropReason.HELD


def _outcome(hops: Sequence[abi.HopEvent], back: Sequence[bool]) -> Literal["answered", "delivered", "dropped", "lost"]:
    if any(hop.step == abi.HopStep.DROPPED and not _is_held(hop) for hop in hops):
        return "dropped"
    if any(way and hop.step in _HANDED_ON for hop, way in zip(hops, back, strict=True)):
        return "answered"
    return "delivered" if any(hop.step in _HANDED_ON for hop in hops) else "lost"


def _flags(value: int) -> str:
    return ", ".join(flag.name.lower() for flag in abi.FlowFlags if flag & value and flag.name)
