"""Graph: the way from needs to parts to packages of an image, as DOT (graphviz.org/doc/info/lang.html) and SVG.

The SVG is laid out here, in columns by distance from the app, so that no program is needed to look at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from whit.image.provenance.bill import Bill
from whit.image.provenance.needs import APP

_COLUMN, _ROW, _HEIGHT, _LETTER, _MARGIN = 90, 34, 24, 7.2, 20
_COLOURS = {"app": "#1f2937", "part": "#2563eb", "need": "#b45309", "deb": "#047857", "pypi": "#7c3aed"}


@dataclass(frozen=True)
class Vertex:
    id: str
    label: str
    kind: str


@dataclass(frozen=True)
class Edge:
    source: str
    target: str
    label: str = ""


def drawing(bill: Bill) -> tuple[list[Vertex], list[Edge]]:
    """The app, its parts, what each needs, and the packages with what depends on them; in a stable order."""
    vertices = [Vertex(APP, APP, "app")]
    edges: list[Edge] = []
    met = {target for part in bill.parts for _, target in part.needs}
    for part in bill.parts:
        added = part.id.removeprefix(f"{part.inside}/").startswith("need:")
        vertices.append(Vertex(part.id, part.id, "need" if added else "part"))
        if not added or part.id not in met:
            edges.append(Edge(part.inside or APP, part.id))
        edges += [Edge(part.id, target, need) for need, target in part.needs]
    for billed in bill.packages:
        vertices.append(Vertex(f"package:{billed.package.id}", billed.package.pinned, billed.package.kind))
        source = f"package:{billed.via}" if billed.via else billed.part
        edges.append(Edge(source, f"package:{billed.package.id}"))
    return vertices, sorted(set(edges), key=lambda edge: (edge.source, edge.target, edge.label))


def dot(bill: Bill) -> str:
    vertices, edges = drawing(bill)
    lines = ["digraph image {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for vertex in vertices:
        lines.append(f"  {_quoted(vertex.id)} [label={_quoted(vertex.label)}, color={_quoted(_colour(vertex))}];")
    for edge in edges:
        label = f" [label={_quoted(edge.label)}]" if edge.label else ""
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)}{label};")
    return "\n".join([*lines, "}", ""])


def svg(bill: Bill) -> str:
    vertices, edges = drawing(bill)
    places, width, height = _placed(vertices, edges)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    lines = [f'{head} font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    lines += [_line(places, edge) for edge in edges if edge.source in places and edge.target in places]
    lines += [_box(places[vertex.id], vertex) for vertex in vertices]
    return "\n".join([*lines, "</svg>", ""])


def _placed(vertices: list[Vertex], edges: Iterable[Edge]) -> tuple[dict[str, tuple[float, float, float]], int, int]:
    """Left, top and width of each box; width and height of the whole. A column is as wide as its widest box."""
    depth = {APP: 0}
    queue = [APP]
    targets: dict[str, list[str]] = {}
    for edge in edges:
        targets.setdefault(edge.source, []).append(edge.target)
    while queue:
        for target in targets.get(queue[0], []):
            if target not in depth:
                depth[target] = depth[queue[0]] + 1
                queue.append(target)
        queue.pop(0)
    columns: dict[int, list[Vertex]] = {}
    for vertex in vertices:
        columns.setdefault(depth.get(vertex.id, 1), []).append(vertex)
    places: dict[str, tuple[float, float, float]] = {}
    left: float = _MARGIN
    for _, column in sorted(columns.items()):
        wide = max(len(vertex.label) for vertex in column) * _LETTER + 16
        for row, vertex in enumerate(column):
            places[vertex.id] = (left, _MARGIN + row * _ROW, len(vertex.label) * _LETTER + 16)
        left += wide + _COLUMN
    tallest = max(len(column) for column in columns.values())
    return places, round(left - _COLUMN + _MARGIN), 2 * _MARGIN + tallest * _ROW


def _line(places: dict[str, tuple[float, float, float]], edge: Edge) -> str:
    left, top, wide = places[edge.source]
    x1, y1 = left + wide, top + _HEIGHT / 2
    x2, y2 = places[edge.target][0], places[edge.target][1] + _HEIGHT / 2
    bend = (x1 + x2) / 2
    path = f'<path d="M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}" fill="none" stroke="#9ca3af"/>'
    if not edge.label:
        return path
    return f'{path}<text x="{x2 - 6:g}" y="{y2 - 4:g}" text-anchor="end" fill="#6b7280">{escape(edge.label)}</text>'


def _box(place: tuple[float, float, float], vertex: Vertex) -> str:
    left, top, wide = place
    box = f'<rect x="{left:g}" y="{top:g}" width="{wide:g}" height="{_HEIGHT}" rx="4" fill="white" '
    text = f'<text x="{left + 8:g}" y="{top + 16:g}">{escape(vertex.label)}</text>'
    return f"{box}stroke={quoteattr(_colour(vertex))}/>{text}"


def _colour(vertex: Vertex) -> str:
    return _COLOURS.get(vertex.kind, "#1f2937")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
