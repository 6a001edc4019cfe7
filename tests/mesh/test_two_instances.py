"""The first promise of the mesh: one declared edge is open, the other pair's packet is dropped, named and predicted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.kernel import netns
from whit.mesh import compiler, identities, network, node, rules, services, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.explain import Dump, Question, explain
from whit.mesh.flows import FlowLog
from whit.model.app import AppSpec
from whit.model.flow import Explanation
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec, NetworkSpec
from whit.model.operation import Operation, carry_out, take_back

pytestmark = [pytest.mark.machine, pytest.mark.timeout(60)]

BOOK = AddressBook(pool="10.219.0.0/16")
IMAGE = Image(name="i", digest="sha256:0", config=ImageConfig(), layers=(Path("/l"),), size=0)
APP = AppSpec.model_validate(
    {
        "name": "pair",
        "directory": "/",
        "services": {
            "a": {"image": "i", "uses": [{"service": "b", "port": 7000, "protocol": "tcp"}]},
            "b": {"image": "i"},
        },
    }
)
SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    connection, peer = listener.accept()
    connection.sendall(peer[0].encode())
    connection.close()
"""


class Pair:
    """Two network namespaces on a mesh of their own, without containers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.identities = identities.assign(identities.IdentityBook(), ["pair/a", "pair/b"], [])
        self.datapath = Datapath.install(settings, DatapathConfig(BOOK.network))
        self.specs = {name: self._spec(name, number) for number, name in enumerate("ab", start=16)}
        self.log = FlowLog()
        self.log.words.identities = self.identities
        self.done: list[Operation] = []

    def _spec(self, name: str, number: int) -> InstanceSpec:
        return InstanceSpec(
            app="pair",
            service=name,
            index=1,
            image=IMAGE,
            args=("x",),
            env={},
            hostname=name,
            revision="1",
            network=NetworkSpec(
                number=number,
                address=str(BOOK.address(number)),
                identity=self.identities.number(f"pair/{name}"),
                service_address=self.vip(number),
            ),
        )

    def vip(self, number: int) -> str:
        return str(BOOK.address((1 << 15) + number))

    def connect(self) -> None:
        self._do([node.host_link(self.settings, BOOK)])
        found, book = rules.rules([APP], self.identities, rules.RuleBook())
        self.log.words.rules = book.texts()
        tables.write_policy(self.datapath, compiler.compile_rules(found))
        backends = {
            name: services.Service(
                spec.network.number,
                spec.network.service_address,
                backends=[services.Backend(spec.network.number, spec.network.address)],
            )
            for name, spec in self.specs.items()
        }
        tables.write_services(self.datapath, services.service_tables(backends.values()))
        for spec in self.specs.values():
            self._do(network.plan_connect(spec, self.settings, self.datapath, BOOK.node))

    def _do(self, operations: Sequence[Operation]) -> None:
        asyncio.run(carry_out(operations))
        self.done += operations

    def close(self) -> None:
        asyncio.run(take_back(self.done))
        self.datapath.close()
        uninstall(self.settings)

    def dial(self, source: str, target: str, port: int = 7000) -> str:
        """What the other end answers; an empty text if it cannot be reached."""

        def call() -> str:
            with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=1) as connection:
                return connection.recv(64).decode()
            return ""

        return netns.call_in(self.settings.netns_dir / self.specs[source].name, call)

    def explain(self, source: str, target: str, port: int = 7000) -> Explanation:
        question = Question(self.specs[source].network.address, target, port, 6)
        return explain(Dump.of(self.datapath), question, self.identities.name, self.log.words.rule)


@pytest.fixture
def pair(settings: Settings) -> Iterator[Pair]:
    pair = Pair(settings)
    servers: list[subprocess.Popen[str]] = []
    try:
        pair.connect()
        for spec in pair.specs.values():
            argv = ["nsenter", f"--net={settings.netns_dir / spec.name}", sys.executable, "-c", SERVER]
            server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            servers.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield pair
    finally:
        for server in servers:
            server.kill()
            server.communicate()
        pair.close()


@pytest.mark.parametrize("through", ["service", "instance"])
def test_declared_edge_is_open(pair: Pair, through: str) -> None:
    network = pair.specs["b"].network
    target = network.service_address if through == "service" else network.address
    assert pair.explain("a", target).verdict == "allow"
    assert pair.dial("a", target) == pair.specs["a"].network.address
    pair.log.collect(pair.datapath.events)
    flow = pair.log.past(lambda _: True)[-1]
    assert (flow.source.name, flow.destination.name, flow.verdict) == ("pair/a", "pair/b", "allow")
    assert flow.rule_text == "pair/a uses b:7000/tcp"


@pytest.mark.parametrize(("source", "target", "port"), [("b", "a", 7000), ("a", "b", 7001)])
def test_everything_else_is_dropped_and_named(pair: Pair, source: str, target: str, port: int) -> None:
    address = pair.specs[target].network.service_address
    predicted = pair.explain(source, address, port)
    began = time.monotonic()
    assert pair.dial(source, address, port) == ""
    assert time.monotonic() - began > 0.5, "refused, where a drop was expected"
    pair.log.collect(pair.datapath.events)
    flow = pair.log.past(lambda _: True)[-1]
    assert (flow.source.name, flow.destination.name) == (f"pair/{source}", f"pair/{target}")
    assert (flow.verdict, flow.reason, flow.rule) == (predicted.verdict, predicted.reason, predicted.rule)
    assert flow.reason == "POLICY_EGRESS"
    assert flow.rule_text == f"pair/{source} is declared: it reaches only what it uses"
