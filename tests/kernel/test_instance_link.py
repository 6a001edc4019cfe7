"""Links, addresses, routes and neighbours on the real kernel: instances that reach one another over a node."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from whit.base.errors import NotFound, SystemCallError
from whit.base.settings import Settings
from whit.kernel import sysctl
from whit.kernel.network import addresses, instance_link, links, netns, routes
from whit.kernel.network.instance_link import GATEWAY, GATEWAY6, CreateInstanceLink, InstanceLink
from whit.kernel.network.links import CreateHostLink
from whit.kernel.network.netlink import NetlinkSocket
from whit.model.operation import carry_out, take_back

pytestmark = [pytest.mark.root, pytest.mark.machine]

NODE = IPv4Address("198.18.77.1")
HOST_MAC = "0e:58:c6:12:4d:01"


def _wanted(settings: Settings, number: int) -> InstanceLink:
    path = settings.netns_dir / f"instance-{number}"
    return InstanceLink(settings.link(number), path, IPv4Address("198.18.77.10") + number, NODE, mtu=1400)


def _connected(settings: Settings, node: Path, number: int) -> InstanceLink:
    wanted = _wanted(settings, number)
    netns.create(wanted.netns)
    netns.call_in(node, lambda: instance_link.prepare_instance(wanted))
    return wanted


def _listener() -> socket.socket:
    return socket.create_server(("0.0.0.0", 8080))


def _exchange(server: Path, client: Path, address: IPv4Address) -> tuple[str, bytes]:
    """A connection from namespace to namespace: who the server saw, and what the client got."""
    with netns.call_in(server, _listener) as listener:
        listener.settimeout(30)
        with netns.call_in(client, lambda: socket.create_connection((str(address), 8080), timeout=30)) as caller:
            accepted, peer = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
            return peer[0], caller.recv(16)


def _host_link(settings: Settings, node: Path) -> None:
    operation = CreateHostLink(settings.host_link, HOST_MAC, (IPv4Interface(NODE),))
    netns.call_in(node, lambda: links.create_host_link(operation))


def test_two_instances_and_the_node_reach_one_another(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    one, two = _connected(settings, node, 1), _connected(settings, node, 2)
    assert _exchange(two.netns, one.netns, two.address) == (str(one.address), b"hello")
    assert _exchange(one.netns, two.netns, one.address) == (str(two.address), b"hello")
    # The node calls with its own mesh address, and is reached by it.
    assert _exchange(two.netns, node, two.address) == (str(NODE), b"hello")
    assert _exchange(node, one.netns, NODE) == (str(one.address), b"hello")


def test_a_pair_is_what_was_wanted_on_both_sides(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    wanted = _connected(settings, node, 3)
    with NetlinkSocket.inside(node) as outside, NetlinkSocket.inside(wanted.netns) as inside:
        outer, inner = links.by_name(outside, wanted.name), links.by_name(inside, "eth0")
        assert (outer.kind, outer.up, outer.mac, outer.mtu, outer.peer) == (
            "veth",
            True,
            "0e:58:c6:12:4d:0d",
            1400,
            inner.index,
        )
        assert outer.addresses == ()
        assert (inner.kind, inner.up, inner.mac, inner.mtu, inner.peer) == (
            "veth",
            True,
            "0a:58:c6:12:4d:0d",
            1400,
            outer.index,
        )
        assert inner.addresses == (IPv4Interface("198.18.77.13/32"),)
        assert {link.name: link.up for link in links.all_links(inside)}["lo"]
        assert IPv6Interface("::1/128") in links.by_name(inside, "lo").addresses
        assert routes.Route(IPv4Network(wanted.address), outer.index, source=NODE) in routes.main_table(outside)
        default = routes.Route(
            IPv4Network("0.0.0.0/0"), inner.index, gateway=GATEWAY, source=wanted.address, on_link=True
        )
        assert set(routes.main_table(inside)) == {routes.Route(IPv4Network(GATEWAY), inner.index), default}
        with pytest.raises(NotFound):
            links.by_name(outside, "eth0")


def test_neighbours_are_permanent_so_that_nobody_asks_by_arp(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    wanted = _connected(settings, node, 4)
    for path, address, mac in ((node, wanted.address, wanted.inner.mac), (wanted.netns, GATEWAY, wanted.outer.mac)):
        table = netns.call_in(path, Path("/proc/thread-self/net/arp").read_text)
        (line,) = [line.split() for line in table.splitlines() if line.startswith(f"{address} ")]
        assert (line[2], line[3]) == ("0x6", mac)  # ATF_COM | ATF_PERM


def test_settings_of_the_links(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    wanted = _connected(settings, node, 5)
    outside = {
        name: netns.call_in(node, lambda name=name: sysctl.read(f"net/{name}"))
        for name in (
            f"ipv4/conf/{wanted.name}/forwarding",
            f"ipv4/conf/{wanted.name}/rp_filter",
            f"ipv6/conf/{wanted.name}/disable_ipv6",
        )
    }
    assert list(outside.values()) == ["1", "0", "1"]
    assert netns.call_in(wanted.netns, lambda: sysctl.read("net/ipv6/conf/eth0/disable_ipv6")) == "1"
    assert netns.call_in(wanted.netns, lambda: sysctl.read("net/ipv6/conf/lo/disable_ipv6")) == "0"


NODE6 = IPv6Address("fd58::1")


def _connected6(settings: Settings, node: Path, number: int) -> InstanceLink:
    wanted = replace(_wanted(settings, number), address6=IPv6Address("fd58::10") + number, node_address6=NODE6)
    netns.create(wanted.netns)
    netns.call_in(node, lambda: instance_link.prepare_instance(wanted))
    return wanted


def _exchange6(server: Path, client: Path, address: IPv6Address) -> tuple[str, bytes]:
    def listen() -> socket.socket:
        return socket.create_server(("::", 8080), family=socket.AF_INET6)

    with netns.call_in(server, listen) as listener:
        listener.settimeout(30)
        with netns.call_in(client, lambda: socket.create_connection((str(address), 8080), timeout=30)) as caller:
            accepted, peer = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
            return peer[0], caller.recv(16)


def tentative(place: Path) -> list[str]:
    """Addresses that the kernel does not use yet."""
    argv = ["nsenter", f"--net={place}", "ip", "-6", "-oneline", "address", "show", "tentative"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()


def test_both_families_serve_at_once_and_nothing_makes_addresses_by_itself(settings: Settings, node: Path) -> None:
    own = (IPv4Interface(NODE), IPv6Interface(NODE6))
    netns.call_in(node, lambda: links.create_host_link(CreateHostLink(settings.host_link, HOST_MAC, own)))
    one, two = _connected6(settings, node, 1), _connected6(settings, node, 2)
    for place in (node, one.netns, two.netns):
        assert not tentative(place), "an address waits until it is known to be free"
    assert two.address6 is not None
    assert _exchange6(two.netns, node, two.address6) == (str(NODE6), b"hello")
    assert _exchange6(node, one.netns, NODE6) == (str(one.address6), b"hello")
    assert _exchange(two.netns, one.netns, two.address) == (str(one.address), b"hello")
    with NetlinkSocket.inside(node) as outside, NetlinkSocket.inside(two.netns) as inside:
        outer, inner = links.by_name(outside, two.name), links.by_name(inside, "eth0")
        assert outer.addresses == ()
        assert inner.addresses == (IPv4Interface(two.address), IPv6Interface(two.address6))
        assert routes.Route(IPv6Network(two.address6), outer.index, source=NODE6) in routes.main_table(outside)
        everything = IPv6Network("::/0")
        default = routes.Route(everything, inner.index, gateway=GATEWAY6, source=two.address6, on_link=True)
        found = {route for route in routes.main_table(inside) if route.destination.version == 6}
        assert found == {default, routes.Route(IPv6Network(two.address6), inner.index)}


def test_instances_reach_one_another_by_ipv6_where_links_forward(settings: Settings, node: Path) -> None:
    own = (IPv4Interface(NODE), IPv6Interface(NODE6))
    netns.call_in(node, lambda: links.create_host_link(CreateHostLink(settings.host_link, HOST_MAC, own)))
    one, two = _connected6(settings, node, 1), _connected6(settings, node, 2)
    if not netns.call_in(node, lambda: sysctl.exists(f"net/ipv6/conf/{one.name}/force_forwarding")):
        netns.call_in(node, lambda: sysctl.write("net/ipv6/conf/all/forwarding", 1))
    assert two.address6 is not None
    assert _exchange6(two.netns, one.netns, two.address6) == (str(one.address6), b"hello")


def test_a_second_link_of_the_same_name_is_an_error_in_the_kernels_words(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    wanted = _connected(settings, node, 6)
    with pytest.raises(SystemCallError, match=f"create link {wanted.name}: EEXIST") as caught:
        netns.call_in(node, lambda: instance_link.prepare_instance(wanted))
    assert caught.value.errno == 17


def test_a_route_needs_the_nodes_address_and_the_kernel_says_so(settings: Settings, node: Path) -> None:
    with pytest.raises(SystemCallError, match=r"add route 198\.18\.77\.17/32") as caught:
        _connected(settings, node, 7)
    assert "the kernel says: " in caught.value.hint


async def test_operations_leave_nothing(settings: Settings, node: Path) -> None:
    """On the host itself, as the agent runs them."""
    wanted = _wanted(settings, 8)
    operations = [
        CreateHostLink(settings.host_link, HOST_MAC, (IPv4Interface(NODE),)),
        netns.CreateNetns(wanted.netns),
        CreateInstanceLink(wanted),
    ]
    await take_back(operations)
    await carry_out(operations)
    assert socket.if_nametoindex(wanted.name)
    await take_back(operations)
    await take_back(operations)
    for name in (wanted.name, settings.host_link):
        with pytest.raises(OSError, match="no interface"):
            socket.if_nametoindex(name)


def test_a_host_link_of_a_killed_agent_is_replaced(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    _host_link(settings, node)
    with NetlinkSocket.inside(node) as netlink:
        assert links.by_name(netlink, settings.host_link).addresses == (IPv4Interface(NODE),)


def test_a_link_goes_away_with_its_namespace(settings: Settings, node: Path) -> None:
    _host_link(settings, node)
    wanted = _connected(settings, node, 9)
    netns.remove(wanted.netns)
    until = time.monotonic() + 30
    with NetlinkSocket.inside(node) as netlink:
        while any(link.name == wanted.name for link in links.all_links(netlink)):
            assert time.monotonic() < until
            time.sleep(0.02)


_CONNECT_FOR_EVER = """
import sys
from ipaddress import IPv4Address
from pathlib import Path
from whit.kernel.network import instance_link, netns
node, directory, prefix = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
for number in range(200):
    path = directory / f"instance-{number}"
    netns.create(path)
    address = IPv4Address("198.18.77.20") + number
    wanted = instance_link.InstanceLink(f"{prefix}{number}", path, address, IPv4Address("198.18.77.1"))
    netns.call_in(node, lambda: instance_link.prepare_instance(wanted))
"""


def test_an_agent_killed_while_it_connects_leaves_nothing_that_cannot_be_found(settings: Settings, node: Path) -> None:
    """Its namespaces are in one directory, and its links have its prefix; a pair goes with either end."""
    _host_link(settings, node)
    argv = [sys.executable, "-c", _CONNECT_FOR_EVER, str(node), str(settings.netns_dir), settings.link_prefix]
    environment = {"PYTHONPATH": str(Path(links.__file__).parents[3])}
    for delay in (0.004, 0.017, 0.031, 0.06):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as agent:
            try:
                assert agent.stdout is not None
                assert agent.stdout.readline() == b"ready\n"
                time.sleep(delay)
            finally:
                agent.kill()
        for path in netns.kept_in(settings.netns_dir):
            if path != node:
                netns.remove(path)
        with NetlinkSocket.inside(node) as netlink:
            left = [link.name for link in links.all_links(netlink) if link.name.startswith(settings.link_prefix)]
            netlink.execute([links.delete(name) for name in left if name != settings.host_link])
            names = {link.name for link in links.all_links(netlink)} - {"lo"}
        assert {name for name in names if name.startswith("w-")} == {settings.host_link}
    # Nor did it leave an end behind on the host, where none was to be.
    assert not [path for path in Path("/sys/class/net").iterdir() if path.name.startswith(settings.link_prefix)]


def test_many_messages_in_one_call_and_large_dumps(node: Path) -> None:
    many = [IPv4Interface(f"10.{a}.{b}.1/32") for a in range(4) for b in range(250)]
    with NetlinkSocket.inside(node) as netlink:
        netlink.execute([addresses.add(address, 1) for address in many])
        found = links.by_name(netlink, "lo").addresses
        assert set(many) <= set(found)
        netlink.execute([addresses.remove(address, 1) for address in many])
        netlink.execute([addresses.remove(address, 1) for address in many])
        assert links.by_name(netlink, "lo").addresses == ()


def test_messages_after_a_failed_one_are_done_and_the_error_is_of_the_first(node: Path) -> None:
    address = IPv4Interface("10.0.0.1/32")
    with NetlinkSocket.inside(node) as netlink:
        with pytest.raises(SystemCallError, match="set up link 4711: ENODEV"):
            netlink.execute([links.set_up(4711), addresses.add(address, 1)])
        assert links.by_name(netlink, "lo").addresses == (address,)
        netlink.execute([addresses.remove(address, 1)])  # the socket is in step again


def test_routes_that_overlap_a_pool(node: Path) -> None:
    with NetlinkSocket.inside(node) as netlink:
        netlink.execute([links.set_up(1), routes.add(routes.Route(IPv4Network("10.88.0.0/16"), 1))])
        known = routes.main_table(netlink)
        (found,) = routes.overlapping(known, IPv4Network("10.88.7.0/24"))
        assert found.destination == IPv4Network("10.88.0.0/16")
        assert routes.overlapping(known, IPv4Network("10.89.0.0/24")) == []
        assert routes.overlapping(known, IPv4Network("10.88.7.0/24"), ignoring=frozenset({1})) == []
        netlink.execute([routes.remove(found), routes.remove(found)])
        assert routes.overlapping(routes.main_table(netlink), IPv4Network("10.88.7.0/24")) == []


def test_how_long_it_takes(
    settings: Settings,
    node: Path,
    sample: Callable[[int, int], int],
    record_number: Callable[[str, object], None],
) -> None:
    _host_link(settings, node)
    taken: list[tuple[float, float]] = []
    for number in range(20, 20 + sample(20, 200)):
        wanted = _wanted(settings, number)
        started = time.perf_counter()
        netns.create(wanted.netns)
        created = time.perf_counter()
        netns.call_in(node, lambda wanted=wanted: instance_link.prepare_instance(wanted))
        taken.append((created - started, time.perf_counter() - created))
    record_number("netns.create, ms (p50)", round(1e3 * statistics.median(first for first, _ in taken), 2))
    record_number("prepare_instance, ms (p50)", round(1e3 * statistics.median(second for _, second in taken), 2))


def test_a_listener_in_a_namespace_is_not_seen_outside(settings: Settings, node: Path) -> None:
    with netns.call_in(node, _listener), closing(socket.socket()) as outside:
        outside.settimeout(1)
        assert outside.connect_ex(("127.0.0.1", 8080)) != 0 or outside.getpeername() != ("127.0.0.1", 8080)
