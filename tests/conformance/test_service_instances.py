"""Kubernetes' core cases of services over real instances of a real agent, whose processes end, close their listeners
and listen again. The same cases over bare namespaces, and the rest of them: tests/mesh/test_service_cases.py."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from support.cluster import build
from support.leftovers import leftovers_after
from support.service_site import REFUSED, TCP, UDP, ask, until
from support.slowness import quick
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.cli.connection.client import Client
from whit.kernel.network import netns
from whit.mesh.dns import names
from whit.model.app import AppSpec
from whit.model.status import InstanceStatus

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

families = pytest.mark.parametrize("family", [4, 6])
kinds = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
USES_WEB = [{"service": "web"}, {"entity": "host"}]


@dataclass
class Site:
    """The app `site`: a client, and web, which answers on ports 80 and 81 with the name of its host."""

    whit: Whit
    image: Path
    published: int

    @property
    def client(self) -> Client:
        return Client(self.whit.settings)

    def up(self, web: dict[str, Any]) -> None:
        built = {
            "build": {"parts": [{"kind": "directory", "path": str(self.image)}]},
            "command": ("/responder", "80/tcp", "81/tcp", "80/udp"),
            "stop_grace_period": 0,
        }
        served = web if "external_name" in web else built | {"uses": USES_WEB} | web
        services = {"client": built | {"uses": USES_WEB}, "web": served}
        document = {"name": "site", "directory": str(self.image), "services": services}
        list(self.client.up(AppSpec.model_validate(document), timeout=60))

    def of_name(self, name: str) -> names.Found | None:
        table = names.parse_state(names.state_file(self.whit.settings).read_text())
        return names.lookup(table, f"{name}.site.whit", "")

    def address(self, family: int) -> str:
        found = self.of_name("web")
        assert found is not None
        return next(one for one in found.addresses if (":" in one) == (family == 6))

    def instance(self, name: str) -> InstanceStatus:
        return next(one for one in self.client.instances("site") if one.name == name)

    def web(self) -> set[str]:
        return {f"web-{one.name.rpartition('-')[2]}" for one in self.client.instances("site") if one.service == "web"}

    def tell(self, name: str, number: signal.Signals) -> None:
        pid = self.instance(name).pid
        assert pid is not None
        os.kill(pid, number)

    def inside(self, name: str, call: Callable[[], Any]) -> Any:
        return netns.call_in(self.whit.settings.netns_dir / name, call)

    def ask(self, target: str, port: int = 80, kind: int = TCP, place: str = "site-client-1") -> str:
        return str(self.inside(place, lambda: ask(target, port, kind)))

    def answering(self, target: str, kind: int = TCP, port: int = 80, times: int = 24) -> set[str]:
        return set(self.inside("site-client-1", lambda: [ask(target, port, kind) for _ in range(times)]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    made = Site(Whit(settings), tmp_path_factory.mktemp("responder"), free_port())
    build(made.image)
    try:
        made.whit.start_agent()
        yield made
    finally:
        made.whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def bring_up(site: Site, **web: Any) -> None:
    """And wait until those that are to run listen, and the others are gone."""
    site.up({"replicas": 2} | web)
    expected = {f"web-{number}" for number in range(1, web.get("replicas", 2) + 1)}
    assert until(lambda: site.web() == expected)
    for name in expected:
        address = site.instance(f"site-{name}").address
        assert until(lambda address=address: site.ask(address) not in (REFUSED, "")), name


@families
@kinds
def test_should_serve_a_basic_endpoint_from_pods(site: Site, family: int, kind: int) -> None:
    bring_up(site)
    assert until(lambda: site.answering(site.address(family), kind) == {"web-1", "web-2"})


@kinds
def test_should_be_able_to_create_a_functioning_nodeport_service(site: Site, kind: int) -> None:
    protocol = "tcp" if kind == TCP else "udp"
    bring_up(site, ports=[{"target": 80, "published": site.published, "protocol": protocol}])
    assert until(lambda: {ask("127.0.0.1", site.published, kind) for _ in range(24)} == {"web-1", "web-2"})
    node = str(next(ip_network(site.client.agent().pool).hosts()))
    assert until(lambda: site.answering(node, kind, site.published) == {"web-1", "web-2"})


@families
def test_should_have_session_affinity_work_for_service(site: Site, family: int) -> None:
    bring_up(site, balance={"affinity": 3600})
    assert until(lambda: site.answering(site.address(family)) in ({"web-1"}, {"web-2"}))


@families
@kinds
def test_should_allow_pods_to_hairpin_back_to_themselves(site: Site, family: int, kind: int) -> None:
    bring_up(site, replicas=1)
    assert until(lambda: site.ask(site.address(family), kind=kind, place="site-web-1") == "web-1")


def test_should_be_rejected_when_no_endpoints_exist(site: Site) -> None:
    bring_up(site, replicas=0)
    for family in (4, 6):
        for kind in (TCP, UDP):
            address = site.address(family)
            assert quick(lambda address=address, kind=kind: site.ask(address, kind=kind), 0.5) == REFUSED  # type: ignore[misc]


def test_headless_services_answer_with_the_addresses_of_their_instances(site: Site) -> None:
    bring_up(site, headless=True)
    instances = [site.instance(f"site-web-{number}") for number in (1, 2)]
    expected = {address for one in instances for address in (one.address, one.address6) if address}
    assert until(lambda: (found := site.of_name("web")) is not None and set(found.addresses) == expected)
    assert {site.ask(address) for address in expected} == {"web-1", "web-2"}


def test_should_be_able_to_change_the_type_to_externalname(site: Site) -> None:
    site.up({"external_name": "web.example.com"})
    found = site.of_name("web")
    assert found is not None
    assert (found.alias, list(found.addresses)) == ("web.example.com", [])
    bring_up(site)
    assert until(lambda: site.answering(site.address(4)) == {"web-1", "web-2"})


@families
def test_should_be_able_to_preserve_udp_traffic_when_server_pod_cycles(site: Site, family: int) -> None:
    """Its init is killed; a client that keeps its port is led to the other one, and no datagram is answered by nobody
    for longer than the kernel takes to tell of it."""
    bring_up(site, restart={"policy": "always"})
    address = site.address(family)
    assert until(lambda: site.answering(address, UDP) == {"web-1", "web-2"})

    def talk() -> tuple[str, str, float]:
        with socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, UDP) as own:
            own.settimeout(0.1)
            own.connect((address, 80))
            first, _ = said(own)
            site.tell(f"site-{first}", signal.SIGKILL)
            return first, *said(own, unlike=first)

    first, second, took = site.inside("site-client-1", talk)
    assert {first, second} == {"web-1", "web-2"}
    assert took < 5, "until its flow is forgotten"


def said(own: socket.socket, unlike: str = "") -> tuple[str, float]:
    """Who answers, and after how long."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            own.send(b"?")
            name = own.recv(256).decode()
        except OSError:
            continue
        if name != unlike:
            return name, time.monotonic() - began
    return "", time.monotonic() - began


@pytest.mark.parametrize("declared", [True, False], ids=["declared port", "whichever port"])
def test_an_instance_whose_listener_closes_leaves_its_service(
    site: Site, declared: bool, record_number: Callable[[str, object], None]
) -> None:
    """Its process goes on. It is asked again when it listens again."""
    bring_up(site, expose=[{"port": 80}] if declared else [])
    address = site.address(4)
    assert until(lambda: site.answering(address) == {"web-1", "web-2"})
    if not declared:
        time.sleep(3)  # until it was seen to listen
    began = time.monotonic()
    site.tell("site-web-1", signal.SIGUSR1)
    refused = last_refused(site, address, began)
    assert refused < 1.5
    record_number(f"service: last refused after a listener closed, {declared=}, ms", round(refused * 1e3, 1))
    assert site.answering(address, times=100) == {"web-2"}
    assert site.instance("site-web-1").state == "running"
    assert site.instance("site-web-1").message.startswith("listens no more on 80/tcp")
    site.tell("site-web-1", signal.SIGUSR2)
    assert until(lambda: site.answering(address) == {"web-1", "web-2"})
    assert site.instance("site-web-1").message == ""


def last_refused(site: Site, address: str, began: float) -> float:
    """How long after `began` the last of two seconds' connections was refused."""

    def many() -> float:
        last = 0.0
        while time.monotonic() - began < 2:
            if ask(address, 80) != "web-2":
                last = time.monotonic() - began
        return last

    return float(site.inside("site-client-1", many))
