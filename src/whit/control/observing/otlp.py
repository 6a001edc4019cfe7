"""Exports to a collector by OTLP over HTTP: HTTP exchanges as spans, other flows as log records, edges as metrics.

The OpenTelemetry SDK is a dependency of those alone who configure an endpoint (`whit[otlp]`); it batches, and sends in
threads of its own. A collector that is away or slow costs what it would have been told, and nothing else.
Names of attributes are OpenTelemetry's (opentelemetry.io/docs/specs/semconv), where it has one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from whit import __version__
from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.mesh.flows.log import FlowLog
from whit.model.edge import BUCKETS, Edge, bound_us
from whit.model.feature import Feature
from whit.model.flow import Flow, Party

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource

METRICS_SECONDS = 30.0
_MODULES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_HINT = "`pip install 'whit[otlp]'`; from a checkout, ./whit installs it while WHIT_OTLP_ENDPOINT is set"
_SEVERITY = {"deny": "WARN", "audit": "WARN"}
_COUNTERS = {
    "whit.edge.flows": "flows",
    "whit.edge.packets": "packets",
    "whit.edge.reply_packets": "reply_packets",
    "whit.edge.bytes": "bytes",
    "whit.edge.reply_bytes": "reply_bytes",
    "whit.edge.retransmits": "retransmits",
    "whit.edge.resets": "resets",
    "whit.edge.http.requests": "requests",
    "whit.edge.http.errors": "errors",
}


def installed() -> bool:
    """Whether the SDK is there; nothing of it is loaded."""
    try:
        return all(find_spec(module) for module in _MODULES)
    except ModuleNotFoundError:
        return False


def features(settings: Settings) -> list[Feature]:
    """For `whit doctor`: nothing to say where no endpoint is asked for."""
    if not settings.otlp_endpoint:
        return []
    state = {True: "works", False: "missing"}[installed()]
    return [Feature(name="OTLP export", state=state, detail=settings.otlp_endpoint, hint=_HINT)]


class Export:
    """To one collector. Made by `start`."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        base = endpoint.rstrip("/")
        self.resource = resource
        self.began_ns = time.time_ns()
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces")))
        self._logs = LoggerProvider(resource=resource)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{base}/v1/logs")))
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics")
        self._tracer = self._traces.get_tracer("whit", __version__)
        self._logger = self._logs.get_logger("whit", __version__)

    @classmethod
    async def start(cls, settings: Settings) -> Export:
        """Raises Unavailable if the SDK is not installed."""
        if not installed():
            raise Unavailable("WHIT_OTLP_ENDPOINT is set, but OpenTelemetry's SDK is not installed", hint=_HINT)
        return await asyncio.to_thread(cls._load, settings)

    @classmethod
    def _load(cls, settings: Settings) -> Export:
        """Loading takes half a second."""
        from opentelemetry.sdk.resources import Resource

        attributes = {"service.name": "whit", "service.version": __version__, "service.instance.id": settings.id}
        return cls(settings.otlp_endpoint, Resource.create(attributes))

    def close(self) -> None:
        """Send what waits. May take as long as the collector does."""
        self._traces.shutdown()
        self._logs.shutdown()
        self._metrics.shutdown()

    async def tell_flows(self, flow_log: FlowLog) -> None:
        """For ever. What comes faster than it can be told is left out."""
        async for flow in flow_log.follow(lambda _: True):
            self.tell(flow)

    async def tell_edges(self, edges: Callable[[], Awaitable[Sequence[Edge]]]) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            await asyncio.to_thread(self.send_edges, await edges())

    def tell(self, flow: Flow) -> None:
        if flow.http:
            self._tell_exchange(flow)
        else:
            self._tell_flow(flow)

    def _tell_exchange(self, flow: Flow) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        assert flow.http
        end = _nanoseconds(flow)
        attributes = _attributes(flow) | {
            "http.request.method": flow.http.method,
            "url.path": flow.http.path,
            "http.response.status_code": flow.http.status,
        }
        name = f"{flow.http.method} {flow.destination.name}"
        start = end - flow.http.latency_us * 1000
        span = self._tracer.start_span(name, kind=SpanKind.SERVER, attributes=attributes, start_time=start)
        if flow.http.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=end)

    def _tell_flow(self, flow: Flow) -> None:
        from opentelemetry._logs import LogRecord, SeverityNumber

        severity = _SEVERITY.get(flow.verdict, "INFO")
        self._logger.emit(
            LogRecord(
                timestamp=_nanoseconds(flow),
                severity_text=severity,
                severity_number=SeverityNumber[severity],
                body=_said(flow),
                attributes=_attributes(flow) | _of_end(flow),
            )
        )

    def send_edges(self, edges: Sequence[Edge]) -> None:
        """Blocks until they are sent, or the exporter gives up."""
        self._metrics.export(self.metrics_of(edges))

    def metrics_of(self, edges: Sequence[Edge]) -> MetricsData:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        now = time.time_ns()
        metrics = [self._sum(name, counter, edges, now) for name, counter in _COUNTERS.items()]
        metrics.append(self._latency(edges, now))
        scope = ScopeMetrics(InstrumentationScope("whit", __version__), metrics, "")
        return MetricsData([ResourceMetrics(self.resource, [scope], "")])

    def _sum(self, name: str, counter: str, edges: Sequence[Edge], now: int) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint, Sum

        points = [NumberDataPoint(_of_edge(edge), self.began_ns, now, getattr(edge, counter)) for edge in edges]
        return Metric(name, "", "1", Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True))

    def _latency(self, edges: Sequence[Edge], now: int) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

        bounds = [bound_us(bucket) / 1e6 for bucket in range(BUCKETS - 1)]
        points = [
            HistogramDataPoint(
                attributes=_of_edge(edge),
                start_time_unix_nano=self.began_ns,
                time_unix_nano=now,
                count=sum(edge.latency),
                sum=edge.latency_us / 1e6,
                bucket_counts=edge.latency,
                explicit_bounds=bounds,
                min=0,
                max=0,
            )
            for edge in edges
            if edge.requests
        ]
        return Metric("whit.edge.http.latency", "", "s", Histogram(points, AggregationTemporality.CUMULATIVE))


def _nanoseconds(flow: Flow) -> int:
    return int(flow.time.timestamp() * 1e6) * 1000


def _attributes(flow: Flow) -> dict[str, Any]:
    found: Mapping[str, Any] = {
        **_ends("client", "source", flow.source),
        **_ends("server", "destination", flow.destination),
        "network.transport": flow.protocol,
        "whit.kind": flow.kind,
        "whit.verdict": flow.verdict,
        "whit.reason": flow.reason,
        "whit.rule.id": flow.rule,
        "whit.rule": flow.rule_text,
        "whit.undeclared": flow.undeclared,
    }
    return {key: value for key, value in found.items() if value}


def _ends(side: str, role: str, party: Party) -> dict[str, Any]:
    return {f"{side}.address": party.dns or party.address, f"{side}.port": party.port, f"whit.{role}": party.name}


def _of_end(flow: Flow) -> dict[str, Any]:
    if flow.end is None:
        return {}
    return {f"whit.end.{key}": value for key, value in flow.end.model_dump().items()}


def _of_edge(edge: Edge) -> dict[str, Any]:
    return {
        "whit.source": edge.source,
        "whit.destination": edge.destination,
        "server.port": edge.port,
        "network.transport": edge.protocol,
        "whit.verdict": edge.verdict,
    }


def _said(flow: Flow) -> str:
    what = "closed" if flow.kind == "end" else flow.verdict
    ends = f"{flow.source.name} -> {flow.destination.dns or flow.destination.name}:{flow.destination.port}"
    return f"{what}: {ends} {flow.protocol}{f': {flow.reason}' if flow.reason else ''}"
