"""What the datapath tells of packets that it lets through: edges, connections, HTTP, traces; and what it holds back."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import TCP
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    CLIENT_ID,
    SERVER,
    SERVER6,
    SERVER_ID,
    SHOT,
    TCP_NUMBER,
    VIP,
    Lab,
    flow_key,
    tcp,
    udp,
)

from whit.datapath.abi import (
    LATENCY_BUCKETS,
    DatapathState,
    Direction,
    DropReason,
    EdgeKey,
    EdgeValue,
    EndEvent,
    EndpointFlags,
    EndpointKey,
    HopEvent,
    HopStep,
    HttpEvent,
    HttpMethod,
    LimitValue,
    Verdict,
)
from whit.datapath.address import Address

pytestmark = pytest.mark.root

REQUEST = b"GET /orders/7?secret=1 HTTP/1.1\r\nHost: api\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FAMILIES = pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["v4", "v6"])


class Connection:
    """Segments of one connection, in sequence unless said otherwise."""

    def __init__(self, lab: Lab, client: str = CLIENT, server: str = SERVER) -> None:
        self.lab, self.client, self.server = lab, client, server
        self.next = {"forth": 1000, "back": 5000}

    def open(self) -> None:
        self.forth("S")
        self.back("SA")
        self.forth("A")

    def forth(self, flags: str = "PA", load: bytes = b"", sequence: int | None = None) -> int:
        packet = tcp(self.client, self.server, 40000, 80, flags, load)
        return self.lab.from_instance(self._numbered(packet, "forth", "back", sequence), self.client).action

    def back(self, flags: str = "PA", load: bytes = b"", sequence: int | None = None) -> int:
        packet = tcp(self.server, self.client, 80, 40000, flags, load)
        return self.lab.from_instance(self._numbered(packet, "back", "forth", sequence), self.server).action

    def _numbered(self, packet: Any, way: str, other: str, sequence: int | None) -> Any:
        segment = packet[TCP]
        segment.seq = self.next[way] if sequence is None else sequence
        segment.ack = self.next[other] if "A" in segment.flags else 0
        length = len(segment.payload) + ("S" in segment.flags) + ("F" in segment.flags)
        if sequence is None:
            self.next[way] += length
        return packet


def edge(lab: Lab, verdict: Verdict = Verdict.ALLOW, port: int = 80) -> EdgeValue:
    found = lab.datapath.edges.get(EdgeKey(CLIENT_ID, SERVER_ID, port, TCP_NUMBER, verdict))
    assert found is not None
    return found


def told(lab: Lab, kind: type) -> list[Any]:
    return [event for event in lab.datapath.events.every() if isinstance(event, kind)]


@FAMILIES
def test_an_edge_counts_both_ways(lab: Lab, client: str, server: str) -> None:
    connection = Connection(lab, client, server)
    connection.open()
    connection.back(load=b"hello")
    found = edge(lab)
    assert (found.flows, found.packets, found.reply_packets) == (1, 2, 2)
    head = 54 if client == CLIENT else 74
    assert (found.bytes, found.reply_bytes) == (2 * head, 2 * head + 5)


def test_an_edge_counts_what_policy_denied(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, Direction.EGRESS)
    for port in (40000, 40001):
        assert lab.from_instance(tcp(CLIENT, SERVER, port, 80)).action == SHOT
    assert (edge(lab, Verdict.DENY).flows, edge(lab, Verdict.DENY).packets) == (2, 2)


@FAMILIES
def test_segments_that_are_sent_again_are_counted(lab: Lab, client: str, server: str) -> None:
    connection = Connection(lab, client, server)
    connection.open()
    sent_at = connection.next["forth"]
    connection.forth(load=b"hello")
    assert edge(lab).retransmits == 0
    connection.forth(load=b"hello", sequence=sent_at)
    connection.forth(load=b"world")
    assert edge(lab).retransmits == 1
    flow = lab.flow(client, server, 40000, 80)
    assert flow is not None
    assert flow.retransmits == 1


def test_the_round_trip_is_that_of_the_handshake_first(lab: Lab) -> None:
    connection = Connection(lab)
    began = time.monotonic()
    connection.forth("S")
    time.sleep(0.02)
    connection.back("SA")
    took = time.monotonic() - began
    found = edge(lab)
    assert found.rtt_samples == 1
    assert 20_000 <= found.rtt_us <= took * 1e6
    back = lab.flow(SERVER, CLIENT, 80, 40000)
    assert back is not None
    assert back.rtt_us == found.rtt_us


def test_what_was_sent_again_is_not_timed(lab: Lab) -> None:
    connection = Connection(lab)
    connection.forth("S")
    connection.forth("S", sequence=1000)
    connection.back("SA")
    assert edge(lab).rtt_samples == 0


@FAMILIES
@pytest.mark.parametrize("how", ["finished", "reset"])
def test_the_end_of_a_connection_sums_it_up(lab: Lab, client: str, server: str, how: str) -> None:
    began = time.monotonic()
    connection = Connection(lab, client, server)
    connection.open()
    if how == "finished":
        connection.forth("FA")
        connection.back("FA")
    else:
        connection.back("R")
    took = time.monotonic() - began
    (end,) = told(lab, EndEvent)
    assert (str(end.source), end.source_port, str(end.destination), end.destination_port) == (client, 40000, server, 80)
    assert (end.source_identity, end.destination_identity) == (CLIENT_ID, SERVER_ID)
    assert end.reset == (how == "reset")
    forth, back = lab.flow(client, server, 40000, 80), lab.flow(server, client, 80, 40000)
    assert forth is not None
    assert back is not None
    assert (end.packets, end.reply_packets) == (forth.packets, back.packets)
    assert 0 < end.duration_ns <= took * 1e9
    assert edge(lab).resets == (how == "reset")


@FAMILIES
def test_a_request_and_its_answer(lab: Lab, client: str, server: str) -> None:
    connection = Connection(lab, client, server)
    connection.open()
    began = time.monotonic()
    for status in (200, 503):
        connection.forth(load=REQUEST)
        time.sleep(0.002)
        connection.back(load=ANSWER.replace(b"200 OK", b"%d No" % status))
    took = time.monotonic() - began
    answers = told(lab, HttpEvent)
    assert [(one.method, one.path[: one.path_length], one.status) for one in answers] == [
        (HttpMethod.GET, b"/orders/7", 200),
        (HttpMethod.GET, b"/orders/7", 503),
    ]
    assert (str(answers[0].source), str(answers[0].destination)) == (client, server)
    assert all(2000 <= one.latency_us <= took * 1e6 for one in answers)
    found = edge(lab)
    assert (found.requests, found.errors) == (2, 1)
    assert found.latency_us == sum(one.latency_us for one in answers)


@pytest.mark.parametrize("method", list(HttpMethod))
def test_every_method_is_known(lab: Lab, method: HttpMethod) -> None:
    connection = Connection(lab)
    connection.open()
    connection.forth(load=REQUEST.replace(b"GET", method.name.encode()))
    connection.back(load=ANSWER)
    (answer,) = told(lab, HttpEvent)
    assert answer.method == method


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/", b"/"), (b"/" + b"a" * 62, b"/" + b"a" * 62), (b"/" + b"b" * 200, b"/" + b"b" * 63), (b"*", b"*")],
)
def test_paths_of_all_lengths(lab: Lab, target: bytes, path: bytes) -> None:
    connection = Connection(lab)
    connection.open()
    connection.forth(load=b"GET " + target + b" HTTP/1.1\r\n\r\n")
    connection.back(load=ANSWER)
    (answer,) = told(lab, HttpEvent)
    assert answer.path[: answer.path_length] == path


def test_continue_is_no_answer(lab: Lab) -> None:
    connection = Connection(lab)
    connection.open()
    connection.forth(load=REQUEST)
    connection.back(load=b"HTTP/1.1 100 Continue\r\n\r\n")
    assert told(lab, HttpEvent) == []
    connection.back(load=ANSWER)
    assert [one.status for one in told(lab, HttpEvent)] == [200]


@pytest.mark.parametrize("load", [b"HELO mail.example\r\n", b"GETTING nowhere at all", b"\x16\x03\x01" + bytes(40)])
def test_what_is_not_http_is_left_alone(lab: Lab, load: bytes) -> None:
    connection = Connection(lab)
    connection.open()
    connection.forth(load=load)
    connection.back(load=ANSWER)
    assert told(lab, HttpEvent) == []


def bucket(seconds: float) -> int:
    """The first is up to 64 us, each other as far again as all before it."""
    return min(max(int(seconds * 1e6).bit_length() - 6, 0), LATENCY_BUCKETS - 1)


def test_latencies_fall_into_buckets(lab: Lab) -> None:
    connection = Connection(lab)
    connection.open()
    buckets = []
    for wait in (0.0, 0.03):
        began = time.monotonic()
        connection.forth(load=REQUEST)
        time.sleep(wait)
        connection.back(load=ANSWER)
        buckets.append(range(bucket(wait), bucket(time.monotonic() - began) + 1))
    key = EdgeKey(CLIENT_ID, SERVER_ID, 80, TCP_NUMBER, Verdict.ALLOW)
    totals = [0] * LATENCY_BUCKETS
    for value in lab.datapath.edges.per_cpu(key):
        totals = [
            left + right
            for left, right in zip(totals, struct.unpack(f"<{LATENCY_BUCKETS}I", value.latency), strict=True)
        ]
    found = [number for number, count in enumerate(totals) for _ in range(count)]
    assert [number in allowed for number, allowed in zip(found, buckets, strict=True)] == [True, True]
    assert found[1] >= 9, "16 ms and more"


@FAMILIES
def test_a_traced_packet_tells_every_hop(lab: Lab, client: str, server: str) -> None:
    lab.datapath.traces.put(flow_key(client, server, 40000, 80), 9)
    lab.datapath.state.put(0, DatapathState(0, 1))
    connection = Connection(lab, client, server)
    connection.forth("S")
    connection.back("SA")
    hops = told(lab, HopEvent)
    assert {hop.trace for hop in hops} == {9}
    assert [hop.step for hop in hops] == [
        HopStep.ENTERED,
        HopStep.SENDER,
        HopStep.EGRESS,
        HopStep.INGRESS,
        HopStep.REMEMBERED,
        HopStep.INSTANCE,
        HopStep.ENTERED,
        HopStep.SENDER,
        HopStep.KNOWN,
        HopStep.INSTANCE,
    ]


def test_a_trace_goes_through_a_service_and_names_the_rule_that_drops(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    rule = lab.deny_all(SERVER_ID, Direction.INGRESS)
    lab.datapath.traces.put(flow_key(CLIENT, VIP, 40000, 80), 3)
    lab.datapath.state.put(0, DatapathState(0, 1))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    hops = told(lab, HopEvent)
    assert [hop.step for hop in hops] == [
        HopStep.ENTERED,
        HopStep.SENDER,
        HopStep.SERVICE,
        HopStep.EGRESS,
        HopStep.INGRESS,
        HopStep.DROPPED,
    ]
    assert hops[1].a == CLIENT_ID
    assert (hops[4].a, hops[4].b, hops[5].reason) == (rule, Verdict.DENY, DropReason.POLICY_INGRESS)


def test_a_traced_packet_that_is_refused_tells_that_its_sender_was_told(lab: Lab) -> None:
    lab.serve()
    lab.datapath.traces.put(flow_key(CLIENT, VIP, 40000, 80), 3)
    lab.datapath.state.put(0, DatapathState(0, 1))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    hops = told(lab, HopEvent)
    assert [hop.step for hop in hops] == [HopStep.ENTERED, HopStep.SENDER, HopStep.DROPPED, HopStep.ANSWERED]
    assert hops[2].reason == DropReason.NO_BACKEND


def test_nothing_is_traced_that_was_not_asked_for(lab: Lab) -> None:
    lab.datapath.traces.put(flow_key(CLIENT, SERVER, 40001, 80), 9)
    lab.datapath.state.put(0, DatapathState(0, 1))
    lab.from_instance(tcp(CLIENT, SERVER, 40000, 80))
    assert told(lab, HopEvent) == []


def test_an_instance_sends_no_more_than_its_limit(lab: Lab) -> None:
    key = EndpointKey(Address.from_ip(CLIENT))
    endpoint = lab.datapath.endpoints.get(key)
    assert endpoint is not None
    lab.datapath.endpoints.put(key, replace(endpoint, flags=EndpointFlags.LIMITED))
    lab.datapath.limits.put(lab.links[CLIENT], LimitValue(100_000, 50_000_000, 0))
    began, passed = time.monotonic(), 0
    while lab.from_instance(udp(CLIENT, SERVER, load=bytes(958))).action != SHOT:
        passed += 1
    # A thousand bytes take 10 ms; 50 ms may be owed. While a slow machine sends the others, more become due.
    assert 5 <= passed <= 7 + (time.monotonic() - began) / 0.01
    packets = [lab.from_instance(udp(CLIENT, SERVER, load=bytes(958))).action for _ in range(100)]
    assert packets.count(SHOT) >= 98 - (time.monotonic() - began) / 0.01
    time.sleep(0.1)
    assert lab.from_instance(udp(CLIENT, SERVER, load=bytes(958))).action != SHOT
    assert {reason for reason, _ in lab.drops()} == {DropReason.BANDWIDTH}


def test_a_request_of_an_earlier_connection_is_not_answered_by_a_later_one(lab: Lab) -> None:
    first = Connection(lab)
    first.open()
    first.forth("PA", b"GET /first HTTP/1.1\r\n\r\n")
    first.forth("RA")
    second = Connection(lab)
    second.open()
    second.forth("PA", REQUEST)
    second.back("PA", ANSWER)
    (event,) = told(lab, HttpEvent)
    assert event.path[: event.path_length] == b"/orders/7"


def test_a_request_that_is_sent_again_is_one_request(lab: Lab) -> None:
    connection = Connection(lab)
    connection.open()
    connection.forth("PA", REQUEST)
    connection.back("PA", ANSWER)
    connection.forth("PA", REQUEST, sequence=connection.next["forth"] - len(REQUEST))
    connection.forth("PA", b"GET /second HTTP/1.1\r\n\r\n")
    connection.back("PA", ANSWER)
    paths = [event.path[: event.path_length] for event in told(lab, HttpEvent)]
    assert paths == [b"/orders/7", b"/second"]


def test_answers_are_traced_of_a_flow_that_was_there_before(lab: Lab) -> None:
    lab.serve((SERVER, 8080))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80))
    lab.datapath.traces.put(flow_key(CLIENT, VIP, 40000, 80), 9)
    lab.datapath.state.put(0, DatapathState(0, 1))
    lab.from_instance(tcp(CLIENT, VIP, 40000, 80, "A"))
    told(lab, HopEvent)
    lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "A"), SERVER)
    steps = [hop.step for hop in told(lab, HopEvent)]
    assert steps == [HopStep.ENTERED, HopStep.SENDER, HopStep.KNOWN, HopStep.TRANSLATED, HopStep.INSTANCE]
