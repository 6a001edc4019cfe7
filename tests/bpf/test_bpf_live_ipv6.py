"""The same real connections in IPv6, and what only real links show: neighbours, sizes, pieces."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from support.live import Live, call, echoing, living
from support.slowness import quick
from support.world import NODE6, OUTSIDE6, UPLINK6

from whit.base.settings import Settings
from whit.datapath.abi import DropReason, Hook
from whit.kernel.network import netns

pytestmark = [pytest.mark.root, pytest.mark.machine]

VIP6 = IPv6Address("fd77::1:0:0:1")
BULK = bytes(range(256)) * 4096
TCP6, UDP6 = (socket.SOCK_STREAM, socket.AF_INET6), (socket.SOCK_DGRAM, socket.AF_INET6)


@pytest.fixture(params=[("tcx", False), ("clsact", True)], ids=["tcx", "clsact, tap"])
def live(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    form, tap = request.param
    with living(settings, form, redirect_peer=True, tap=tap) as made:
        yield made


def run(place: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--net={place}", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def ping(live: Live, number: int, address: IPv6Address, *more: str) -> subprocess.CompletedProcess[str]:
    return run(live.place(number), "ping", "-6", "-c", "2", "-i", "0.05", "-W", "20", *more, str(address))


def test_an_instance_pings_another_a_service_and_the_node(live: Live) -> None:
    live.serve(VIP6, 0, 0, 2)
    for address in (live.world.address6(2), VIP6, NODE6):
        done = ping(live, 1, address)
        assert "2 received" in done.stdout, (address, done.stdout, done.stderr)


@pytest.mark.parametrize("by_service", [True, False])
def test_an_instance_reaches_another(live: Live, by_service: bool) -> None:
    live.serve(VIP6, 80, 6, 2)
    target = (VIP6, 80) if by_service else (live.world.address6(2), 8080)
    with echoing(live.place(2), *TCP6) as seen:
        assert call(live.place(1), *target, BULK) == BULK
    assert seen == [str(live.world.address6(1))]
    (event,) = live.events()
    assert (event.hook, event.source_identity, event.destination_identity) == (Hook.FROM_INSTANCE, 101, 102)


def test_datagrams_to_a_service_also_in_pieces(live: Live) -> None:
    live.serve(VIP6, 53, 17, 2)
    for question in (b"question", bytes(4000)):
        with echoing(live.place(2), *UDP6) as seen:
            assert call(live.place(1), VIP6, 53, question, socket.SOCK_DGRAM) == question
        assert seen == [str(live.world.address6(1))]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_without_backend_refuses_at_once(live: Live, kind: socket.SocketKind) -> None:
    live.serve(VIP6, 80, 6 if kind == socket.SOCK_STREAM else 17, None)

    def refused() -> None:
        with pytest.raises(ConnectionRefusedError):
            call(live.place(1), VIP6, 80, b"anybody?", kind)

    quick(refused, 0.9)


def test_a_closed_port_behind_a_service_refuses(live: Live) -> None:
    live.serve(VIP6, 80, 6, 2)
    live.serve(VIP6, 53, 17, 2)
    with pytest.raises(ConnectionRefusedError):
        call(live.place(1), VIP6, 80, b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        call(live.place(1), VIP6, 53, b"anybody?", socket.SOCK_DGRAM)


def test_the_outside_reaches_a_published_port(live: Live) -> None:
    live.serve("::", 18080, 6, 1)
    with echoing(live.place(1), *TCP6) as seen:
        assert call(live.world.outside, UPLINK6.ip, 18080, BULK) == BULK
    assert seen == [str(OUTSIDE6.ip)]


def test_node_and_instance_reach_each_other(live: Live) -> None:
    with echoing(live.world.node, *TCP6) as seen:
        assert call(live.place(1), NODE6, 8080, BULK) == BULK
    assert seen == [str(live.world.address6(1))]
    with echoing(live.place(1), *TCP6) as seen:
        assert call(live.world.node, live.world.address6(1), 8080, BULK) == BULK
    assert seen == [str(NODE6)]


def test_an_instance_reaches_the_outside(live: Live) -> None:
    live.world.lead_back()
    with echoing(live.world.outside, *TCP6) as seen:
        assert call(live.place(1), OUTSIDE6.ip, 8080, BULK) == BULK
    assert seen == [str(live.world.address6(1))]


def narrow(live: Live, mtu: int) -> None:
    """The second instance's link carries less than the first's, which the first finds out by itself."""
    link = live.world.instances[2]
    for place, name in ((live.world.node, link.name), (live.place(2), link.inner_name)):
        assert run(place, "ip", "link", "set", name, "mtu", str(mtu)).returncode == 0
    netns.call_in(live.world.node, lambda: live.datapath.attach_instance(socket.if_nametoindex(link.name), 2))


@pytest.mark.parametrize("version", [4, 6])
def test_the_sender_learns_the_size_of_a_narrower_link(live: Live, version: int) -> None:
    narrow(live, 1300)
    address = live.world.address6(2) if version == 6 else live.world.address(2)
    first = run(live.place(1), "ping", "-c", "1", "-W", "10", "-M", "do", "-s", "1400", str(address))
    assert "mtu" in (first.stdout + first.stderr).lower()
    assert DropReason.TOO_BIG in {key.reason for key, _ in live.datapath.drops.items()}
    done = run(live.place(1), "ping", "-c", "2", "-i", "0.05", "-W", "20", "-s", "1400", str(address))
    assert "2 received" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_over_a_narrower_link(live: Live, version: int) -> None:
    """With large packets that the kernel cuts by the narrower link's measure, once it knows."""
    narrow(live, 1300)
    address = live.world.address6(2) if version == 6 else live.world.address(2)
    with echoing(live.place(2), socket.SOCK_STREAM, socket.AF_INET6 if version == 6 else socket.AF_INET):
        assert call(live.place(1), address, 8080, BULK) == BULK


def test_the_stack_cuts_what_ipv4_lets_it_cut(live: Live) -> None:
    """To an instance behind a service: the pieces are not judged again, under the address that they have by then."""
    narrow(live, 1300)
    live.serve("198.18.77.200", 0, 0, 2)
    done = run(live.place(1), "ping", "-c", "1", "-W", "20", "-M", "dont", "-s", "1400", "198.18.77.200")
    assert "1 received" in done.stdout, done.stdout + done.stderr
    assert DropReason.TOO_BIG not in {key.reason for key, _ in live.datapath.drops.items()}
