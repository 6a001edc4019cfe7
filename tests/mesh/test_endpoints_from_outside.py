"""Published ports whose backends are no instances, asked from outside: the answer comes from where the question went.

Backends are a namespace `far`, one hop from the node by another link; the node itself; and the client itself.
"""

from __future__ import annotations

import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.service_site import REFUSED, SERVER, TCP, UDP, ServiceSite, edge_addresses, sh, until

from whit.base.settings import Settings
from whit.datapath.abi import Hook
from whit.datapath.address import Address
from whit.kernel.network import netns

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]

PUBLISHED = random.randrange(20_000, 32_000)
"""Of this run: the node has one of each."""
PORT = random.randrange(18_100, 20_000)
"""What backends listen on; on the node too."""

families = pytest.mark.parametrize("family", [4, 6])
kinds = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])


class FarSite(ServiceSite):
    """With somebody else outside, by another link of the node."""

    def __enter__(self) -> FarSite:
        self.beyond = edge_addresses(f"{self.settings.id}far")
        super().__enter__()
        try:
            for name, place in (("far", self.far), ("node", None), ("outside", self.outside)):
                self._serve(name, place)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "del", f"{self.settings.id}fr"], capture_output=True, check=False)
        super().__exit__()

    @property
    def far(self) -> Path:
        return self.settings.netns_dir / "far"

    def _connect_outside(self) -> None:
        super()._connect_outside()
        netns.create(self.far)
        link, inside = f"{self.settings.id}fr", ["nsenter", f"--net={self.far}", "ip"]
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.far))
        sh("ip", "link", "set", link, "up")
        sh(*inside, "link", "set", "eth0", "up")
        for family, (node, other) in self.beyond.items():
            options = ["nodad"] if family == 6 else []
            length = 64 if family == 6 else 30
            sh("ip", "address", "add", f"{node}/{length}", "dev", link, *options)
            sh(*inside, "address", "add", f"{other}/{length}", "dev", "eth0", *options)

    def _serve(self, name: str, place: Path | None) -> None:
        enter = ["nsenter", f"--net={place}"] if place else []
        argv = [*enter, sys.executable, "-ISE", "-c", SERVER, name, str(PORT)]
        self.servers[name] = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        out = self.servers[name].stdout
        assert out is not None
        assert out.readline() == "ready\n"

    def backend(self, name: str, family: int) -> str:
        return {
            "far": self.beyond[family][1],
            "node": self.node_address(family),
            "outside": self.outside_address(family),
        }[name]

    def publish_endpoints(self, *names: str) -> None:
        endpoints = [{"address": self.backend(name, family), "port": PORT} for name in names for family in (4, 6)]
        ports = [{"target": 5432, "published": PUBLISHED, "protocol": kind} for kind in ("tcp", "udp")]
        self.up({"db": {"endpoints": endpoints, "ports": ports}})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarSite]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("far") / "state")
    with FarSite(settings) as site:
        yield site
    left = leftovers_after(settings)
    assert not left, f"left behind by {settings.id}: {left}"
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@families
@kinds
@pytest.mark.parametrize("backend", ["far", "node", "outside"])
def test_a_backend_that_is_no_instance_answers(site: FarSite, backend: str, family: int, kind: int) -> None:
    """Who is elsewhere sees the node, whose answer finds back; the node itself sees the client."""
    site.publish_endpoints(backend)
    found = site.ask(site.outside, site.node_address(family), PUBLISHED, kind)
    seen = {"far": site.beyond[family][0], "node": site.outside_address(family), "outside": site.node_address(family)}
    assert found == f"{backend} {seen[backend]}"


@pytest.mark.full
@families
@pytest.mark.parametrize("backend", ["far", "node"])
def test_much_goes_both_ways(site: FarSite, backend: str, family: int) -> None:
    """Also what the kernel cuts into segments only behind the program."""
    site.publish_endpoints(backend)
    sent = random.randbytes(400_000)

    def echoed() -> bytes:
        with socket.create_connection((site.node_address(family), PUBLISHED), timeout=10) as own:
            first = own.recv(256)
            assert first
            got = b""
            for start in range(0, len(sent), 50_000):
                own.sendall(sent[start : start + 50_000])
                while len(got) < start + 50_000:
                    got += own.recv(65536)
            return got

    assert site.inside(site.outside, echoed) == sent


@pytest.mark.full
@families
@kinds
@pytest.mark.parametrize("backend", ["far", "node"])
def test_a_backend_that_refuses_is_heard(site: FarSite, backend: str, family: int, kind: int) -> None:
    """A reset, or an ICMP error about a packet that the client did not send so. The node's stack sends few of these a
    second (net.ipv4.icmp_ratelimit)."""
    endpoints = [{"address": site.backend(backend, family), "port": PORT + 1}]
    ports = [{"target": 5432, "published": PUBLISHED, "protocol": name} for name in ("tcp", "udp")]
    site.up({"db": {"endpoints": endpoints, "ports": ports}})
    assert until(lambda: site.ask(site.outside, site.node_address(family), PUBLISHED, kind, patience=0.3) == REFUSED, 5)


@families
def test_the_flow_is_followed_and_its_answers_are_counted(site: FarSite, family: int) -> None:
    site.publish_endpoints("far")
    site.network.datapath.flows.clear()
    assert site.ask(site.outside, site.node_address(family), PUBLISHED).startswith("far ")
    target = Address.from_ip(site.backend("far", family))
    (flow,) = (v for k, v in site.network.datapath.flows.items() if k.source == target and k.source_port == PORT)
    assert flow.packets >= 2
    assert flow.translation == Address.from_ip(site.node_address(family))
    assert flow.translation_port == PUBLISHED
    dropped = {Hook(key.hook) for key, _ in site.network.datapath.drops.items()}
    assert Hook.TO_UPLINK not in dropped


@pytest.mark.full
@families
def test_the_node_asks_the_backend_itself(site: FarSite, family: int) -> None:
    """What is no answer to anybody outside leaves as it is."""
    site.publish_endpoints("far")
    assert site.ask(None, site.node_address(family), PUBLISHED) == f"far {site.beyond[family][0]}"
    assert site.ask(None, site.backend("far", family), PORT, UDP) == f"far {site.beyond[family][0]}"


@pytest.mark.full
@families
def test_the_same_port_of_a_client_may_ask_the_service_and_its_backend(site: FarSite, family: int) -> None:
    site.publish_endpoints("node")
    for port in (PUBLISHED, PORT, PUBLISHED):
        answer = site.ask(site.outside, site.node_address(family), port, bind=47123)
        assert answer == f"node {site.outside_address(family)}"
        time.sleep(0.3)  # until the server has closed too: to it, both are the same connection
