"""The top command: every edge with its rate, errors, latency, bytes and retransmits, as they are now."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError
from whit.cli.display.output import Output, colourful
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.edge import Edge

SORTS: dict[str, Callable[[Edge], float]] = {
    "rate": lambda edge: edge.requests or edge.flows,
    "errors": lambda edge: edge.errors,
    "p50": lambda edge: edge.quantile(0.5) or 0,
    "p99": lambda edge: edge.quantile(0.99) or 0,
    "bytes": lambda edge: edge.bytes + edge.reply_bytes,
    "retransmits": lambda edge: edge.retransmits,
}
COLUMNS = ("SOURCE", "DESTINATION", "PORT", "FLOWS/S", "REQ/S", "ERR", "P50", "P99", "RTT", "OUT/S", "IN/S", "RETR", "")
WIDE = ("RTT", "RETR")
NONE = "-"


def add(app: typer.Typer) -> None:
    command(app)(top)
    command(app)(metrics)


def top(
    run: Invocation,
    app: Annotated[str, typer.Argument(metavar="APP", help="Only edges of this app; default all.")] = "",
    sort: Annotated[str, typer.Option(metavar="COLUMN", help=f"By {', '.join(SORTS)}.")] = "rate",
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Time between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print, and end.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also edges on which nothing happens.")] = False,
) -> None:
    """Show who asks whom, live: rates, errors, latency, bytes, retransmits.

    Requests, errors and latencies are those of HTTP/1, which the kernel reads as it goes by. In a pipe and with
    --json, one table or document an interval.

    \b
    Example:
      whit top
      whit top shop --sort p99 --once
    """
    from whit.cli import appfile

    if sort not in SORTS:
        raise InputError(f"--sort: there is no column {sort}", hint=f"one of {', '.join(SORTS)}")
    name = appfile.named_app(app, run.client.apps()) if app else ""
    before, at = run.client.edges(name), time.monotonic()
    while True:
        time.sleep(interval)
        now, seen = run.client.edges(name), time.monotonic()
        show(run, chosen(now, before, seen - at, sort, every=every))
        if once:
            return
        before, at = now, seen


def metrics(run: Invocation) -> None:
    """Print the metrics of this node, in the text format of Prometheus.

    With WHIT_METRICS_LISTEN=127.0.0.1:9464 in its environment the agent also serves them there, on /metrics.

    \b
    Example:
      whit metrics
    """
    text = run.client.metrics()
    if run.json:
        run.output.document({"text": text})
    else:
        print(text, end="")


def chosen(now: Sequence[Edge], before: Sequence[Edge], seconds: float, sort: str, *, every: bool) -> list[Edge]:
    """What happened between two looks, the greatest first; then in the order of names, so that lines stay in place."""
    from whit.model.edge import difference

    found = [edge for edge in difference(now, before, seconds) if every or edge.packets or edge.reply_packets]
    return sorted(found, key=lambda edge: (-SORTS[sort](edge), edge.key))


def show(run: Invocation, edges: Sequence[Edge]) -> None:
    if run.json:
        run.output.document([edge_document(edge) for edge in edges])
        return
    live = colourful(sys.stdout)
    if live:
        print("\x1b[H\x1b[2J", end="")
    print_edges(run.output, edges)
    if live:
        print("\x1b[2mCtrl-C ends\x1b[0m", end="", flush=True)


def print_edges(output: Output, edges: Sequence[Edge]) -> None:
    if edges:
        output.table(COLUMNS, [row(edge) for edge in edges], wide=WIDE)
    else:
        output.line("nothing goes on")


def row(edge: Edge) -> tuple[str, ...]:
    return (
        edge.source,
        edge.destination,
        edge.label,
        _rate(edge.rate("flows")),
        _rate(edge.rate("requests")),
        f"{100 * edge.errors / edge.requests:.1f}%" if edge.errors else NONE,
        latency_text(edge.quantile(0.5)),
        latency_text(edge.quantile(0.99)),
        latency_text(edge.rtt),
        _size(edge.rate("bytes")),
        _size(edge.rate("reply_bytes")),
        str(edge.retransmits or NONE),
        remark_of(edge),
    )


def remark_of(edge: Edge) -> str:
    if edge.verdict == "deny":
        return f"deny: rule {edge.rule}" if edge.rule else "deny"
    return "undeclared" if edge.undeclared else ""


def edge_document(edge: Edge) -> dict[str, object]:
    """The edge with what follows from its counters."""
    return {
        **edge.model_dump(mode="json"),
        "flows_per_second": edge.rate("flows"),
        "requests_per_second": edge.rate("requests"),
        "bytes_per_second": edge.rate("bytes"),
        "reply_bytes_per_second": edge.rate("reply_bytes"),
        "p50_us": edge.quantile(0.5),
        "p99_us": edge.quantile(0.99),
        "rtt_mean_us": edge.rtt,
    }


def latency_text(microseconds: float | None) -> str:
    from whit.cli.commands.flows import duration_text

    return NONE if microseconds is None else duration_text(microseconds / 1e6)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value else NONE


def _size(value: float) -> str:
    from whit.cli.commands.inspection import size_text

    return size_text(round(value)) if value else NONE
