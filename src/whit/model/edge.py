"""Edge: who asks whom for what, with counters. A flow is one connection, an edge all of them between two services."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from whit.model.base import Observed

FIRST_BUCKET_US = 64
BUCKETS = 16
COUNTERS = (
    "flows", "packets", "bytes", "reply_packets", "reply_bytes", "retransmits", "resets", "rtt_us", "rtt_samples",
    "requests", "errors", "latency_us",
)  # fmt: skip


class Edge(Observed):
    """Counted since the datapath knows the edge, or over the last `seconds`."""

    source: str = Field(description="app/service, world, host, resolver, or a network outside.")
    destination: str
    port: int = Field(description="Of the responder, after translation; for ICMP its type and code, a byte each.")
    protocol: str
    verdict: Literal["allow", "deny"]
    rule: int = Field(default=0, description="The rule that decides it now.")
    rule_text: str = ""
    undeclared: bool = False
    seconds: float = Field(default=0.0, description="0: since the edge is known.")
    flows: int = Field(default=0, description="That began; of a denied edge: packets dropped.")
    packets: int = 0
    bytes: int = 0
    reply_packets: int = 0
    reply_bytes: int = 0
    retransmits: int = 0
    resets: int = 0
    rtt_us: int = Field(default=0, description="Sum over rtt_samples.")
    rtt_samples: int = 0
    requests: int = Field(default=0, description="HTTP, answered.")
    errors: int = Field(default=0, description="Of them, with status 500 and above.")
    latency_us: int = Field(default=0, description="Sum over requests.")
    latency: tuple[int, ...] = Field(
        default=(0,) * BUCKETS,
        description="Requests that took less than 64 us, 128 us, …; the last one all longer ones.",
    )

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        return self.source, self.destination, self.port, self.protocol, self.verdict

    @property
    def label(self) -> str:
        """`5432/tcp`; ICMP has no port."""
        return self.protocol if self.protocol.startswith("icmp") else f"{self.port}/{self.protocol}"

    def rate(self, counter: str) -> float:
        """Of a counter, in one second; 0 where no time is known."""
        return float(getattr(self, counter)) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float | None:
        """Latency in microseconds below which this share of the requests lies, between the bounds of its bucket.

        None without requests. In the last bucket, which has no upper bound, its lower one.
        """
        total = sum(self.latency)
        if not total:
            return None
        rest = share * total
        for bucket, count in enumerate(self.latency):
            if count and rest <= count:
                upper = bound_us(bucket)
                lower = upper / 2 if bucket else 0
                return lower if bucket == BUCKETS - 1 else lower + (upper - lower) * rest / count
            rest -= count
        return bound_us(BUCKETS - 2)

    @property
    def rtt(self) -> float | None:
        """Mean round trip in microseconds."""
        return self.rtt_us / self.rtt_samples if self.rtt_samples else None


def bound_us(bucket: int) -> float:
    """Upper bound of a bucket of latencies."""
    return float(FIRST_BUCKET_US << bucket)


def difference(now: Iterable[Edge], before: Iterable[Edge], seconds: float) -> list[Edge]:
    """What was counted between the two, in so many seconds. An edge that was evicted meanwhile began at 0 again."""
    old = {edge.key: edge for edge in before}
    return [_since(edge, old.get(edge.key), seconds) for edge in now]


def _since(edge: Edge, before: Edge | None, seconds: float) -> Edge:
    if before is None or before.packets > edge.packets:
        return edge.model_copy(update={"seconds": seconds})
    counted = {name: getattr(edge, name) - getattr(before, name) for name in COUNTERS}
    latency = tuple(new - old for new, old in zip(edge.latency, before.latency, strict=True))
    return edge.model_copy(update={**counted, "latency": latency, "seconds": seconds})
