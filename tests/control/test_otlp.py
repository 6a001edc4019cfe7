"""What a collector gets: a small one of the test, which decodes what is posted to it by the published messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from whit.base.settings import Settings
from whit.control.observing import otlp
from whit.control.observing.otlp import Export
from whit.model.edge import Edge
from whit.model.flow import Ended, Exchange, Flow, Party

MESSAGES: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}
TIME = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
WEB = Party(address="10.1.0.2", port=40000, identity=1, name="shop/web")
API = Party(address="10.1.0.3", port=8000, identity=2, name="shop/api")
OUT = Party(address="203.0.113.7", port=443, identity=3, name="world", dns="api.example.com")


class Collector:
    """A real HTTP server on loopback."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = {path: [] for path in MESSAGES}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.got[self.path].append(MESSAGES[self.path].FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(30)
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def attributes(message: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in message.attributes}


def flow(**more: Any) -> Flow:
    document = {"time": TIME, "source": WEB, "destination": API, "protocol": "tcp", "verdict": "allow"} | more
    return Flow(**document)


async def test_flows_exchanges_and_edges_arrive(collector: Collector, settings: Settings) -> None:
    export = await Export.start(Settings(id=settings.id, otlp_endpoint=collector.endpoint))
    http = Exchange(method="GET", path="/orders", status=503, latency_us=250_000)
    export.tell(flow(kind="http", http=http))
    export.tell(flow(verdict="deny", reason="POLICY_EGRESS", rule=7, rule_text="web is declared", destination=OUT))
    ended = Ended(seconds=2.5, packets=3, bytes=300, reply_packets=4, reply_bytes=4000, rtt_us=90, retransmits=1)
    export.tell(flow(kind="end", end=ended))
    edge = Edge(
        source="shop/web", destination="shop/api", port=8000, protocol="tcp", verdict="allow", flows=5, requests=6,
        latency_us=3000, latency=(1, 2, 3, *[0] * 13),
    )  # fmt: skip
    export.send_edges([edge])
    export.close()

    (span,) = collector.got["/v1/traces"][0].resource_spans[0].scope_spans[0].spans
    assert (span.name, span.kind, span.status.code) == ("GET shop/api", 2, 2)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert span.end_time_unix_nano == int(TIME.timestamp()) * 10**9 + 250_000_000
    seen = attributes(span)
    assert (seen["http.request.method"], seen["url.path"], seen["http.response.status_code"]) == ("GET", "/orders", 503)
    assert (seen["whit.source"], seen["server.port"]) == ("shop/web", 8000)

    resource = collector.got["/v1/logs"][0].resource_logs[0]
    assert attributes(resource.resource)["service.instance.id"] == settings.id
    denied, closed = resource.scope_logs[0].log_records
    assert denied.body.string_value == "deny: shop/web -> api.example.com:443 tcp: POLICY_EGRESS"
    assert (denied.severity_text, attributes(denied)["whit.rule"]) == ("WARN", "web is declared")
    assert (attributes(closed)["whit.end.reply_bytes"], closed.severity_text) == (4000, "INFO")

    metrics = {one.name: one for one in collector.got["/v1/metrics"][0].resource_metrics[0].scope_metrics[0].metrics}
    assert metrics["whit.edge.flows"].sum.data_points[0].as_int == 5
    assert metrics["whit.edge.flows"].sum.is_monotonic
    (latency,) = metrics["whit.edge.http.latency"].histogram.data_points
    assert (latency.count, list(latency.bucket_counts)[:4], round(latency.sum, 4)) == (6, [1, 2, 3, 0], 0.003)
    assert len(latency.explicit_bounds) == len(latency.bucket_counts) - 1
    assert attributes(latency)["whit.destination"] == "shop/api"


def test_doctor_speaks_of_it_where_it_is_asked_for(settings: Settings) -> None:
    assert otlp.features(settings) == []
    (one,) = otlp.features(Settings(id=settings.id, otlp_endpoint="http://127.0.0.1:4318"))
    assert (one.name, one.state) == ("OTLP export", "works")
