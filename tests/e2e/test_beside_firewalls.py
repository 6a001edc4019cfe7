"""A node with a firewall that drops whatever it does not know, as ufw and Docker leave it, and a machine outside."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from support.leftovers import leftovers_after
from support.whit import Whit

from whit.base.settings import Settings
from whit.kernel.network import netns

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(300)]

T = TypeVar("T")

NODE, OUTSIDE = "198.19.7.1", "198.19.7.2"
APP = """
name: edge
services:
  web:
    build: {parts: [debian:busybox-static, ./site]}
    command: [busybox, httpd, -f, -p, "8080", -h, /site]
    ports: ["8080:8080"]
    uses: [world]
  closed:
    build: {parts: [debian:busybox-static]}
    command: [busybox, sleep, "1000"]
"""
SCRIPT = "#!/bin/busybox sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s' \"$REMOTE_ADDR\"\n"

# What `ufw enable` and Docker's start leave of the filter table, as far as forwarded packets are concerned.
FIREWALL = """
*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT ACCEPT
:ufw-before-forward -
:DOCKER-USER -
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""


@dataclass
class Edge:
    """Two network namespaces: the node, in which the agent runs, and a machine outside."""

    tag: str
    whit: Whit

    @property
    def node(self) -> Path:
        return Path(f"/run/netns/node-{self.tag}")

    @property
    def outside(self) -> Path:
        return Path(f"/run/netns/out-{self.tag}")

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def set_up(self) -> None:
        node, outside = self.node.name, self.outside.name
        for name in (node, outside):
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip("-n", node, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", outside)
        for name, link, address in ((node, "up0", NODE), (outside, "eth0", OUTSIDE)):
            self.ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            self.ip("-n", name, "link", "set", link, "up")
        argv = ["nsenter", f"--net={self.node}", "iptables-restore"]
        subprocess.run(argv, input=FIREWALL, text=True, check=True, capture_output=True)

    def tear_down(self) -> None:
        for path in (self.node, self.outside):
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("edge")
    script = directory / "site" / "site" / "cgi-bin" / "who"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT)
    script.chmod(0o755)
    (directory / "whit.yaml").write_text(APP)
    tag = secrets.token_hex(2)
    edge = Edge(tag, Whit(Settings(id=f"t{tag}f", state_root=directory / "state")))
    try:
        # The images are built where the mirrors are reached; the node has no way to them.
        edge.whit("build", str(directory))
        edge.whit.clean()
        edge.set_up()
        edge.whit.prefix = ["nsenter", f"--net={edge.node}"]
        edge.whit("up", str(directory))
        yield edge
    finally:
        edge.whit.clean()
        edge.tear_down()
    assert not (left := leftovers_after(edge.whit.settings)), left


def ask(host: str) -> str:
    connection = http.client.HTTPConnection(host, 8080, timeout=30)
    try:
        connection.request("GET", "/cgi-bin/who")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def inside(path: Path, function: Callable[[], T]) -> T:
    return netns.call_in(path, function)


def test_published_port_keeps_the_source_of_a_machine_outside(edge: Edge) -> None:
    assert OUTSIDE in inside(edge.outside, lambda: ask(NODE))


@pytest.mark.parametrize("host", ["127.0.0.1", NODE, "localhost"])
def test_published_port_is_reached_from_the_node_itself(edge: Edge, host: str) -> None:
    assert inside(edge.node, lambda: ask(host)) != ""


def reach(edge: Edge, service: str, patience: int = 20) -> str:
    """Whom a listener outside sees when the service connects to it; empty if it cannot."""
    with inside(edge.outside, lambda: socket.create_server((OUTSIDE, 0))) as listener:
        seen: list[str] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, peer = listener.accept()
                seen.append(peer[0])
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        port = str(listener.getsockname()[1])
        edge.whit("exec", service, "busybox", "nc", "-w", str(patience), OUTSIDE, port, check=False)
        listener.shutdown(socket.SHUT_RDWR)  # whoever has come until now
        thread.join()
        return seen[0] if seen else ""


def test_the_world_is_reached_by_masquerade_where_declared(edge: Edge) -> None:
    assert reach(edge, "web") == NODE


def test_the_world_is_not_reached_where_not_declared(edge: Edge) -> None:
    assert reach(edge, "closed", patience=2) == ""
    flow = edge.whit.lines("flows", "--verdict", "deny", "--from", "edge/closed")[-1]
    assert (flow["destination"]["name"], flow["reason"]) == ("world", "POLICY_EGRESS")


def test_names_are_resolved_through_the_firewall(edge: Edge) -> None:
    assert edge.whit.resolves("edge-closed-1", "web")


def test_the_firewall_is_as_before_after_clean_up(edge: Edge) -> None:
    """Last of the module: it takes the node's set-up away."""
    edge.whit("down", "edge")
    edge.whit.clean()
    argv = ["nsenter", f"--net={edge.node}", "iptables", "-S"]
    rules = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert "whit" not in rules
    assert rules.splitlines()[:3] == ["-P INPUT DROP", "-P FORWARD DROP", "-P OUTPUT ACCEPT"]
