"""The first promise of the mesh: one declared edge is open, the other pair's packet is dropped, named and predicted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from dnslib import DNSRecord
from mesh.compiled import compiled
from mesh.policy_cases import compile_rules
from mesh.policy_reference import Rule
from support.leftovers import leftovers_after
from support.service_site import REFUSED, SILENCE, ask, until
from support.slowness import patient

import whit
from whit.base.settings import Settings
from whit.datapath.abi import EndpointFlags
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.kernel.network import netns, tap
from whit.mesh import network, node, services, tables
from whit.mesh.addresses import AddressBook
from whit.mesh.dns import names
from whit.mesh.dns.names import NameTable
from whit.mesh.flows.log import FlowLog
from whit.mesh.policy.compiler import Table
from whit.mesh.policy.explain import Dump, Question, explain
from whit.model.app import AppSpec
from whit.model.flow import Explanation, Flow
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec, NetworkSpec
from whit.model.operation import Operation, carry_out, take_back
from whit.model.policy import ANY_PEER

pytestmark = [pytest.mark.machine, pytest.mark.timeout(60)]

BOOK = AddressBook(pool=f"10.{random.randrange(128, 200)}.0.0/16")
"""None that an agent chooses, nor another run of this test at the same time."""
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
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.client_address[0].encode())
        while data := self.request.recv(64):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.daemon_threads = True
server = socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Echo)
print("ready", flush=True)
server.serve_forever()
"""


class Pair:
    """Two network namespaces on a mesh of their own, without containers."""

    def __init__(self, settings: Settings, datapath: Datapath) -> None:
        self.settings, self.datapath = settings, datapath
        self.identities = compiled([APP]).identities
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
        self.do([node.host_link(self.settings, BOOK)])
        tables.IdentityMap(self.datapath).write(node.node_identities(BOOK, [], {}))
        found = compiled([APP], known=self.identities)
        self.log.words.rules = found.rules.texts()
        tables.write_policy(self.datapath, found.table)
        self.balance(self.specs)
        for spec in self.specs.values():
            self.do(network.plan_connect(spec, self.settings, self.datapath, BOOK.node))

    def balance(self, ready: Mapping[str, InstanceSpec], empty: Sequence[str] = ()) -> None:
        """Each service with its one instance, or with none."""
        wanted = [self._service(self.specs[name], name in ready) for name in (*ready, *empty)]
        tables.ServiceMaps(self.datapath).write(wanted)

    def _service(self, spec: InstanceSpec, is_ready: bool) -> services.Service:
        number = services.instance_number(spec.network.number, spec.network.address)
        backends = (services.Backend(number, spec.network.address),) if is_ready else ()
        return services.Service(spec.network.number, (spec.network.service_address,), backends=backends)

    def do(self, operations: Sequence[Operation]) -> None:
        asyncio.run(carry_out(operations))
        self.done += operations

    def close(self) -> None:
        """What was connected goes, and no map remembers it."""
        asyncio.run(take_back(self.done))
        for each in self.datapath.tables():
            each.clear()
        self.log.collect(self.datapath.events)

    def dial(self, source: str, target: str, port: int = 7000, patience: float = 10.0) -> str:
        """What the other end answers, or how it does not. The source `host` is this process."""

        def call() -> str:
            return ask(target, port, patience=patience)

        return call() if source == "host" else netns.call_in(self.settings.netns_dir / self.specs[source].name, call)

    def last_flow(self) -> Flow:
        self.log.collect(self.datapath.events)
        return self.log.past(lambda one: (one.kind, one.protocol) == ("flow", "tcp"), limit=1)[0]

    def explain(self, source: str, target: str, port: int = 7000) -> Explanation:
        address = str(BOOK.node) if source == "host" else self.specs[source].network.address
        question = Question(address, target, port, 6)
        return explain(Dump.of(self.datapath), question, self.identities.name, self.log.words.rule)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    yield settings
    uninstall(settings)
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def datapath(home: Settings) -> Iterator[Datapath]:
    """Loaded once for all: the verifier takes longer than any test here."""
    with Datapath.install(home, DatapathConfig(BOOK.network)) as datapath:
        yield datapath


@pytest.fixture
def pair(home: Settings, datapath: Datapath) -> Iterator[Pair]:
    pair = Pair(home, datapath)
    servers: list[subprocess.Popen[str]] = []
    try:
        pair.connect()
        for spec in pair.specs.values():
            argv = ["nsenter", f"--net={home.netns_dir / spec.name}", sys.executable, "-c", SERVER]
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
    flow = pair.last_flow()
    assert (flow.source.name, flow.destination.name, flow.verdict) == ("pair/a", "pair/b", "allow")
    assert flow.rule_text == "pair/a uses b:7000/tcp"


@pytest.mark.parametrize(("source", "target", "port"), [("b", "a", 7000), ("a", "b", 7001)])
def test_everything_else_is_dropped_and_named(pair: Pair, source: str, target: str, port: int) -> None:
    flow = dropped_as_predicted(pair, source, pair.specs[target].network.service_address, port)
    assert (flow.source.name, flow.destination.name) == (f"pair/{source}", f"pair/{target}")
    assert flow.reason == "POLICY_EGRESS"
    assert flow.rule_text.startswith(f"pair/{source} is declared: it reaches only what it uses; ")


def dropped_as_predicted(pair: Pair, source: str, target: str, port: int = 7000, *, silently: bool = True) -> Flow:
    predicted = pair.explain(source, target, port)
    assert pair.dial(source, target, port, patience=0.7) == (SILENCE if silently else REFUSED)
    pair.log.collect(pair.datapath.events)
    ends = (predicted.source.address, predicted.destination.address, predicted.destination.port)
    (flow,) = pair.log.past(lambda one: (one.source.address, one.destination.address, one.destination.port) == ends, 1)
    assert (flow.verdict, flow.reason, flow.rule) == (predicted.verdict, predicted.reason, predicted.rule)
    return flow


def test_the_node_is_not_admitted_where_nothing_is_published(pair: Pair) -> None:
    flow = dropped_as_predicted(pair, "host", pair.specs["b"].network.address)
    assert (flow.source.name, flow.reason) == ("host", "POLICY_INGRESS")
    assert flow.rule_text.startswith("pair/b is declared: only those that use it reach it; its one rule")


def test_the_world_is_not_reached(pair: Pair) -> None:
    flow = dropped_as_predicted(pair, "a", "198.51.100.1", 443)
    assert (flow.destination.name, flow.reason) == ("world", "POLICY_EGRESS")


def test_an_address_that_nobody_has_leads_nowhere(pair: Pair) -> None:
    flow = dropped_as_predicted(pair, "a", str(BOOK.address(1000)))
    assert (flow.destination.address, flow.reason) == (str(BOOK.address(1000)), "UNKNOWN_ENDPOINT")


def test_a_service_without_instances_says_so(pair: Pair) -> None:
    pair.balance({"a": pair.specs["a"]}, empty=["b"])
    flow = dropped_as_predicted(pair, "a", pair.specs["b"].network.service_address, silently=False)
    assert flow.reason == "NO_BACKEND"


def test_who_asks_its_own_service_is_judged_as_all_others_are(pair: Pair) -> None:
    flow = dropped_as_predicted(pair, "a", pair.specs["a"].network.service_address)
    assert (flow.source.name, flow.destination.name, flow.reason) == ("pair/a", "pair/a", "POLICY_EGRESS")


def test_who_uses_its_own_service_may_be_its_own_backend(pair: Pair) -> None:
    spec = pair.specs["b"]
    tables.write_policy(pair.datapath, table_of_two(pair, [], [{"service": "b"}]))
    assert pair.explain("b", spec.network.service_address).verdict == "allow"
    assert pair.dial("b", spec.network.service_address) == spec.network.service_address
    assert pair.last_flow().verdict == "allow"


def test_an_instance_asks_for_a_name_and_reaches_what_it_is_told(pair: Pair) -> None:
    a, b = pair.specs["a"].network, pair.specs["b"].network
    table = NameTable(str(BOOK.resolver), {"pair": {"b": [b.service_address]}}, {a.address: ("pair", "a-1")})
    names.write_state(pair.settings, table)
    argv = [sys.executable, "-P", "-m", "whit.mesh.dns.resolver", "--id", pair.settings.id]
    resolver = subprocess.Popen(argv, env={"PYTHONPATH": str(Path(whit.__file__).resolve().parents[1])})
    try:
        address = netns.call_in(pair.settings.netns_dir / pair.specs["a"].name, lambda: asked_for("b"))
        assert address == b.service_address
        pair.log.collect(pair.datapath.events)
        (flow,) = pair.log.past(lambda one: one.destination.port == 53, limit=1)
        assert (flow.destination.name, flow.rule_text) == ("resolver", "pair/a may ask the resolver (udp)")
        assert pair.dial("a", address) == a.address
    finally:
        resolver.terminate()
        assert resolver.wait(patient(30)) == 0


def asked_for(name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.connect((str(BOOK.resolver), 53))
        own.settimeout(0.2)
        for _ in range(50):
            with contextlib.suppress(OSError):
                own.send(bytes(DNSRecord.question(name).pack()))
                return str(DNSRecord.parse(own.recv(512)).rr[0].rdata)
            time.sleep(0.1)
    return ""


def test_a_policy_that_closes_ends_open_connections(pair: Pair) -> None:
    target = pair.specs["b"].network.service_address

    def talk() -> list[str]:
        with socket.create_connection((target, 7000), timeout=10) as connection:
            heard = [connection.recv(64).decode()]
            for change, patience in ((lambda: None, 10), (lambda: tables.write_policy(pair.datapath, closed), 1)):
                change()
                connection.settimeout(patience)
                connection.sendall(b"more")
                heard.append(receive(connection))
        return heard

    closed = closed_table(pair)
    heard = netns.call_in(pair.settings.netns_dir / pair.specs["a"].name, talk)
    assert heard == [pair.specs["a"].network.address, "more", "(silence)"]
    assert pair.last_flow().reason == "POLICY_EGRESS"
    dropped_as_predicted(pair, "a", target)


def receive(connection: socket.socket) -> str:
    try:
        return connection.recv(64).decode()
    except TimeoutError:
        return "(silence)"
    except ConnectionResetError:
        return "(reset)"


def closed_table(pair: Pair) -> Table:
    nothing = APP.services["a"].model_copy(update={"uses": ()})
    app = APP.model_copy(update={"services": APP.services | {"a": nothing}})
    return compiled([app], known=pair.identities).table


def test_of_two_equal_rules_the_one_that_names_the_peer_is_told(pair: Pair) -> None:
    a, b = (pair.identities.number(f"pair/{name}") for name in "ab")
    found = [Rule(id=number, subject=a, direction="egress", peer=peer) for number, peer in ((1, ANY_PEER), (2, b))]
    tables.write_policy(pair.datapath, compile_rules(found))
    target = pair.specs["b"].network.address
    assert pair.dial("a", target) == pair.specs["a"].network.address
    assert (pair.explain("a", target).rule, pair.last_flow().rule) == (2, 2)


def table_of_two(pair: Pair, a: list[dict[str, object]], b: list[dict[str, object]]) -> Table:
    services = {"a": {"image": "i", "uses": a}, "b": {"image": "i", "uses": b}}
    app = AppSpec.model_validate({"name": "pair", "directory": "/", "services": services})
    return compiled([app], known=pair.identities).table


@pytest.mark.parametrize("through", ["service", "instance"])
def test_a_connection_that_was_closed_is_not_opened_again_from_its_other_end(pair: Pair, through: str) -> None:
    """The server may reach the client, but of its own accord: what it sends again of the old connection is none."""
    network = pair.specs["b"].network
    target = network.service_address if through == "service" else network.address
    opened = table_of_two(pair, [{"service": "b", "port": 7000}], [{"service": "a"}])
    closed = table_of_two(pair, [], [{"service": "a"}])
    tables.write_policy(pair.datapath, opened)

    def talk() -> list[str]:
        with socket.create_connection((target, 7000), timeout=10) as connection:
            heard = [connection.recv(64).decode()]
            for data, table, patience in ((b"one", opened, 10), (b"two", closed, 3)):
                tables.write_policy(pair.datapath, table)
                connection.settimeout(patience)
                connection.sendall(data)
                heard.append(receive(connection))
        return heard

    heard = netns.call_in(pair.settings.netns_dir / pair.specs["a"].name, talk)
    assert heard[:2] == [pair.specs["a"].network.address, "one"]
    assert heard[2] in ("(silence)", "(reset)")


def test_flows_of_an_instance_that_left_are_forgotten(pair: Pair) -> None:
    spec = pair.specs["b"]
    assert pair.dial("a", spec.network.service_address) == pair.specs["a"].network.address
    address = Address.from_ip(spec.network.address)
    assert any(value.translation == address for _, value in pair.datapath.flows.items())
    asyncio.run(carry_out(network.plan_disconnect(spec, pair.settings, pair.datapath)))
    left = list(pair.datapath.flows.items())
    assert not [key for key, value in left if address in (key.source, key.destination, value.translation)]
    assert not any(map(pair.datapath.endpoints.get, network.endpoint_keys(spec)))
    assert not netns.exists(pair.settings.netns_dir / spec.name)


def test_disconnecting_twice_or_what_was_never_connected_is_content(pair: Pair) -> None:
    for _ in range(2):
        asyncio.run(carry_out(network.plan_disconnect(pair.specs["b"], pair.settings, pair.datapath)))
    never = pair.specs["b"].model_copy(
        update={"index": 9, "network": pair.specs["b"].network.model_copy(update={"number": 99})}
    )
    asyncio.run(carry_out(network.plan_disconnect(never, pair.settings, pair.datapath)))


@pytest.mark.parametrize("done", range(5))
def test_a_connection_that_stopped_half_way_is_taken_away(home: Settings, datapath: Datapath, done: int) -> None:
    """After each operation alone; the fixture of `home` finds what is left."""
    pair = Pair(home, datapath)
    spec = pair.specs["a"]
    try:
        pair.do([node.host_link(home, BOOK)])
        operations = network.plan_connect(spec, home, datapath, BOOK.node)
        asyncio.run(carry_out(operations[:done]))
        asyncio.run(carry_out(network.plan_disconnect(spec, home, datapath)))
        assert not netns.exists(home.netns_dir / spec.name)
        assert not dict(pair.datapath.endpoints.items())
        assert not dict(pair.datapath.identities.items())
        assert not pair.datapath.attachments()
    finally:
        pair.close()


def test_a_guest_behind_a_tap_is_reached_by_its_mac_address(pair: Pair) -> None:
    spec = pair._spec("b", 99)
    spec = spec.model_copy(update={"index": 2, "network": spec.network.model_copy(update={"link": "tap"})})
    pair.do(network.plan_connect(spec, pair.settings, pair.datapath, BOOK.node))
    flags = {pair.datapath.endpoints.get(key).flags for key in network.endpoint_keys(spec)}  # type: ignore[union-attr]
    assert flags == {EndpointFlags.TAP}
    guest = tap.open_tap(pair.settings.link(99), vnet_header=False)
    try:
        # The kernel drops what is sent to a tap until it has seen, in the background, that somebody has it open.
        assert until(lambda: has_carrier(pair.settings.link(99)))
        assert pair.dial("a", spec.network.address, patience=1) == SILENCE
        os.set_blocking(guest, False)
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(os.read(guest, 2048))
    finally:
        os.close(guest)
    syns = [frame for frame in frames if frame[12:14] == b"\x08\x00"]
    assert syns
    assert all(frame[:6] == bytes.fromhex("0a58") + BOOK.address(99).packed for frame in syns)
    assert all(frame[30:34] == BOOK.address(99).packed for frame in syns)


def has_carrier(link: str) -> bool:
    """As rtnetlink tells it: asked so, the kernel does first what it had put off."""
    argv = ["ip", "-json", "link", "show", "dev", link]
    (found,) = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return "NO-CARRIER" not in found["flags"] and found.get("qdisc") != "noop"
