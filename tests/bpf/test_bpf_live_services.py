"""Real connections to services whose backend is the client itself, the node, or an instance behind a published port."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from support.live import Live, call, echoing, living
from support.slowness import quick
from support.world import NODE, NODE6, POOL6, UPLINK, UPLINK6

from whit.base.settings import Settings
from whit.datapath.abi import (
    BackendValue,
    DatapathState,
    EndEvent,
    EndpointFlags,
    FlowKey,
    Hook,
    HopEvent,
    HopStep,
)
from whit.datapath.address import Address
from whit.kernel.network import netns

pytestmark = [pytest.mark.root, pytest.mark.machine]

VIPS = (IPv4Address("198.18.77.200"), POOL6[0xFFF0])
BULK = bytes(range(256)) * 4096
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(params=[False, True], ids=["veth", "tap"])
def live(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    with living(settings, "tcx", redirect_peer=True, tap=request.param) as made:
        yield made


def family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def test_an_instance_reaches_itself_through_its_service(live: Live) -> None:
    for vip in VIPS:
        live.serve(vip, 80, 6, 1)
        live.serve(vip, 53, 17, 1)
        for kind, port, data in ((STREAM, 80, BULK), (DATAGRAM, 53, b"question")):
            with echoing(live.place(1), kind, family(vip)) as seen:
                assert call(live.place(1), vip, port, data, kind) == data
            assert [ip_address(peer) for peer in seen] == [vip]


def refused(place: Path, address: IPv4Address | IPv6Address, port: int, kind: socket.SocketKind) -> None:
    with pytest.raises(ConnectionRefusedError):
        call(place, address, port, b"anybody?", kind)


def test_its_own_closed_port_refuses_at_once(live: Live) -> None:
    for vip in VIPS:
        live.serve(vip, 80, 6, 1)
        live.serve(vip, 53, 17, 1)
        for kind, port in ((STREAM, 80), (DATAGRAM, 53)):
            quick(partial(refused, live.place(1), vip, port, kind), 0.9)


def test_an_instance_reaches_a_published_port_by_any_address_of_the_node(live: Live) -> None:
    for address in (NODE, UPLINK.ip, NODE6, UPLINK6.ip):
        live.serve("::" if address.version == 6 else "0.0.0.0", 18080, 6, 2)
        with echoing(live.place(2), STREAM, family(address)):
            assert call(live.place(1), address, 18080, BULK) == BULK
        with echoing(live.world.node, STREAM, family(address)):
            assert call(live.place(1), address, 8080, BULK) == BULK, "the node's own listener"


def test_a_service_may_lead_to_the_node(live: Live) -> None:
    for vip, node in zip(VIPS, (NODE, NODE6), strict=True):
        live.serve(vip, 80, 6, 1)
        live.datapath.backends.put(80, BackendValue(Address.from_ip(node), 8080, 0))
        with echoing(live.world.node, STREAM, family(vip)):
            assert call(live.place(1), vip, 80, BULK) == BULK


def sent_again(live: Live) -> int:
    """Segments that the kernels of both ends have sent once more (RFC 4022, tcpRetransSegs)."""
    return sum(netns.call_in(live.place(number), retransmitted) for number in (1, 2))


def retransmitted() -> int:
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def test_the_end_of_a_real_connection_is_told(live: Live) -> None:
    for vip in VIPS:
        live.serve(vip, 80, 6, 2)
        before = sent_again(live)
        with echoing(live.place(2), STREAM, family(vip)):
            assert call(live.place(1), vip, 80, BULK) == BULK
        ends, again = ended(live), sent_again(live) - before
        assert len(ends) == 1
        # A busy machine may really send something again: not only data, and also after the end was told.
        assert ends[0].retransmits <= again
        assert ends[0].reset == 0
        assert min(ends[0].bytes, ends[0].reply_bytes) > len(BULK)
        assert 0 < ends[0].rtt_us < 20_000_000


def test_a_real_exchange_is_traced_there_and_back(live: Live) -> None:
    """To a tap it passes a second hook, under the addresses that it has got."""
    for vip in VIPS:
        live.serve(vip, 53, 17, 2)
        client, server = (live.world.address6(n) if vip.version == 6 else live.world.address(n) for n in (1, 2))
        tuple_ = FlowKey(Address.from_ip(client), Address.from_ip(vip), 40123, 53, 17)
        live.datapath.traces.put(tuple_, 7)
        live.datapath.state.put(0, DatapathState(0, 1))
        with echoing(live.place(2), DATAGRAM, family(vip)):
            netns.call_in(live.place(1), partial(ask_from, 40123, vip))
        hops = [event for event in live.datapath.events.every() if isinstance(event, HopEvent)]
        entered = [(Hook(hop.hook), hop.source.ip, hop.destination.ip) for hop in hops if hop.step == HopStep.ENTERED]
        there, back = (Hook.FROM_INSTANCE, client, vip), (Hook.FROM_INSTANCE, server, client)
        second = [(Hook.TO_INSTANCE, client, server)], [(Hook.TO_INSTANCE, vip, client)]
        taps = live.flags & EndpointFlags.TAP
        assert entered == [there, *(second[0] if taps else []), back, *(second[1] if taps else [])]
        assert {hop.trace for hop in hops} == {7}


def ask_from(port: int, vip: IPv4Address | IPv6Address) -> None:
    with socket.socket(family(vip), DATAGRAM) as own:
        own.bind(("", port))
        own.settimeout(30)
        own.sendto(b"question", (str(vip), 53))
        assert own.recv(64) == b"question"


def ended(live: Live) -> list[EndEvent]:
    """Waits for one: the last segments of a connection may still be on their way when its ends have let go of it."""
    deadline = time.monotonic() + 30
    found: list[EndEvent] = []
    while not found and time.monotonic() < deadline:
        found = [event for event in live.datapath.events.every() if isinstance(event, EndEvent)]
        time.sleep(0.02)
    return found
