"""Processes of the node itself: their sockets go to backends, and are told of services."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.packet_lab import HOST_ID, TCP_NUMBER, UDP_NUMBER, VIP, VIP6, Lab, laboratory

from whit.base.settings import Settings
from whit.datapath.abi import DropReason, Hook, Verdict
from whit.kernel import cgroup as groups
from whit.kernel.cgroup import Hierarchies

pytestmark = [pytest.mark.root, pytest.mark.machine]

# Joins the cgroup before it opens a socket, runs its argument, and prints the result as JSON.
CHILD = """
import json, os, pathlib, socket, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
socket.setdefaulttimeout(30)
server = socket.create_server(("127.0.0.1", 0))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
server6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
datagrams6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams6.bind(("::1", 0))
print(json.dumps([s.getsockname()[1] for s in (server, datagrams, server6, datagrams6)]), flush=True)
sys.stdin.readline()
try:
    print(json.dumps(eval(sys.argv[2])))
except OSError as error:
    print(json.dumps(type(error).__name__))
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
    with suppress(OSError):
        path.parent.rmdir()


@pytest.fixture
def socket_lab(settings: Settings, lab_links: dict[str, int], cgroup: Path) -> Iterator[Lab]:
    for lab in laboratory(settings, lab_links):
        lab.datapath.attach_host_sockets(cgroup)
        yield lab


class Child:
    """A process in the cgroup, that waits before it runs `expression`; `tcp` and the like are ports it serves."""

    def __init__(self, cgroup: Path, expression: str) -> None:
        argv = [sys.executable, "-c", CHILD, str(cgroup), expression]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.tcp, self.udp, self.tcp6, self.udp6 = json.loads(self.process.stdout.readline())

    def finish(self) -> object:
        try:
            output, _ = self.process.communicate("\n", timeout=60)
            return json.loads(output)
        finally:
            self.process.kill()
            self.process.wait()


CONNECT = "(lambda s: [s.getpeername()])(socket.create_connection({!r}))[0]"


@pytest.mark.parametrize(
    ("frontend", "asked"), [(VIP, VIP), ("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "192.0.2.1"), ("192.0.2.1", "192.0.2.1")]
)
def test_connect_goes_to_a_backend_and_shows_the_service(
    socket_lab: Lab, cgroup: Path, frontend: str, asked: str
) -> None:
    child = Child(cgroup, CONNECT.format((asked, 80)))
    socket_lab.serve(("127.0.0.1", child.tcp), address=frontend)
    assert child.finish() == [asked, 80]
    (value,) = [value for _, value in socket_lab.datapath.sockets.items()]
    assert (str(value.address), value.port, str(value.backend), value.backend_port) == (
        asked,
        80,
        "127.0.0.1",
        child.tcp,
    )


def test_a_service_without_backend_refuses(socket_lab: Lab, cgroup: Path) -> None:
    child = Child(cgroup, CONNECT.format((VIP, 80)))
    socket_lab.serve()
    assert child.finish() == "ConnectionRefusedError"
    assert socket_lab.drops() == {(DropReason.NO_BACKEND, Hook.SOCKET): 1}
    (event,) = socket_lab.events()
    assert (event.verdict, str(event.service), event.service_port) == (Verdict.DENY, VIP, 80)
    assert (event.source_identity, event.protocol) == (HOST_ID, TCP_NUMBER)


def test_datagrams_go_to_a_backend_and_seem_to_come_from_the_service(socket_lab: Lab, cgroup: Path) -> None:
    expression = (
        "(lambda s: [s.sendto(b'hi', ('10.7.128.1', 53)), (lambda d: datagrams.sendto(*d))(datagrams.recvfrom(9)),"
        " s.recvfrom(9)[1]])(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))[2]"
    )
    child = Child(cgroup, expression)
    socket_lab.serve(("127.0.0.1", child.udp), port=53, protocol=UDP_NUMBER)
    assert child.finish() == [VIP, 53]


def test_datagrams_to_a_service_without_backend_are_refused(socket_lab: Lab, cgroup: Path) -> None:
    child = Child(cgroup, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hi', ('10.7.128.1', 53))")
    socket_lab.serve(port=53, protocol=UDP_NUMBER)
    assert child.finish() == "ConnectionRefusedError"


def test_other_addresses_are_left_alone(socket_lab: Lab, cgroup: Path) -> None:
    child = Child(cgroup, "(lambda s: s.getpeername())(socket.create_connection(server.getsockname()))")
    socket_lab.serve(address="0.0.0.0")
    assert child.finish() == ["127.0.0.1", child.tcp]
    assert list(socket_lab.datapath.sockets.items()) == []


def test_answers_of_others_keep_their_address(socket_lab: Lab, cgroup: Path) -> None:
    """A socket that asked a service and then somebody else."""
    expression = (
        "(lambda s, t: [s.sendto(b'hi', ('10.7.128.1', 53)), t.bind(('127.0.0.1', 0)),"
        " t.sendto(b'other', ('127.0.0.1', s.getsockname()[1])), s.recvfrom(9)[1] == t.getsockname()])"
        "(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM))[3]"
    )
    child = Child(cgroup, expression)
    socket_lab.serve(("127.0.0.1", child.udp), port=53, protocol=UDP_NUMBER)
    assert child.finish() is True


def test_another_namespace_is_none_of_ours(settings: Settings, lab_links: dict[str, int], cgroup: Path) -> None:
    """What the datapath takes for the node's is not where the child is: it is neither refused nor balanced."""
    for lab in laboratory(settings, lab_links, netns_cookie=1 << 40):
        lab.datapath.attach_host_sockets(cgroup)
        child = Child(cgroup, "socket.create_connection(server.getsockname()).getpeername()")
        lab.serve(address="127.0.0.1", port=child.tcp)
        assert child.finish() == ["127.0.0.1", child.tcp]
        assert lab.drops() == {}


@pytest.mark.parametrize(("frontend", "asked"), [(VIP6, VIP6), ("::", "::1"), ("::", "2001:db8::1")])
def test_connect_in_ipv6(socket_lab: Lab, cgroup: Path, frontend: str, asked: str) -> None:
    child = Child(cgroup, CONNECT.format((asked, 80)))
    socket_lab.serve(("::1", child.tcp6), address=frontend)
    assert child.finish() == [asked, 80, 0, 0]
    (value,) = [value for _, value in socket_lab.datapath.sockets.items()]
    assert (str(value.address), value.port, str(value.backend), value.backend_port) == (asked, 80, "::1", child.tcp6)


MAPPED = f"::ffff:{VIP}"
SOCKET6 = "socket.socket(socket.AF_INET6, socket.SOCK_{})"


def test_an_ipv6_socket_asks_an_ipv4_service(socket_lab: Lab, cgroup: Path) -> None:
    expression = f"(lambda s: [s.connect(({MAPPED!r}, 80)), s.getpeername()])({SOCKET6.format('STREAM')})[1]"
    child = Child(cgroup, expression)
    socket_lab.serve(("127.0.0.1", child.tcp))
    assert child.finish() == [MAPPED, 80, 0, 0]


def test_an_ipv6_service_without_backend_refuses(socket_lab: Lab, cgroup: Path) -> None:
    child = Child(cgroup, CONNECT.format((VIP6, 80)))
    socket_lab.serve(("127.0.0.1", child.tcp), address=VIP6)
    assert child.finish() == "ConnectionRefusedError"
    (event,) = socket_lab.events()
    assert (str(event.source), str(event.service)) == ("::", VIP6)


@pytest.mark.parametrize(
    ("asked", "frontend", "backend", "server"),
    [(VIP6, VIP6, "::1", "datagrams6"), (MAPPED, VIP, "127.0.0.1", "datagrams")],
    ids=["IPv6", "v4-mapped"],
)
def test_datagrams_of_an_ipv6_socket(
    socket_lab: Lab, cgroup: Path, asked: str, frontend: str, backend: str, server: str
) -> None:
    expression = (
        f"(lambda s: [s.sendto(b'hi', ({asked!r}, 53)), (lambda d: {server}.sendto(*d))({server}.recvfrom(9)),"
        f" s.recvfrom(9)[1]])({SOCKET6.format('DGRAM')})[2]"
    )
    child = Child(cgroup, expression)
    port = child.udp6 if server == "datagrams6" else child.udp
    socket_lab.serve((backend, port), address=frontend, port=53, protocol=UDP_NUMBER)
    assert child.finish() == [asked, 53, 0, 0]
