"""A service with two instances on a node of its own, and a machine outside: the mesh's tables in the real datapath."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from mesh.compiled import compiled
from support.slowness import patient, quick
from support.world import OUTSIDE, UPLINK, World, world

from whit.base.settings import Settings
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.kernel import cgroup as groups
from whit.kernel.cgroup import Hierarchies
from whit.kernel.network import links, netns
from whit.kernel.network.netlink import NetlinkSocket
from whit.mesh import network, node, services, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.flows.log import FlowLog
from whit.mesh.policy.explain import Dump, Question, explain
from whit.model.app import AppSpec
from whit.model.flow import Flow
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec, NetworkSpec
from whit.tools.nft import InstallMasquerade, Masquerade

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(90)]

BOOK = AddressBook(pool="198.18.0.0/16")
VIP = "198.18.128.1"
IMAGE = Image(name="i", digest="sha256:0", config=ImageConfig(), layers=(Path("/l"),), size=0)
APP = AppSpec.model_validate(
    {
        "name": "site",
        "directory": "/",
        "services": {
            "web": {
                "image": "i",
                "uses": [{"service": "web", "port": 8080}, {"entity": "world"}],
                "ports": [
                    {"target": 8080, "published": 18080},
                    {"target": 8080, "published": 18080, "protocol": "udp"},
                ],
            }
        },
    }
)
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
PATIENCE = patient(20)


class Site:
    """Instances 1 and 2 of site/web, and who may reach them."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.settings = settings
        config = DatapathConfig(BOOK.network, netns_cookie=netns.call_in(world.node, netns.cookie))
        self.datapath = Datapath.install(settings, config)
        self.identities = compiled([APP]).identities
        self.log = FlowLog()
        self.log.words.identities = self.identities

    def set_up(self) -> None:
        self.govern(APP)
        self.balance()
        self.world.on_node(self._guard)

    def govern(self, app: AppSpec) -> None:
        found = compiled([app], known=self.identities)
        self.log.words.rules = found.rules.texts()
        tables.write_policy(self.datapath, found.table)

    def balance(self, draining: Sequence[int] = ()) -> None:
        backends = tuple(
            services.Backend(number << 16, str(link.address), "leaving" if number in draining else "active")
            for number, link in self.world.instances.items()
        )
        service = services.Service(0x8001, (VIP,), APP.services["web"].ports, backends)
        tables.ServiceMaps(self.datapath).write([service])

    async def _guard(self) -> None:
        with NetlinkSocket() as netlink:
            found = links.all_links(netlink)
        known = node.node_identities(BOOK, found, {})
        number = self.identities.number("site/web")
        known |= node.service_identities({str(link.address): number for link in self.world.instances.values()})
        tables.IdentityMap(self.datapath).write(known)
        for name, index in node.uplinks(found, self.settings).items():
            self.datapath.attach_uplink(index, name)
        for each, link in self.world.instances.items():
            await network.Guard(self.datapath, self._spec(each), link).do()

    def _spec(self, number: int) -> InstanceSpec:
        return InstanceSpec(
            app="site",
            service="web",
            index=number,
            image=IMAGE,
            args=("x",),
            env={},
            hostname=f"web-{number}",
            revision="1",
            network=NetworkSpec(
                number=number,
                address=str(self.world.address(number)),
                identity=self.identities.number("site/web"),
                service_address=VIP,
            ),
        )

    def place(self, number: int) -> Path:
        return self.world.instances[number].netns

    def flows(self) -> list[Flow]:
        self.log.collect(self.datapath.events)
        return self.log.past(lambda one: one.kind == "flow")

    def verdict(self, source: str, target: str, port: int) -> str:
        question = Question(source, target, port, 6)
        return explain(Dump.of(self.datapath), question, self.identities.name, self.log.words.rule).verdict


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with world(settings) as made:
        try:
            site = Site(made, settings)
            with contextlib.closing(site.datapath):
                site.set_up()
                yield site
        finally:
            uninstall(settings)


@contextmanager
def echoing(place: Path, name: str, kind: socket.SocketKind = STREAM) -> Iterator[list[str]]:
    """A server on port 8080 that says its name and then what it hears; yields the addresses that it sees."""
    seen: list[str] = []
    server = opened(place, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", 8080))
    if kind == STREAM:
        server.listen()
    target = _answer_streams if kind == STREAM else _answer_datagrams
    thread = threading.Thread(target=target, args=(server, name.encode(), seen), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        with contextlib.suppress(OSError):  # a datagram socket is not connected, but it wakes up all the same
            server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        server.close()
        assert not thread.is_alive()


def opened(place: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket of a namespace, whoever uses it."""
    made = netns.call_in(place, lambda: socket.socket(socket.AF_INET, kind))
    made.settimeout(PATIENCE)
    return made


def _answer_streams(server: socket.socket, name: bytes, seen: list[str]) -> None:
    server.settimeout(None)
    with contextlib.suppress(OSError):
        while True:
            connection, peer = server.accept()
            seen.append(peer[0])
            threading.Thread(target=_echo, args=(connection, name), daemon=True).start()


def _echo(connection: socket.socket, name: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(3 * PATIENCE)
        connection.sendall(name)
        while data := connection.recv(1 << 18):
            connection.sendall(data)


def _answer_datagrams(server: socket.socket, name: bytes, seen: list[str]) -> None:
    server.settimeout(None)
    with contextlib.suppress(OSError):
        while True:
            data, peer = server.recvfrom(65535)
            if not data:
                return
            seen.append(peer[0])
            server.sendto(name + data, peer)


@contextmanager
def connected(place: Path, address: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """With the name of who answered."""
    with opened(place, STREAM) as client:
        client.connect((address, port))
        yield client, client.recv(1).decode()


def ask(client: socket.socket, data: bytes) -> bytes:
    """Send, and return as many bytes as were sent."""
    writer = threading.Thread(target=client.sendall, args=(data,), daemon=True)
    writer.start()
    answer = bytearray()
    while len(answer) < len(data) and (part := client.recv(1 << 18)):
        answer += part
    writer.join(PATIENCE)
    return bytes(answer)


def test_the_outside_reaches_a_published_port_and_is_seen_as_itself(site: Site) -> None:
    assert site.verdict(str(OUTSIDE.ip), str(UPLINK.ip), 18080) == "allow"
    with echoing(site.place(1), "1") as one, echoing(site.place(2), "2") as two:
        for _ in range(12):
            with connected(site.world.outside, str(UPLINK.ip), 18080) as (client, _):
                assert ask(client, b"hello") == b"hello"
    assert set(one + two) == {str(OUTSIDE.ip)}
    assert len(one + two) == 12
    assert {(flow.source.name, flow.destination.name, flow.rule_text) for flow in site.flows()} == {
        ("world", "site/web", "site/web publishes port 8080/tcp")
    }


def test_the_outside_asks_a_published_port_by_datagrams(site: Site) -> None:
    with (
        echoing(site.place(1), "1", DATAGRAM) as one,
        echoing(site.place(2), "2", DATAGRAM) as two,
        opened(site.world.outside, DATAGRAM) as client,
    ):
        client.connect((str(UPLINK.ip), 18080))
        answers = set()
        for number in range(10):
            client.send(b"%d" % number)
            answer = client.recv(64)
            assert answer[1:] == b"%d" % number
            answers.add(answer[:1])
    assert len(answers) == 1, "one flow, one backend"
    assert set(one + two) == {str(OUTSIDE.ip)}


def test_a_port_that_is_not_published_is_not_reached(site: Site) -> None:
    target = (str(UPLINK.ip), 8080)
    with (
        echoing(site.place(1), "1") as seen,
        opened(site.world.outside, STREAM) as client,
        pytest.raises(ConnectionRefusedError),
    ):
        client.connect(target)
    assert not seen


CHILD = """
import json, os, pathlib, socket, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
with socket.create_connection((sys.argv[2], 18080), timeout=30) as client:
    print(json.dumps([client.recv(1).decode(), client.getpeername()]))
"""


@pytest.fixture
def cgroup(settings: Settings) -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("there is no cgroup2 hierarchy")
    path = root / settings.cgroup.lstrip("/")
    groups.create(Hierarchies({}, root), settings.cgroup)
    yield path
    path.rmdir()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


@pytest.mark.parametrize("address", ["127.0.0.1", str(UPLINK.ip)])
def test_the_node_reaches_its_published_port(cgroup: Path, site: Site, address: str) -> None:
    site.datapath.attach_host_sockets(cgroup)
    with echoing(site.place(1), "1") as one, echoing(site.place(2), "2") as two:
        argv = ["nsenter", f"--net={site.world.node}", sys.executable, "-c", CHILD, str(cgroup), address]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    name, peer = json.loads(done.stdout)
    assert peer == [address, 18080], "the process sees what it asked for"
    assert len(one if name == "1" else two) == 1
    (flow,) = site.flows()
    assert (flow.source.name, flow.rule_text) == ("host", "site/web publishes port 8080/tcp")


def masquerade(site: Site) -> None:
    wanted = Masquerade(site.settings.nft_table, BOOK.network, (BOOK.network,), site.settings.link_prefix)
    site.world.on_node(InstallMasquerade(wanted).do)


def test_the_outside_sees_the_nodes_address_not_the_instances(site: Site) -> None:
    """It knows no route to the pool: without masquerade nothing would come back."""
    masquerade(site)
    with (
        echoing(site.world.outside, "o") as seen,
        connected(site.place(1), str(OUTSIDE.ip), 8080) as (client, name),
    ):
        assert ask(client, b"x" * 1_000_000) == b"x" * 1_000_000
    assert (name, seen) == ("o", [str(UPLINK.ip)])
    (flow,) = site.flows()
    assert (flow.source.name, flow.destination.name, flow.rule_text) == (
        "site/web",
        "world",
        "site/web uses world",
    )


def test_an_icmp_error_from_outside_finds_the_instance(site: Site) -> None:
    masquerade(site)
    with opened(site.place(1), DATAGRAM) as client:
        client.connect((str(OUTSIDE.ip), 18079))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(64)


def test_an_icmp_error_from_an_instance_comes_from_whom_the_outside_asked(site: Site) -> None:
    """No server is there; a connected socket takes only errors about what it sent itself."""
    with opened(site.world.outside, DATAGRAM) as client:
        client.connect((str(UPLINK.ip), 18080))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(64)


def test_a_narrow_uplink_is_told_to_the_instance(site: Site) -> None:
    """ "Fragmentation needed" of the node itself: its stack sends it to an instance whose link is wider."""
    masquerade(site)
    for place, name in ((site.world.node, "up0"), (site.world.outside, "eth0")):
        argv = ["nsenter", f"--net={place}", "ip", "link", "set", name, "mtu", "1300"]
        subprocess.run(argv, check=True, capture_output=True)
    with opened(site.place(1), DATAGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO of <linux/in.h>
        client.connect((str(OUTSIDE.ip), 18079))
        client.send(bytes(1400))
        with pytest.raises(OSError) as caught:
            client.recv(64)
        assert caught.value.errno == 90  # EMSGSIZE
        assert client.getsockopt(socket.IPPROTO_IP, 14) == 1300  # IP_MTU


def test_who_drains_keeps_its_flow_and_gets_no_new_ones(site: Site) -> None:
    with echoing(site.place(1), "1") as one, echoing(site.place(2), "2") as two:
        with connected(site.world.outside, str(UPLINK.ip), 18080) as (client, name):
            leaving, others = (1, two) if name == "1" else (2, one)
            site.balance(draining=[leaving])
            before = len(others)
            for _ in range(20):
                with connected(site.world.outside, str(UPLINK.ip), 18080) as (_, answered):
                    assert answered != name
            assert ask(client, b"still here") == b"still here"
        assert len(others) == before + 20
    site.balance(draining=[1, 2])

    def refused() -> None:
        with opened(site.world.outside, STREAM) as late, pytest.raises(ConnectionRefusedError):
            late.connect((str(UPLINK.ip), 18080))

    quick(refused, 0.9)


def test_a_port_that_is_published_no_more_ends_open_connections(site: Site) -> None:
    web = APP.services["web"].model_copy(update={"ports": ()})
    with (
        echoing(site.place(1), "1"),
        echoing(site.place(2), "2"),
        connected(site.world.outside, str(UPLINK.ip), 18080) as (client, _),
    ):
        assert ask(client, b"hello") == b"hello"
        site.govern(APP.model_copy(update={"services": {"web": web}}))
        client.settimeout(1)
        # What is sent again is dropped, or reset by the node's own stack, which knows of no such connection.
        with pytest.raises((TimeoutError, ConnectionResetError)):
            ask(client, b"more")
    # Neither end can go on, although the instance may use the world: it would have to begin a connection of its own.
    into = [flow for flow in site.flows() if flow.destination.name == "site/web"]
    assert into[0].verdict == "allow"
    assert {(cut.reason, cut.source.name) for cut in into[1:]} == {("POLICY_INGRESS", "world")}
    assert {cut.hook for cut in into[1:]} == {"from-uplink", "from-instance"}


def test_a_policy_change_that_lets_a_flow_be_does_not_disturb_it(site: Site) -> None:
    """Each flow is asked about again, while it carries bytes."""
    app = APP.model_copy(update={"services": {"web": APP.services["web"].model_copy(update={"uses": ()})}})
    with (
        echoing(site.place(1), "1"),
        echoing(site.place(2), "2"),
        connected(site.world.outside, str(UPLINK.ip), 18080) as (client, _),
    ):
        for number in range(20):
            site.govern(app if number % 2 else APP)
            assert ask(client, bytes(100_000)) == bytes(100_000)
    assert {flow.verdict for flow in site.flows()} == {"allow"}


@pytest.mark.slow
def test_50_megabytes_through_a_service_arrive_whole(site: Site, record_number: Callable[[str, object], None]) -> None:
    data = bytes(range(256)) * (50 * 4096)
    site.balance(draining=[1])
    with echoing(site.place(2), "2") as seen, connected(site.place(1), VIP, 8080) as (client, name):
        began = time.monotonic()
        assert ask(client, data) == data
        record_number("MB/s there and back through a service", round(50 / (time.monotonic() - began)))
    assert (name, seen) == ("2", [str(site.world.address(1))])


def test_a_forged_source_is_dropped_and_told(site: Site) -> None:
    victim = site.world.address(2)
    packet = udp_packet(str(victim), str(OUTSIDE.ip))
    _send_raw(site.place(1), packet, str(OUTSIDE.ip))
    (flow,) = site.flows()
    assert (flow.verdict, flow.reason, flow.source.address) == ("deny", "SPOOFED_ADDRESS", str(victim))


def test_nobody_outside_has_an_address_of_the_pool(site: Site) -> None:
    source = site.world.address(2)
    _send_raw(site.world.outside, udp_packet(str(source), str(UPLINK.ip)), str(UPLINK.ip))
    (flow,) = site.flows()
    assert (flow.verdict, flow.reason, flow.hook) == ("deny", "SPOOFED_ADDRESS", "from-uplink")


def udp_packet(source: str, destination: str) -> bytes:
    """The kernel fills in length and sum of the IP header (raw(7))."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    return header + struct.pack("!HHHH", 40000, 18080, 12, 0) + b"lies"


def _send_raw(place: Path, packet: bytes, target: str) -> None:
    made = netns.call_in(place, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    with made:
        made.sendto(packet, (target, 0))
