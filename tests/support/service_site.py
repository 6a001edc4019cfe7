"""A node of its own with the agent's real network: instances are namespaces with one small server each, no containers.

What is brought up goes the agent's way: addresses and identities from the store, links and maps of the kernel, names
for the resolver. A namespace `outside` is one hop from the node.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from support.slowness import patient
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.cluster.sqlite import SqliteStore
from whit.control import cleanup
from whit.control.desired import instance_names, wanted_instances
from whit.control.instances import Record
from whit.control.network import NodeNetwork
from whit.kernel.network import netns
from whit.mesh.dns import names
from whit.model.app import AppSpec
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec, InstanceStatus
from whit.model.operation import carry_out
from whit.model.release import Release

T = TypeVar("T")

IMAGE = Image(name="i", digest="sha256:0", config=ImageConfig(command=("x",)), layers=(Path("/l"),), size=0)
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
REFUSED = "(refused)"
SILENCE = "(silence)"
LOST = "(lost)"

SERVER = """
import selectors, socket, sys
name, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
loop = selectors.DefaultSelector()
def said(peer): return f"{name} {peer[0].removeprefix('::ffff:')}".encode()
for port in ports:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        own = socket.socket(socket.AF_INET6, kind)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        own.bind(("::", port))
        if kind == socket.SOCK_STREAM: own.listen(64)
        loop.register(own, selectors.EVENT_READ, kind == socket.SOCK_STREAM and "listen" or "datagram")
print("ready", flush=True)
while True:
    for key, _ in loop.select():
        own = key.fileobj
        if key.data == "listen":
            stream, peer = own.accept()
            stream.sendall(said(peer))
            loop.register(stream, selectors.EVENT_READ, "stream")
        elif key.data == "datagram":
            _, peer = own.recvfrom(2048)
            own.sendto(said(peer), peer)
        else:
            try: data = own.recv(2048)
            except OSError: data = b""
            if data: own.sendall(data)
            else: loop.unregister(own); own.close()
"""


def edge_addresses(agent: str) -> dict[int, tuple[str, str]]:
    """By family: the node's address on a site's link to the outside, and that of who is there. Each agent has its own:
    two links of one node with the same network answer for each other, and answers get lost between them."""
    number = zlib.crc32(agent.encode()) % (1 << 13)
    ipv4, ipv6 = ip_address("198.19.128.0") + 4 * number, ip_address("fd19::") + (number << 64)
    return {4: (str(ipv4 + 1), str(ipv4 + 2)), 6: (str(ipv6 + 1), str(ipv6 + 2))}


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


class ServiceSite:
    """Made by `with`."""

    def __init__(self, settings: Settings, between: Mapping[int, tuple[str, str]] | None = None) -> None:
        self.settings = settings
        self.between = between or edge_addresses(settings.id)
        self.runner = asyncio.Runner()
        self.records: dict[str, Record] = {}
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.release: Release | None = None
        self.uplink = f"{settings.id}up"

    def __enter__(self) -> ServiceSite:
        try:
            self._connect_outside()
            self.settings.database.parent.mkdir(parents=True, exist_ok=True)
            self.store = self.run(SqliteStore.open(self.settings.database))
            self.network = self.run(self.open_network())
        except BaseException:
            self.__exit__()
            raise
        return self

    async def open_network(self) -> NodeNetwork:
        network = await NodeNetwork.open(self.settings, Documents(self.store))
        network.host.attach_host()
        return network

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.kill()
            server.communicate()
        if hasattr(self, "network"):
            self.network.datapath.close()
            self.run(self.store.close())
        subprocess.run(["ip", "link", "del", self.uplink], capture_output=True, check=False)
        self.run(cleanup.clean(self.settings))
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def outside(self) -> Path:
        return self.settings.netns_dir / "outside"

    def _connect_outside(self) -> None:
        netns.create(self.outside)
        inside = ["nsenter", f"--net={self.outside}", "ip"]
        sh("ip", "link", "add", self.uplink, "type", "veth", "peer", "name", "eth0", "netns", str(self.outside))
        sh("ip", "link", "set", self.uplink, "up")
        sh(*inside, "link", "set", "eth0", "up")
        for family, (node, other) in self.between.items():
            options = ["nodad"] if family == 6 else []
            length = 64 if family == 6 else 30
            sh("ip", "address", "add", f"{node}/{length}", "dev", self.uplink, *options)
            sh(*inside, "address", "add", f"{other}/{length}", "dev", "eth0", *options)

    # ---- apps ----

    def up(self, services: Mapping[str, Mapping[str, Any]], *, ports: tuple[int, ...] = (8080, 8081)) -> None:
        """Bring the app `site` to this. New instances get a server; those that are not wanted any more go."""
        document = {
            name: ({} if spec.keys() & {"external_name", "endpoints"} else {"image": "i"}) | dict(spec)
            for name, spec in services.items()
        }
        spec = AppSpec.model_validate({"name": "site", "directory": "/", "services": document})
        self.release = Release(spec=spec, images=dict.fromkeys(document, IMAGE))
        self.run(self._up(self.release, ports))

    async def _up(self, release: Release, ports: tuple[int, ...]) -> None:
        wanted = {name: (release.spec.name, service) for name, (service, _) in instance_names(release).items()}
        there = {name: (record.spec.app, record.spec.service) for name, record in self.records.items()}
        await self.network.assign([release], there | wanted)
        await self.network.prepare([release.spec])
        networks = {name: self.network.spec_of(name, *where) for name, where in wanted.items()}
        specs = {name: one.spec for name, one in wanted_instances(release, networks, self.settings).items()}
        await self.network.write([release], self.records.values())
        for name in self.records.keys() - specs.keys():
            await self._remove(name)
        for name in specs.keys() - self.records.keys():
            await self._start(specs[name], ports)
        await self.network.write([release], self.records.values())

    async def _start(self, spec: InstanceSpec, ports: tuple[int, ...]) -> None:
        status = InstanceStatus(name=spec.name, app=spec.app, service=spec.service, state="running")
        self.records[spec.name] = Record(spec, {}, status)
        assert self.release is not None
        await self.network.write([self.release], self.records.values())
        await carry_out(self.network.plan_connect(spec))
        argv = ["nsenter", f"--net={self.place(spec.name)}", sys.executable, "-ISE", "-c", SERVER, spec.hostname]
        server = subprocess.Popen([*argv, *map(str, ports)], stdout=subprocess.PIPE, text=True)
        self.servers[spec.name] = server
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    async def _remove(self, name: str) -> None:
        record = self.records.pop(name)
        self.servers[name].kill()
        self.servers.pop(name).communicate()
        assert self.release is not None
        await self.network.write([self.release], self.records.values())
        await carry_out(self.network.plan_disconnect(record.spec))

    def mark(self, name: str, **changes: Any) -> None:
        """Change what is seen of an instance, as its watchers do, and publish it."""
        for key, value in changes.items():
            setattr(self.records[name], key, value)
        self.publish()

    def publish(self) -> None:
        assert self.release is not None
        self.run(self.network.write([self.release], self.records.values()))

    # ---- what is asked ----

    def place(self, name: str) -> Path:
        return self.settings.netns_dir / name

    def address(self, service: str, family: int) -> str:
        """The service's own."""
        return self.network.service_addresses("site", service)[family == 6]

    def node_address(self, family: int) -> str:
        return self.between[family][0]

    def outside_address(self, family: int) -> str:
        return self.between[family][1]

    def of_name(self, name: str) -> names.Found | None:
        """As the resolver answers it, asked from within the app."""
        table = names.parse_state(names.state_file(self.settings).read_text())
        return names.lookup(table, f"{name}.site.whit", "")

    def inside(self, place: Path | str | None, call: Callable[[], T]) -> T:
        """In an instance by its name, in a namespace by its path, or on the node itself."""
        if place is None:
            return call()
        return netns.call_in(self.place(place) if isinstance(place, str) else place, call)

    def ask(
        self,
        place: Path | str | None,
        target: str,
        port: int,
        kind: int = TCP,
        *,
        bind: int = 0,
        patience: float = 10.0,
    ) -> str:
        """Who answers: the instance's host name and the address that it sees; or how it is that nobody does."""
        return self.inside(place, lambda: ask(target, port, kind, bind=bind, patience=patience))

    def answering(self, place: Path | str | None, target: str, port: int, kind: int = TCP, times: int = 24) -> set[str]:
        """The host names of all that answer, asked so many times from port to port."""

        def many() -> set[str]:
            return {ask(target, port, kind).partition(" ")[0] for _ in range(times)}

        return self.inside(place, many)


def ask(target: str, port: int, kind: int = TCP, *, bind: int = 0, patience: float = 10.0) -> str:
    """What is answered, or how it is not. Whoever is to get no answer says how long he waits."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, kind) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.settimeout(patience)
        if bind:
            own.bind(("", bind))
        try:
            own.connect((target, port))
            if kind == UDP:
                own.send(b"?")
            return own.recv(256).decode() or LOST
        except TimeoutError:
            return SILENCE
        except OSError as error:
            return REFUSED if error.errno == errno.ECONNREFUSED else f"({errno.errorcode[error.errno or 0]})"


def until(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it holds within so many seconds."""
    deadline = time.monotonic() + patient(seconds)
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
