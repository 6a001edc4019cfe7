"""Metrics of one node, in the text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whit import __version__
from whit.control.observing.alarms import lost_events, reason_name
from whit.mesh.flows.naming import HOOKS
from whit.model.edge import BUCKETS, Edge, bound_us

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from whit.control.observing.observation import Observation

_EDGE = ("source", "destination", "port", "protocol", "verdict")
_COUNTED = (
    ("whit_edge_flows", "flows", "Flows that began; of a denied edge, packets dropped."),
    ("whit_edge_retransmits", "retransmits", "TCP segments that were sent again."),
    ("whit_edge_resets", "resets", "TCP resets."),
    ("whit_edge_http_requests", "requests", "HTTP/1 requests that were answered."),
    ("whit_edge_http_errors", "errors", "Of them, answered with status 500 and above."),
)
_WAYS = (
    ("whit_edge_packets", "Packets.", (("out", "packets"), ("back", "reply_packets"))),
    ("whit_edge_bytes", "Bytes, from the IP header on.", (("out", "bytes"), ("back", "reply_bytes"))),
)


class Collected:
    """What a registry collects. Made anew for each scrape, so nothing is kept between two."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


async def exposition(observation: Observation) -> bytes:
    """All metrics, as they are now."""
    from prometheus_client import CollectorRegistry, generate_latest

    edges = await observation.edges()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected([*_of_edges(edges), *_of_node(observation)]))
    return generate_latest(registry)


def _of_edges(edges: Sequence[Edge]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily

    for name, counter, text in _COUNTED:
        counted = CounterMetricFamily(name, text, labels=_EDGE)
        for edge in edges:
            counted.add_metric(_labels(edge), getattr(edge, counter))
        yield counted
    for name, text, ways in _WAYS:
        counted = CounterMetricFamily(name, text, labels=(*_EDGE, "way"))
        for edge in edges:
            for way, counter in ways:
                counted.add_metric((*_labels(edge), way), getattr(edge, counter))
        yield counted
    latency = HistogramMetricFamily("whit_edge_http_latency_seconds", "From request to answer.", labels=_EDGE)
    rtt = SummaryMetricFamily("whit_edge_rtt_seconds", "TCP round trips, sampled.", labels=_EDGE)
    for edge in edges:
        if edge.requests:
            latency.add_metric(_labels(edge), _buckets(edge), edge.latency_us / 1e6)
        if edge.rtt_samples:
            rtt.add_metric(_labels(edge), count_value=edge.rtt_samples, sum_value=edge.rtt_us / 1e6)
    yield latency
    yield rtt


def _labels(edge: Edge) -> Sequence[str]:
    return edge.source, edge.destination, str(edge.port), edge.protocol, edge.verdict


def _buckets(edge: Edge) -> list[tuple[str, float]]:
    """Cumulative; the last one has no bound."""
    found, total = [], 0
    for bucket, count in enumerate(edge.latency):
        total += count
        bound = "+Inf" if bucket == BUCKETS - 1 else repr(bound_us(bucket) / 1e6)
        found.append((bound, float(total)))
    return found


def _of_node(observation: Observation) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    drops = dict(observation.network.datapath.drops.items())
    packets = CounterMetricFamily("whit_drops", "Packets dropped.", labels=("reason", "hook"))
    size = CounterMetricFamily("whit_drop_bytes", "Bytes of packets dropped.", labels=("reason", "hook"))
    for key, value in drops.items():
        if key.reason:
            labels = reason_name(key.reason), HOOKS.get(key.hook, str(key.hook))
            packets.add_metric(labels, value.packets)
            size.add_metric(labels, value.bytes)
    yield from (packets, size)
    yield CounterMetricFamily("whit_events_lost", "Events that found the ring full.", value=lost_events(drops))
    entries = GaugeMetricFamily("whit_map_entries", "Entries of a map of the datapath.", labels=("map",))
    room = GaugeMetricFamily("whit_map_max_entries", "Entries that it has room for.", labels=("map",))
    for fill in observation.fills:
        entries.add_metric((fill.map,), fill.entries)
        room.add_metric((fill.map,), fill.room)
    yield from (entries, room)
    yield from _instances(observation)
    alarms = GaugeMetricFamily("whit_alarms", "1 for each alarm.", labels=("name", "severity"))
    for alarm in observation.alarms:
        alarms.add_metric((alarm.name, alarm.severity), 1)
    yield alarms
    yield InfoMetricFamily("whit_agent", "The agent.", value={"version": __version__, "id": observation.settings.id})
    yield from _agent(observation)


def _instances(observation: Observation) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    labels = ("app", "service", "state", "health")
    family = GaugeMetricFamily("whit_instances", "Instances by state and health.", labels=labels)
    counted = Counter((one.app, one.service, one.state, one.health) for one in observation.instances())
    for where, count in sorted(counted.items()):
        family.add_metric(where, count)
    yield family
    restarts = GaugeMetricFamily("whit_instance_restarts", "How often it was started again.", labels=("instance",))
    for one in observation.instances():
        restarts.add_metric((one.name,), one.restarts)
    yield restarts


def _agent(observation: Observation) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    used = os.times()
    yield GaugeMetricFamily("whit_agent_resident_bytes", "Memory of the agent.", value=resident_bytes())
    yield CounterMetricFamily("whit_agent_cpu_seconds", "Processor time of the agent.", value=used.user + used.system)
    yield GaugeMetricFamily(
        "whit_agent_loop_lag_seconds", "By how much the event loop was late at worst, since the last scrape.",
        value=observation.flow_log.lag,
    )  # fmt: skip
    observation.flow_log.lag = 0.0
    swept = observation.sweep
    yield GaugeMetricFamily("whit_sweep_seconds", "What the last sweep of the flow table took.", value=swept.seconds)
    yield GaugeMetricFamily("whit_sweep_deleted", "Entries that it deleted.", value=swept.deleted)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
