"""Names of the DNS in policy as a person has them: an app, its agent and resolver killed, and no connection lost."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.name_server import NameServer, answer_at, start_resolver
from support.service_site import SILENCE, ask, sh, until
from support.whit import Whit

from whit.base.settings import Settings
from whit.control import resolver
from whit.kernel.network import netns

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(180)]

NUMBER = random.randrange(20, 120)
NODE, SERVER, NETWORK = f"198.18.{NUMBER}.5", f"198.18.{NUMBER}.6", f"198.19.{NUMBER}"
APP = """
name: names
services:
  a:
    build: {parts: [debian:busybox-static]}
    command: [busybox, sleep, "1000"]
    stop_grace_period: 1s
    uses: [{dns: api.example.com, port: 8080}, {dns: "*.late.example.com"}]
"""


@dataclass
class Names:
    whit: Whit
    server: NameServer
    directory: Path
    resolvers: list[subprocess.Popen[str]] = field(default_factory=list)

    def take_resolver(self) -> None:
        """Put ours in the place of the agent's: it asks the server of the test. The agent may be the first to see that
        its own is gone, and start another."""
        settings = self.whit.settings
        self.server.zone["is.it.ours"] = [("A", "192.0.2.1", 1)]
        for _ in range(5):
            old = resolver.running(settings)
            own = start_resolver(settings, SERVER, self.directory)
            self.resolvers.append(own)
            (settings.resolver_dir / "pid").write_text(f"{own.pid}\n")
            if old is not None:
                os.kill(old, signal.SIGKILL)
            if until(lambda: self.look_up("is.it.ours") is True, 15):
                return
        raise AssertionError("the resolver is not ours")

    def look_up(self, name: str) -> bool | None:
        """Whether the resolver answered an instance with an address; None if it said nothing."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.whit.resolves("names-a-1", name, patience=2)
        return None

    def reach(self, address: str, patience: float = 10.0) -> str:
        place = self.whit.settings.netns_dir / "names-a-1"
        return netns.call_in(place, lambda: ask(address, 8080, patience=patience)).partition(" ")[0]

    @contextlib.contextmanager
    def connecting(self, address: str) -> Iterator[list[str]]:
        """All the while, ten times a second. Yields what was not answered."""
        lost: list[str] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.1):
                if (said := self.reach(address, patience=30)) != "outside":
                    lost.append(said)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield lost
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path / "state")
    tmp_path.chmod(0o755)
    whit, place, link = Whit(settings), settings.netns_dir / "beyond", f"{settings.id}b"
    netns.create(place)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [whit.clean(), netns.remove(place)])
        inside = ["nsenter", f"--net={place}", "ip"]
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(place))
        stack.callback(lambda: sh("ip", "link", "del", link))
        sh("ip", "link", "set", link, "up")
        sh(*inside, "link", "set", "eth0", "up")
        sh("ip", "address", "add", f"{NODE}/30", "dev", link)
        sh(*inside, "address", "add", f"{SERVER}/30", "dev", "eth0")
        sh(*inside, "route", "add", "default", "via", NODE)
        sh("ip", "route", "add", f"{NETWORK}.0/24", "via", SERVER)
        answering = answer_at(place, [f"{NETWORK}.0/24"], 8080)
        stack.callback(lambda: [answering.kill(), answering.communicate()])
        server = NameServer(place, [SERVER])
        stack.callback(server.close)
        (tmp_path / "whit.yaml").write_text(APP)
        made = Names(whit, server, tmp_path)
        stack.callback(lambda: [[one.kill(), one.communicate()] for one in made.resolvers])
        whit("up", str(tmp_path))
        made.take_resolver()
        yield made
    assert not (left := leftovers_after(settings)), left


def test_killed_agents_and_resolvers_lose_no_connection(
    names: Names, record_number: Callable[[str, object], None]
) -> None:
    known, late = f"{NETWORK}.7", f"{NETWORK}.8"
    names.server.zone["api.example.com"] = [("A", known, 60)]
    names.server.zone["x.late.example.com"] = [("A", late, 60)]
    whit = names.whit
    assert names.reach(known, patience=0.8) == SILENCE
    said = whit("exec", "names/a", "busybox", "timeout", "30", "busybox", "nc", "api.example.com", "8080", check=False)
    assert said.stdout.startswith("outside"), said
    assert whit.json("explain", "names/a", "api.example.com", "8080")["verdict"] == "allow"
    place = whit.settings.netns_dir / "names-a-1"
    with netns.call_in(place, socket.socket) as stream, names.connecting(known) as lost:
        stream.settimeout(30)
        stream.connect((known, 8080))
        assert stream.recv(64).startswith(b"outside")
        time.sleep(0.3)
        whit.kill_agent()
        assert names.look_up("x.late.example.com"), "answered, though nobody writes it down"
        assert names.reach(late, patience=0.8) == SILENCE
        whit.start_agent()
        assert until(lambda: names.reach(late, patience=0.8) == "outside", 60), "told to the new agent"
        killed = names.resolvers.pop()
        killed.kill()
        killed.communicate()
        killed_at = time.monotonic()
        assert until(lambda: names.look_up("a.names.whit") is True, 60), "the agent starts another"
        record_number("names answered again after the resolver was killed, s", f"{time.monotonic() - killed_at:.1f}")
        stream.sendall(b"all the while")
        assert stream.recv(64) == b"all the while"
    assert lost == []
    flows = whit.lines("flows", "--from", "names/a", "--limit", "500")
    assert any(flow["destination"]["name"] == "api.example.com" for flow in flows)
