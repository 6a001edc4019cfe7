"""What the node sees, over real instances: traces of packets, edges, ends of connections, in both families."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from dnslib import AAAA, QTYPE, RR, A, DNSRecord
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from support.leftovers import leftovers_after
from support.service_site import ServiceSite, until

import whit
from whit.api import metrics
from whit.base.errors import Conflict, InputError, NotFound
from whit.base.settings import Settings
from whit.control.observing import explain
from whit.control.observing.metrics import exposition
from whit.control.observing.observation import Observation
from whit.control.observing.query import FlowQuery
from whit.control.observing.trace import Asked
from whit.datapath.abi import LimitValue
from whit.mesh.probe import Probe
from whit.model.flow import Flow, Trace
from whit.model.policy import ECHO_REQUESTS, icmp_port

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceSite]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("seen") / "state")
    with ServiceSite(settings) as made:
        made.up({"client": {"uses": [{"service": "web"}]}, "web": {"replicas": 2}, "db": {}})
        yield made
    left = leftovers_after(settings)
    assert not left, f"left behind by {settings.id}: {left}"
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture
def seen(site: ServiceSite) -> Iterator[Observation]:
    for record in site.records.values():
        spec = record.spec.network
        record.update(state="running", address=spec.address, address6=spec.address6)
    observation = Observation(site.settings, site.network, lambda: [one.status for one in site.records.values()])
    observation.learn([record.spec for record in site.records.values()])
    yield observation
    observation.close()


def trace(site: ServiceSite, seen: Observation, asked: Asked) -> Trace:
    async def work() -> Trace:
        pump = asyncio.create_task(seen.flow_log.pump(site.network.datapath.events))
        try:
            return await seen.trace(asked)
        finally:
            pump.cancel()

    return site.run(work())


def nothing_is_traced(site: ServiceSite) -> bool:
    datapath = site.network.datapath
    return datapath.state.get(0).tracing == 0 and not list(datapath.traces.items())


@pytest.mark.parametrize("family", [4, 6])
def test_a_traced_packet_tells_its_way_there_and_back(site: ServiceSite, seen: Observation, family: int) -> None:
    found = trace(site, seen, Asked("site/client", "web", 8080, family=family))  # type: ignore[arg-type]
    there = [hop.step for hop in found.hops if not hop.back]
    assert there[:8] == ["entered", "sender", "service", "egress", "ingress", "remembered", "translated", "instance"]
    assert (found.outcome, found.source.name, found.destination.name) == ("answered", "site/client", "site/web")
    egress = next(hop for hop in found.hops if hop.step == "egress")
    assert (egress.decision, "client uses web" in egress.rule_text) == ("allow", True)
    handed = next(hop for hop in found.hops if hop.step == "instance")
    assert handed.decision in ("handed to site-web-1", "handed to site-web-2")
    answer = [hop for hop in found.hops if hop.back]
    assert answer[-1].decision == "handed to site-client-1"
    assert found.hops == tuple(sorted(found.hops, key=lambda hop: hop.microseconds))
    assert nothing_is_traced(site)


def test_a_datagram_is_answered_too(site: ServiceSite, seen: Observation) -> None:
    found = trace(site, seen, Asked("site-client-1", "site-web-1", 8080, "udp"))
    assert (found.outcome, found.protocol) == ("answered", "udp")


@pytest.mark.parametrize(("protocol", "version"), [("icmp", 4), ("icmpv6", 6)])
@pytest.mark.parametrize("target", ["web", "site-web-2"])
def test_a_ping_is_answered_and_explained_alike(
    site: ServiceSite, seen: Observation, target: str, protocol: str, version: int
) -> None:
    port = icmp_port(ECHO_REQUESTS[protocol])
    found = trace(site, seen, Asked("client", target, port, protocol))
    assert (found.outcome, found.protocol) == ("answered", protocol)
    assert ip_address(found.destination.address).version == version
    statuses = [record.status for record in site.records.values()]
    told = site.run(explain.answer(site.network, statuses, "client", target, port, protocol))
    assert (told.verdict, ip_address(told.destination.address).version) == ("allow", version)
    denied = site.run(explain.answer(site.network, statuses, "client", "db", port, protocol))
    assert (denied.verdict, denied.reason) == ("deny", "POLICY_EGRESS")


def test_a_protocol_of_the_other_family_is_refused(site: ServiceSite, seen: Observation) -> None:
    address = site.records["site-web-1"].spec.network.addresses[1]
    statuses = [record.status for record in site.records.values()]
    with pytest.raises(InputError, match="icmp is of IPv4 alone"):
        site.run(explain.answer(site.network, statuses, "client", str(address), 8 << 8, "icmp"))
    with pytest.raises(InputError, match="icmp is of IPv4 alone"):
        trace(site, seen, Asked("client", "web", 8 << 8, "icmp", family=6))
    with pytest.raises(InputError, match="no IPv4 address"):
        trace(site, seen, Asked("client", str(address), 8 << 8, "icmp"))


@pytest.mark.parametrize("family", [4, 6])
def test_a_denied_packet_names_the_rule(site: ServiceSite, seen: Observation, family: int) -> None:
    found = trace(site, seen, Asked("client", "db", 8080, family=family))  # type: ignore[arg-type]
    assert (found.outcome, found.reason) == ("dropped", "POLICY_EGRESS")
    assert "it reaches only what it uses" in found.rule_text
    assert nothing_is_traced(site)


def test_a_trace_that_fails_leaves_nothing(site: ServiceSite, seen: Observation, tmp_path: object) -> None:
    site.records["site-ghost-1"] = record = type(site.records["site-client-1"])(
        site.records["site-client-1"].spec, {}, site.records["site-client-1"].status.model_copy(update={"name": "gone"})
    )
    try:
        with pytest.raises(NotFound, match="no network namespace"):
            trace(site, seen, Asked("gone", "web", 8080))
    finally:
        del site.records["site-ghost-1"], record
    assert nothing_is_traced(site)


def test_what_a_killed_agent_left_is_taken_away(site: ServiceSite, seen: Observation) -> None:
    from whit.datapath.abi import FlowKey
    from whit.datapath.address import Address

    one = Address.from_ip("10.0.0.1")
    site.network.datapath.traces.put(FlowKey(one, one, 1, 2, 6), 5)
    site.run(site.network.set_tracing(3))
    generation = site.network.datapath.state.get(0).generation
    site.run(seen.tracer.reset())
    assert nothing_is_traced(site)
    assert site.network.datapath.state.get(0).generation == generation


def test_who_cannot_be_traced(site: ServiceSite, seen: Observation) -> None:
    with pytest.raises(NotFound, match="no service or instance"):
        trace(site, seen, Asked("host", "web", 80))
    with pytest.raises(NotFound, match="nobody"):
        trace(site, seen, Asked("client", "nobody-there", 80))
    with pytest.raises(InputError, match="igmp"):
        trace(site, seen, Asked("client", "web", 80, "igmp"))
    with pytest.raises(InputError, match="no IPv6 address"):
        trace(site, seen, Asked("client", "192.0.2.1", 80, family=6))
    site.records["site-db-1"].update(state="exited")
    with pytest.raises(Conflict, match="runs"):
        trace(site, seen, Asked("db", "web", 80))


def test_edges_and_ends_are_counted_with_names(site: ServiceSite, seen: Observation) -> None:
    began = datetime.now(UTC)
    for _ in range(20):
        assert site.ask("site-client-1", site.address("web", 4), 8080).startswith("web-")
    site.ask("site-client-1", site.address("db", 4), 8080, patience=0.2)
    ended = FlowQuery(kind=["end"], source="site/client", since=began)
    assert until(lambda: len(flows(site, seen, ended)) >= 20), "a server closes a moment after its client"
    edges = {(one.source, one.destination, one.label, one.verdict): one for one in site.run(seen.edges("site"))}
    edge = edges["site/client", "site/web", "8080/tcp", "allow"]
    assert edge.flows >= 20
    assert edge.packets > edge.flows
    assert edge.rtt
    assert "client uses web" in edge.rule_text
    assert edges["site/client", "site/db", "8080/tcp", "deny"].rule
    ends = flows(site, seen, ended)
    assert all(one.end and one.end.reply_bytes > 100 and one.end.seconds < 60 for one in ends)


@pytest.mark.parametrize("family", [4, 6])
def test_flows_have_the_names_that_were_asked_for(site: ServiceSite, seen: Observation, family: int) -> None:
    reply = DNSRecord.question("outside.example").reply()
    reply.add_answer(RR("outside.example", QTYPE.A, rdata=A(site.outside_address(4))))
    reply.add_answer(RR("outside.example", QTYPE.AAAA, rdata=AAAA(site.outside_address(6))))
    asker = site.records["site-client-1"].spec.network.address
    # A process of its own, because the resolver's directory becomes its own.
    script = "import os,sys; from whit.mesh.dns.questions import Teller; d=os.open(sys.argv[1], os.O_RDONLY);"
    script += "Teller(d).tell(sys.argv[2], bytes.fromhex(sys.argv[3]))"
    words = [str(site.settings.resolver_dir), asker, bytes(reply.pack()).hex()]
    path = {"PYTHONPATH": str(Path(whit.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, *words], check=True, env=path)

    seen._learn_names()
    target = site.outside_address(family)
    site.ask("site-client-1", target, 81, patience=0.2)
    (flow,) = flows(site, seen, FlowQuery(destination="outside.example", family=family))  # type: ignore[arg-type]
    assert (flow.destination.address, flow.destination.name, flow.verdict) == (target, "world", "deny")


def flows(site: ServiceSite, seen: Observation, query: FlowQuery) -> list[Flow]:
    async def work() -> list[Flow]:
        return [one async for one in seen.flows(query, follow=False)]

    return site.run(work())


@pytest.mark.parametrize(
    ("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("protocol", [1, 6, 17, 58, 132])
def test_probes_are_what_scapy_makes_of_them(source: str, destination: str, protocol: int) -> None:
    ends: list[IPv4Address | IPv6Address] = [ip_address(source), ip_address(destination)]
    frame = Probe(*ends, 1234, 80, protocol, b"\x02" * 6, b"\x04" * 6).frame()
    packet = Ether(frame)
    again: Callable[..., Ether] = Ether
    rebuilt = packet.copy()
    for layer in (IP, IPv6, TCP, UDP, ICMP, ICMPv6EchoRequest, SCTP):
        if layer in rebuilt:
            for name in ("chksum", "cksum", "len", "plen"):
                if name in rebuilt[layer].fields:
                    del rebuilt[layer].fields[name]
    assert bytes(again(bytes(rebuilt))) == frame, "Scapy finds the same lengths and checksums"


def test_metrics_are_read_by_the_parser_of_prometheus(site: ServiceSite, seen: Observation) -> None:
    site.ask("site-client-1", site.address("web", 6), 8080)
    site.ask("site-client-1", site.address("db", 6), 8080, patience=0.2)
    site.run(seen.examine())
    families = {one.name: one for one in text_string_to_metric_families(site.run(exposition(seen)).decode())}
    flows = {sample.labels["destination"]: sample for sample in families["whit_edge_flows"].samples}
    assert flows["site/web"].value >= 1
    assert flows["site/db"].labels["verdict"] == "deny"
    reasons = {sample.labels["reason"] for sample in families["whit_drops"].samples}
    assert "POLICY_EGRESS" in reasons
    assert {sample.labels["map"] for sample in families["whit_map_entries"].samples} >= {"flows", "policies", "edges"}
    (memory,) = families["whit_agent_resident_bytes"].samples
    assert memory.value > 10e6
    states = {sample.labels["state"] for sample in families["whit_instances"].samples}
    assert states == {"running"}
    assert families["whit_edge_rtt_seconds"].type == "summary"


def test_metrics_are_scraped_on_loopback(site: ServiceSite, seen: Observation) -> None:
    async def scrape(request: bytes) -> bytes:
        server = await metrics.serve(("127.0.0.1", 0), seen)
        place = server.sockets[0].getsockname()
        async with server:
            reader, writer = await asyncio.open_connection(*place)
            writer.write(request)
            answer = await reader.read()
            writer.close()
            return answer

    assert b"whit_map_entries" in site.run(scrape(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert site.run(scrape(b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "192.0.2.1:9464", "localhost:1", "127.0.0.1", "127.0.0.1:0"])
def test_metrics_are_served_nowhere_else(text: str) -> None:
    with pytest.raises(InputError, match="loopback"):
        metrics.place_of(text)
    assert metrics.place_of("[::1]:9464") == ("::1", 9464)


def test_a_map_that_fills_up_raises_an_alarm_and_lowers_it(site: ServiceSite, seen: Observation) -> None:
    room = site.network.datapath.limits.max_entries
    keys = range(10_000_000, 10_000_000 + int(room * 0.85))
    site.network.datapath.limits.put_many({key: LimitValue(1, 1, 0) for key in keys})
    try:
        (alarm,) = site.run(seen.examine())
        assert (alarm.name, alarm.severity) == ("map-full:limits", "warning")
    finally:
        site.network.datapath.limits.delete_many(keys)
    assert site.run(seen.examine()) == []


def test_who_asks_often_still_sees_the_last_minute(site: ServiceSite, seen: Observation) -> None:
    site.run(seen.examine())
    site.ask("site-client-1", site.address("db", 4), 8080, patience=0.2)
    for _ in range(5):
        site.run(seen.examine())
    assert seen.drops["POLICY_EGRESS"] >= 1
