"""What Kubernetes asks of services (test/e2e/network/service.go and endpoints tests), over real instances, in both
families. Each test names the case that it is."""

from __future__ import annotations

import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.leftovers import leftovers_after
from support.service_site import REFUSED, TCP, UDP, ServiceSite, ask
from support.slowness import quick

from whit.base.settings import Settings
from whit.mesh.probe import Probe

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]

PUBLISHED = random.randrange(20_000, 32_000, 2)
"""With the next one. Of this run: the node has one of each, and another agent may publish there too."""
CLIENT: dict[str, Any] = {"uses": [{"service": "web"}, {"entity": "host"}]}
WEB: dict[str, Any] = {"replicas": 2}
ONE, TWO = "site-web-1", "site-web-2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceSite]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("services") / "state")
    with ServiceSite(settings) as site:
        yield site
    left = leftovers_after(settings)
    assert not left, f"left behind by {settings.id}: {left}"
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture
def site(made: ServiceSite) -> ServiceSite:
    """With two instances of web and a client, all as at the beginning."""
    bring_up(made, WEB)
    for name, record in made.records.items():
        made.mark(name, leaving=False, drained=False, ended=False)
        record.update(state="running", health="none")
    made.publish()
    return made


def bring_up(site: ServiceSite, web: dict[str, Any]) -> None:
    site.up({"client": CLIENT, "web": web})


families = pytest.mark.parametrize("family", [4, 6])
kinds = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])


@families
@kinds
def test_should_serve_a_basic_endpoint_from_pods(site: ServiceSite, family: int, kind: int) -> None:
    """Endpoints come and go with the instances."""
    address = site.address("web", family)
    assert site.answering("site-client-1", address, 8080, kind) == {"web-1", "web-2"}
    site.mark(ONE, ended=True)
    assert site.answering("site-client-1", address, 8080, kind) == {"web-2"}
    site.mark(TWO, ended=True)
    assert site.ask("site-client-1", address, 8080, kind) == REFUSED
    site.mark(ONE, ended=False)
    assert site.answering("site-client-1", address, 8080, kind) == {"web-1"}


@families
def test_should_serve_multiport_endpoints_from_pods(site: ServiceSite, family: int) -> None:
    ports = [{"target": 8080, "published": PUBLISHED}, {"target": 8081, "published": PUBLISHED + 1}]
    bring_up(site, WEB | {"ports": ports})
    for port in (8080, 8081):
        assert site.answering("site-client-1", site.address("web", family), port) == {"web-1", "web-2"}
    for port in (PUBLISHED, PUBLISHED + 1):
        assert site.answering(site.outside, site.node_address(family), port) == {"web-1", "web-2"}


@families
def test_should_serve_endpoints_on_same_port_and_different_protocols(site: ServiceSite, family: int) -> None:
    """Then TCP alone, then UDP alone."""
    both = {
        kind: {"target": 8080, "published": PUBLISHED, "protocol": name} for kind, name in ((TCP, "tcp"), (UDP, "udp"))
    }
    node = site.node_address(family)
    for wanted in ((TCP, UDP), (TCP,), (UDP,)):
        bring_up(site, WEB | {"ports": [both[kind] for kind in wanted]})
        for kind in both:
            found = site.ask(site.outside, node, PUBLISHED, kind).partition(" ")[0]
            assert (found in ("web-1", "web-2")) is (kind in wanted), (wanted, kind, found)


@families
@kinds
def test_should_be_able_to_create_a_functioning_nodeport_service(site: ServiceSite, family: int, kind: int) -> None:
    name = "tcp" if kind == TCP else "udp"
    bring_up(site, WEB | {"ports": [{"target": 8080, "published": PUBLISHED, "protocol": name}]})
    node = site.node_address(family)
    assert site.answering(site.outside, node, PUBLISHED, kind) == {"web-1", "web-2"}
    # Who is outside is seen as who he is.
    assert site.ask(site.outside, node, PUBLISHED, kind).partition(" ")[2] == site.outside_address(family)


@families
def test_node_port_by_the_nodes_address_from_an_instance(site: ServiceSite, family: int) -> None:
    bring_up(site, WEB | {"ports": [{"target": 8080, "published": PUBLISHED}]})
    assert site.answering("site-client-1", site.node_address(family), PUBLISHED) == {"web-1", "web-2"}


@families
@pytest.mark.parametrize("by", ["loopback", "own address"])
def test_node_port_from_the_node_itself(site: ServiceSite, family: int, by: str) -> None:
    address = site.node_address(family) if by == "own address" else {4: "127.0.0.1", 6: "::1"}[family]
    bring_up(site, WEB | {"ports": [{"target": 8080, "published": PUBLISHED}]})
    assert site.answering(None, address, PUBLISHED) == {"web-1", "web-2"}


@families
def test_a_port_that_is_bound_to_one_address_is_published_there_alone(site: ServiceSite, family: int) -> None:
    bring_up(site, WEB | {"ports": [{"target": 8080, "published": PUBLISHED, "host_ip": site.node_address(family)}]})
    assert site.answering(site.outside, site.node_address(family), PUBLISHED) == {"web-1", "web-2"}
    other = site.ask(site.outside, site.node_address(10 - family), PUBLISHED)
    assert other == REFUSED


def test_should_be_able_to_change_the_type(site: ServiceSite) -> None:
    """ExternalName, ClusterIP, NodePort, ExternalName."""
    node = site.node_address(4)
    bring_up(site, {"external_name": "web.example.com"})
    found = site.of_name("web")
    assert found is not None
    assert (found.alias, list(found.addresses)) == ("web.example.com", [])
    assert site.ask("site-client-1", site.address("web", 4), 8080, patience=1) not in ("web-1", "web-2")
    bring_up(site, WEB)
    found = site.of_name("web")
    assert found is not None
    assert list(found.addresses) == [site.address("web", 4), site.address("web", 6)]
    assert site.answering("site-client-1", site.address("web", 4), 8080) == {"web-1", "web-2"}
    assert site.ask(site.outside, node, PUBLISHED) == REFUSED
    bring_up(site, WEB | {"ports": [{"target": 8080, "published": PUBLISHED}]})
    assert site.answering(site.outside, node, PUBLISHED) == {"web-1", "web-2"}
    bring_up(site, {"external_name": "web.example.com"})
    assert site.ask(site.outside, node, PUBLISHED) == REFUSED


@families
@pytest.mark.parametrize("through", ["service", "node port"])
def test_should_be_able_to_switch_session_affinity(site: ServiceSite, family: int, through: str) -> None:
    ports = {"ports": [{"target": 8080, "published": PUBLISHED}]}
    place, address, port = "site-client-1", site.address("web", family), 8080
    if through == "node port":
        place, address, port = str(site.outside), site.node_address(family), PUBLISHED
    where: Path | str = Path(place) if place.startswith("/") else place
    bring_up(site, WEB | ports | {"balance": {"affinity": 3600}})
    assert len(site.answering(where, address, port)) == 1
    bring_up(site, WEB | ports)
    assert site.answering(where, address, port) == {"web-1", "web-2"}
    bring_up(site, WEB | ports | {"balance": {"affinity": 3600}})
    (kept,) = site.answering(where, address, port)
    # Who was kept goes: another one is taken, and kept.
    site.mark(f"site-{kept}", ended=True)
    (other,) = site.answering(where, address, port)
    assert other != kept


@families
@kinds
def test_should_be_rejected_when_no_endpoints_exist(site: ServiceSite, family: int, kind: int) -> None:
    """At once, from an instance and from outside."""
    name = "tcp" if kind == TCP else "udp"
    bring_up(site, {"replicas": 0, "ports": [{"target": 8080, "published": PUBLISHED, "protocol": name}]})
    assert quick(lambda: site.ask("site-client-1", site.address("web", family), 8080, kind), 0.4) == REFUSED
    assert quick(lambda: site.ask(site.outside, site.node_address(family), PUBLISHED, kind), 0.4) == REFUSED


@families
def test_should_fallback_to_terminating_endpoints_when_there_are_no_ready_ones(site: ServiceSite, family: int) -> None:
    address = site.address("web", family)
    site.mark(ONE, leaving=True)
    assert site.answering("site-client-1", address, 8080) == {"web-2"}
    site.mark(TWO, leaving=True)
    assert site.answering("site-client-1", address, 8080) == {"web-1", "web-2"}
    site.mark(TWO, drained=True)
    assert site.answering("site-client-1", address, 8080) == {"web-1"}


@families
@kinds
def test_should_allow_pods_to_hairpin_back_to_themselves(site: ServiceSite, family: int, kind: int) -> None:
    site.up({"client": CLIENT, "web": {"replicas": 1, "uses": [{"service": "web"}]}})
    assert site.ask(ONE, site.address("web", family), 8080, kind).partition(" ")[0] == "web-1"


@families
def test_should_be_able_to_preserve_udp_traffic_when_server_pod_cycles(site: ServiceSite, family: int) -> None:
    """A client that keeps its port is led to another backend when its own goes."""
    address = site.address("web", family)

    def talk() -> tuple[str, str]:
        with socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, UDP) as own:
            own.settimeout(0.3)
            own.connect((address, 8080))
            first = said(own)
            site.mark(f"site-{first}", ended=True)
            return first, said(own)

    first, second = site.inside("site-client-1", talk)
    assert {first, second} == {"web-1", "web-2"}


def said(own: socket.socket) -> str:
    """Some datagrams may be lost while the backend goes."""
    for _ in range(10):
        try:
            own.send(b"?")
            return own.recv(256).decode().partition(" ")[0]
        except OSError:
            continue
    return ""


@families
def test_a_draining_backend_keeps_its_connections_until_its_time_is_over(site: ServiceSite, family: int) -> None:
    address = site.address("web", family)

    def talk() -> list[str]:
        with socket.create_connection((address, 8080), timeout=10) as own:
            name = own.recv(256).decode().partition(" ")[0]
            heard = []
            for changes in ({"leaving": True}, {"drained": True}):
                site.mark(f"site-{name}", **changes)
                others = {ask(address, 8080).partition(" ")[0] for _ in range(10)}
                heard.append(f"{name in others}")
                try:
                    own.sendall(b"more")
                    heard.append(own.recv(16).decode())
                except TimeoutError:
                    heard.append("(silence)")
                except ConnectionError:
                    heard.append("(reset)")
            return heard

    assert site.inside("site-client-1", talk) == ["False", "more", "False", "(reset)"]


def test_headless_services_answer_with_the_addresses_of_their_ready_instances(site: ServiceSite) -> None:
    bring_up(site, WEB | {"headless": True})
    found = site.of_name("web")
    assert found is not None
    expected = [address for name in (ONE, TWO) for address in site.records[name].spec.network.addresses]
    assert sorted(found.addresses) == sorted(expected)
    assert {site.ask("site-client-1", address, 8080).partition(" ")[0] for address in expected} == {"web-1", "web-2"}
    site.mark(ONE, ended=True)
    found = site.of_name("web")
    assert found is not None
    assert list(found.addresses) == list(site.records[TWO].spec.network.addresses)
    assert site.ask("site-client-1", site.address("web", 4), 8080, patience=1) not in ("web-1", "web-2")


def test_instances_are_told_the_resolver_of_each_family_they_have(site: ServiceSite) -> None:
    spec, book = site.records[ONE].spec, site.network.books.addresses
    assert list(site.network.files(spec).nameservers) == [str(book.resolver), str(book.resolver6)]
    alone = spec.model_copy(update={"network": spec.network.model_copy(update={"address6": ""})})
    assert list(site.network.files(alone).nameservers) == [str(book.resolver)]


def pinged(target: str) -> bool:
    """Whether an echo request is answered."""
    ipv6 = ":" in target
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if ipv6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    request = Probe(*(ip_address(target),) * 2, 77, 77, protocol, bytes(6), bytes(6)).frame()[-8:]
    with socket.socket(family, socket.SOCK_RAW, protocol) as own:
        own.settimeout(10.0)
        own.connect((target, 0))  # from now on only what comes from there is heard
        own.send(request)
        with suppress(TimeoutError):
            while own.recv(2048)[0 if ipv6 else 20] != (129 if ipv6 else 0):
                pass
            return True
        return False


@families
def test_an_instance_pings_itself_through_its_service(site: ServiceSite, family: int) -> None:
    """Here an echo request and its answer are one to the datapath, which has no port to tell them apart by."""
    site.up({"client": CLIENT, "web": {"replicas": 1, "uses": [{"service": "web"}]}})
    address = site.address("web", family)
    assert [site.inside(place, lambda: pinged(address)) for place in (ONE, "site-client-1")] == [True, True]
    assert site.ask(ONE, address, 8080).startswith("web-1 ")


@families
def test_services_without_selector_lead_to_their_endpoints_by_weight(site: ServiceSite, family: int) -> None:
    bring_up(site, WEB)
    targets = [site.records[name].spec.network.addresses[family == 6] for name in (ONE, TWO)]
    endpoints = [
        {"address": target, "port": 8081, "weight": weight} for target, weight in zip(targets, (3, 1), strict=True)
    ]
    client = {"uses": [{"service": "far"}, {"service": "web"}]}
    site.up({"client": client, "web": WEB, "far": {"endpoints": endpoints}})
    times = 200
    address = site.address("far", family)
    found = site.inside("site-client-1", lambda: [ask(address, 9).partition(" ")[0] for _ in range(times)])
    assert set(found) == {"web-1", "web-2"}
    assert 0.6 < found.count("web-1") / times < 0.9


@families
def test_with_maglev_the_same_port_of_a_client_leads_to_the_same_backend(site: ServiceSite, family: int) -> None:
    """Also with what was remembered of its flows forgotten."""
    bring_up(site, WEB | {"balance": {"algorithm": "maglev"}})
    address = site.address("web", family)

    def led(port: int) -> str:
        for key, _ in list(site.network.datapath.flows.items()):
            site.network.datapath.flows.delete(key)
        return site.ask("site-client-1", address, 8080, UDP, bind=port).partition(" ")[0]

    ports = range(42000, 42024)
    first = [led(port) for port in ports]
    assert set(first) == {"web-1", "web-2"}
    assert [led(port) for port in ports] == first
    site.mark(ONE, ended=True)
    assert {led(port) for port in ports} == {"web-2"}


def test_an_instance_sends_no_more_than_its_limit(site: ServiceSite) -> None:
    """8 Mbit/s: what is sent for half a second is half a megabyte, and the burst."""
    client = CLIENT | {"limits": {"egress": 1_000_000}}
    site.up({"web": WEB})
    site.up({"client": client, "web": WEB})
    address = site.address("web", 4)

    def send() -> tuple[int, float]:
        with socket.create_connection((address, 8080), timeout=30) as own:
            own.recv(256)
            echoed, began = 0, time.monotonic()
            own.settimeout(0.05)
            while time.monotonic() - began < (1 if echoed > 200_000 else 20):
                try:
                    own.send(bytes(4096))
                    echoed += len(own.recv(65536))
                except TimeoutError:
                    continue
            return echoed, time.monotonic() - began

    try:
        echoed, took = site.inside("site-client-1", send)
    finally:
        site.up({"web": WEB})
    assert 100_000 < echoed < 1_000_000 * (took + 0.2)
    assert not list(site.network.datapath.limits.items())
