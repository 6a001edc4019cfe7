"""The map command: who reaches whom, as lines on a terminal or as a picture."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError
from whit.cli.commands.top import edge_document, latency_text, remark_of
from whit.cli.display.output import Output, remark
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.cli.display.service_svg import Box, Line
    from whit.model.edge import Edge
    from whit.model.status import AppStatus, ServiceStatus

LABELS = 3
"""Ports of one pair that are named one by one in the picture."""


def add(app: typer.Typer) -> None:
    command(app, name="map")(map_)


def map_(
    run: Invocation,
    app: Annotated[str, typer.Argument(metavar="APP", help="Only this app and who deals with it; default all.")] = "",
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture; - is standard output.")] = None,
    recent: Annotated[bool, typer.Option("--recent", help="Only what happened in the last minute.")] = False,
) -> None:
    """Draw who reaches whom, with the rates of the last minute.

    Denied edges are red, edges that nobody declared are dashed.

    \b
    Example:
      whit map
      whit map shop --svg shop.svg
    """
    from whit.cli import appfile

    if svg and run.json:
        raise InputError("--svg and --json exclude each other")
    apps = run.client.apps()
    name = appfile.named_app(app, apps) if app else ""
    edges = [edge for edge in run.client.edges(name, recent=True) if not recent or edge.packets]
    if run.json:
        run.output.document([edge_document(edge) for edge in edges])
    elif svg:
        _write(svg, picture(edges, [one for one in apps if name in ("", one.name)], name))
    else:
        print_map(run.output, edges)


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        print(text, end="")
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    remark(f"wrote {path}")


def print_map(output: Output, edges: Sequence[Edge]) -> None:
    """Each source with a line for whom it reaches."""
    if not edges:
        output.line("no edge was seen")
    width = max((len(f"{edge.destination} {edge.label}") for edge in edges), default=0)
    for source, own in _by_source(edges):
        output.line(source, style="bold")
        for number, edge in enumerate(own):
            branch = "└" if number == len(own) - 1 else "├"
            output.line(
                f" {branch}{_arrow(edge)} {f'{edge.destination} {edge.label}':{width}}  {said(edge)}", _style(edge)
            )


def _by_source(edges: Iterable[Edge]) -> list[tuple[str, list[Edge]]]:
    found: dict[str, list[Edge]] = defaultdict(list)
    for edge in sorted(edges, key=lambda one: one.key):
        found[edge.source].append(edge)
    return sorted(found.items(), key=lambda one: ("/" in one[0], one[0]))


def _arrow(edge: Edge) -> str:
    if edge.verdict == "deny":
        return "──✗"
    return "╌╌▷" if edge.undeclared else "──▶"


def _style(edge: Edge) -> str:
    if edge.verdict == "deny":
        return "red"
    return "yellow" if edge.errors or edge.undeclared else ""


def said(edge: Edge) -> str:
    """Rate, latency and what is wrong, in a few words."""
    words = [numbers(edge), remark_of(edge) if edge.verdict == "deny" or edge.undeclared else "", edge.rule_text]
    return "  ".join(word for word in (words if edge.verdict == "deny" or edge.undeclared else words[:1]) if word)


def numbers(edge: Edge) -> str:
    if edge.verdict == "deny":
        return f"{edge.packets} dropped" if edge.packets else "quiet"
    if edge.requests:
        errors = f", {100 * edge.errors / edge.requests:.1f}% errors" if edge.errors else ""
        return f"{edge.rate('requests'):.1f} req/s, p99 {latency_text(edge.quantile(0.99))}{errors}"
    if edge.flows:
        return f"{edge.rate('flows'):.1f} flows/s"
    return "connected" if edge.packets else "quiet"


def picture(edges: Sequence[Edge], apps: Sequence[AppStatus], app: str) -> str:
    """The SVG. Somebody outside who is both a source and a destination stands on both sides."""
    from whit.cli.display.service_svg import draw

    statuses = {f"{one.name}/{service.name}": service for one in apps for service in one.services}
    boxes: dict[str, Box] = {name: box_of(name, status, app) for name, status in statuses.items()}
    grouped: dict[tuple[str, str, str], list[Edge]] = defaultdict(list)
    for edge in edges:
        source, target = _key(edge.source, "from"), _key(edge.destination, "to")
        boxes.setdefault(source, box_of(edge.source, statuses.get(edge.source), app))
        boxes.setdefault(target, box_of(edge.destination, statuses.get(edge.destination), app))
        grouped[source, target, edge.verdict].append(edge)
    lines = [line_of(source, target, group) for (source, target, _), group in sorted(grouped.items())]
    title = f"{app}: who reaches whom" if app else "who reaches whom"
    return draw(title, f"rates of the last minute, {time.strftime('%Y-%m-%d %H:%M')}", boxes, lines)


def _key(name: str, side: str) -> str:
    return name if "/" in name and not name[0].isdigit() else f"{side} {name}"


def box_of(name: str, status: ServiceStatus | None, app: str) -> Box:
    from whit.cli.display.service_svg import Box

    title = name.removeprefix(f"{app}/") if app else name
    if status is None:
        return Box(title, OUTSIDE.get(name, "another app" if "/" in name and not name[0].isdigit() else "outside"))
    wanted = f"{status.running} of {status.wanted} run" if status.running != status.wanted else _count(status.running)
    health = "" if status.health == "none" else f", {status.health}"
    return Box(title, f"{wanted}{health}", _state(status))


OUTSIDE: Mapping[str, str] = {
    "world": "everybody outside",
    "host": "this machine",
    "resolver": "name server",
    "nobody": "an address nobody has",
}


def _count(running: int) -> str:
    return "1 instance" if running == 1 else f"{running} instances"


def _state(status: ServiceStatus) -> str:
    if status.health == "unhealthy" or status.running == 0:
        return "bad"
    return "wait" if status.health == "starting" or status.running < status.wanted else "good"


def line_of(source: str, target: str, edges: Sequence[Edge]) -> Line:
    """What is drawn for all ports of a pair with the same verdict."""
    from whit.cli.display.service_svg import Line

    busiest = sorted(edges, key=lambda edge: (-edge.packets, edge.key))
    labels = [f"{edge.label}  {numbers(edge)}" for edge in busiest[:LABELS]]
    if len(edges) == 1:
        labels = [edges[0].label, *numbers(edges[0]).rsplit(", ", 1)]
    elif len(edges) > LABELS:
        labels.append(f"and {len(edges) - LABELS} more ports")
    return Line(
        source,
        target,
        tuple(labels),
        sum(edge.rate("requests") or edge.rate("flows") for edge in edges),
        "denied" if edges[0].verdict == "deny" else "failing" if any(edge.errors for edge in edges) else "good",
        any(edge.undeclared for edge in edges),
    )
