"""Draws the map of services as SVG: boxes with their health, edges with rate, latency and errors. Pure.

Denied edges are red, edges that nobody declared are dashed, and the width of an edge grows with its rate.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from whit.cli.display.layers import Drawing, Pair, lay_out

Point = tuple[float, float]
Side = Callable[[Hashable], float]
"""The x of a side of a box."""

MARGIN, HEADER, FOOTER = 32.0, 56.0, 44.0
SMALLEST_GAP, ROW_GAP = 150.0, 34.0
BOX_HEIGHT = 52.0
TITLE_LETTER, SMALL_LETTER = 8.1, 6.1
LABEL_LINE = 14.0
GREEN, AMBER, RED, GREY, INK, FAINT = "#16a34a", "#d97706", "#dc2626", "#64748b", "#0f172a", "#64748b"
FONT = "'Inter','Segoe UI','DejaVu Sans',system-ui,sans-serif"


@dataclass(frozen=True)
class Box:
    """A service, or somebody outside."""

    title: str
    subtitle: str
    state: str = "outside"
    """good, bad, wait, or outside."""


@dataclass(frozen=True)
class Line:
    """An edge as it is drawn: what all ports of a pair have in common."""

    source: str
    target: str
    labels: tuple[str, ...]
    rate: float
    state: str
    """good, failing, denied."""
    undeclared: bool = False


def draw(title: str, remark: str, boxes: Mapping[str, Box], lines: Sequence[Line]) -> str:
    """A whole SVG document. Lines name boxes by their keys."""
    sizes: dict[Hashable, tuple[float, float]] = {key: (_width(box), BOX_HEIGHT) for key, box in boxes.items()}
    gap = max([SMALLEST_GAP, *(_Label(0, 0, line).width + 48 for line in lines)])
    drawing = lay_out(sizes, [(line.source, line.target) for line in lines], gap=gap, row_gap=ROW_GAP)
    canvas = _Canvas(drawing, boxes)
    canvas.add_lines(lines)
    labels = canvas.labels()
    width = max(drawing.x[-1] + drawing.widths[-1] + 2 * MARGIN if drawing.x else 0.0, canvas.rightmost + MARGIN, 640.0)
    bottom = max([y + BOX_HEIGHT / 2 for y in drawing.y.values()], default=0.0)
    height = HEADER + max(bottom, canvas.lowest) + FOOTER + MARGIN
    body = [*canvas.paths, *(canvas.box(key, box) for key, box in boxes.items()), *labels]
    return "\n".join([*_head(width, height, title, remark), *body, *_legend(height), "</svg>", ""])


class _Canvas:
    def __init__(self, drawing: Drawing, boxes: Mapping[str, Box]) -> None:
        self.drawing = drawing
        self.boxes = boxes
        self.column = drawing.column_of
        self.paths: list[str] = []
        self.lowest = self.rightmost = 0.0
        self._labels: dict[int, list[_Label]] = defaultdict(list)

    def add_lines(self, lines: Sequence[Line]) -> None:
        ends = _Ends(self.drawing, lines)
        for number, line in enumerate(lines):
            if line.source == line.target:
                self._loop(line)
                continue
            points = ends.points(number, line, self._left, self._right)
            reverse = (line.source, line.target) in self.drawing.turned
            path = _curve(points)
            self.paths.append(_stroke(path, line, "start" if reverse else "end"))
            self._label(line, points)

    def _loop(self, line: Line) -> None:
        """Below the box."""
        x, y = self._left(line.source) + 26, self.drawing.y[line.source] + HEADER + BOX_HEIGHT / 2
        self.paths.append(_stroke(f"M{x:.1f} {y:.1f}c0 24 32 24 32 2", line, "end"))
        label = _Label(x, y + 12, line)
        self._labels[-1 - self.column[line.source]].append(_Label(x + 40 + label.width / 2, y + 14, line))

    def _label(self, line: Line, points: Sequence[Point]) -> None:
        """In the gap beside the end that fewer lines share, so that labels stand apart."""
        at_target = len(points) == 2 or points[-1][1] != points[0][1]
        first, second = (points[-2], points[-1]) if at_target else (points[0], points[1])
        column = self._gap_of(first[0])
        self._labels[column].append(_Label((first[0] + second[0]) / 2, first[1] * 0.35 + second[1] * 0.65, line))

    def _gap_of(self, x: float) -> int:
        return max(number for number, left in enumerate(self.drawing.x) if left + MARGIN <= x + 1)

    def labels(self) -> list[str]:
        """Pushed apart where they would lie upon each other."""
        found: list[str] = []
        for group in self._labels.values():
            bottom = -math.inf
            for label in sorted(group, key=lambda one: one.y):
                top = max(label.y - label.height / 2, bottom + 4)
                bottom = top + label.height
                found.append(label.text(top))
                self.lowest = max(self.lowest, bottom - HEADER)
                self.rightmost = max(self.rightmost, label.x + label.width / 2)
        return found

    def box(self, key: str, box: Box) -> str:
        x, y, width = self._left(key), self.drawing.y[key] + HEADER - BOX_HEIGHT / 2, _width(box)
        colour = {"good": GREEN, "bad": RED, "wait": AMBER}.get(box.state, "#94a3b8")
        outside = box.state == "outside"
        shape = (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX_HEIGHT:g}" rx="{26 if outside else 9}" '
            f'fill="{"#f1f5f9" if outside else "#ffffff"}" stroke="#cbd5e1"/>'
        )
        if not outside:
            shadow = f'<rect x="{x + 1:.1f}" y="{y + 2.5:.1f}" width="{width:.1f}" height="{BOX_HEIGHT:g}" rx="9" '
            shape = f'{shadow}fill="#0f172a" fill-opacity="0.07"/>{shape}'
        dot = "" if outside else f'<circle cx="{x + 16:.1f}" cy="{y + 20:.1f}" r="4.5" fill="{colour}"/>'
        start = x + (22 if outside else 28)
        return (
            f'{shape}{dot}<text x="{start:.1f}" y="{y + 25:.1f}" class="t">{escape(box.title)}</text>'
            f'<text x="{start:.1f}" y="{y + 41:.1f}" class="s">{escape(box.subtitle)}</text>'
        )

    def _left(self, node: Hashable) -> float:
        return MARGIN + self.drawing.x[self.column[node]]

    def _right(self, node: Hashable) -> float:
        if isinstance(node, str):
            return self._left(node) + _width(self.boxes[node])
        return self._left(node) + self.drawing.widths[self.column[node]]


class _Ends:
    """Where lines leave and enter: spread over the side of a box in the order of their other ends."""

    def __init__(self, drawing: Drawing, lines: Sequence[Line]) -> None:
        self.drawing = drawing
        self.leaving: dict[Hashable, list[int]] = defaultdict(list)
        self.entering: dict[Hashable, list[int]] = defaultdict(list)
        ways = {number: self._way(line) for number, line in enumerate(lines) if line.source != line.target}
        for number, way in ways.items():
            self.leaving[way[0]].append(number)
            self.entering[way[-1]].append(number)
        for numbers in self.leaving.values():
            numbers.sort(key=lambda number: drawing.y[ways[number][1]])
        for numbers in self.entering.values():
            numbers.sort(key=lambda number: drawing.y[ways[number][-2]])

    def points(self, number: int, line: Line, left: Side, right: Side) -> list[Point]:
        """Left end, both sides of each bend, right end."""
        way = self._way(line)
        first = right(way[0]), self._y(way[0], self.leaving[way[0]], number)
        last = left(way[-1]), self._y(way[-1], self.entering[way[-1]], number)
        spread = 10 * (self._parallel(number, way) - 0.5) if way[1:-1] else 0.0
        between = [
            point
            for bend in way[1:-1]
            for point in ((left(bend), self._bend(bend, spread)), (right(bend), self._bend(bend, spread)))
        ]
        return [first, *between, last]

    def _bend(self, bend: Hashable, spread: float) -> float:
        return self.drawing.y[bend] + HEADER + spread

    def _parallel(self, number: int, way: Sequence[Hashable]) -> float:
        """Two lines of one pair, one let through and one denied, share their bends: a little apart."""
        return 1.0 if self.leaving[way[0]].index(number) % 2 else 0.0

    def _y(self, node: Hashable, numbers: Sequence[int], number: int) -> float:
        step = min(15.0, (BOX_HEIGHT - 14) / len(numbers))
        return self.drawing.y[node] + HEADER + (numbers.index(number) - (len(numbers) - 1) / 2) * step

    def _way(self, line: Line) -> list[Hashable]:
        pair: Pair = (line.source, line.target)
        return self.drawing.ways[pair]


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    line: Line

    @property
    def height(self) -> float:
        return len(self.line.labels) * LABEL_LINE + 4

    @property
    def width(self) -> float:
        return max(len(text) for text in self.line.labels) * SMALL_LETTER + 10

    def text(self, top: float) -> str:
        colour = _colour(self.line)
        rows = "".join(
            f'<tspan x="{self.x:.1f}" y="{top + 2 + (number + 0.8) * LABEL_LINE:.1f}">{escape(text)}</tspan>'
            for number, text in enumerate(self.line.labels)
        )
        ground = (
            f'<rect x="{self.x - self.width / 2:.1f}" y="{top:.1f}" width="{self.width:.1f}" '
            f'height="{self.height:.1f}" rx="5" fill="#f8fafc" fill-opacity="0.93"/>'
        )
        return f'{ground}<text class="l" text-anchor="middle" style="fill:{colour}">{rows}</text>'


def _width(box: Box) -> float:
    return max(len(box.title) * TITLE_LETTER, len(box.subtitle) * SMALL_LETTER) + 46


def _curve(points: Sequence[Point]) -> str:
    """Level at both ends of every piece; straight across a column."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        bend = (x2 - x1) * 0.5
        path += f"C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return path


def _colour(line: Line) -> str:
    return {"denied": RED, "failing": AMBER}.get(line.state, "#b45309" if line.undeclared else "#475569")


def _stroke(path: str, line: Line, arrow: str) -> str:
    width = min(1.4 + math.log10(1 + line.rate), 5.0)
    dash = ' stroke-dasharray="7 5"' if line.undeclared else ""
    marker = {"denied": "denied", "failing": "failing"}.get(line.state, "open" if line.undeclared else "good")
    return (
        f'<path d="{path}" fill="none" stroke="{_colour(line)}" stroke-width="{width:.2f}"{dash} '
        f'marker-{arrow}="url(#{marker})"/>'
    )


def _head(width: float, height: float, title: str, remark: str) -> list[str]:
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="{shape}" fill="{fill}" '
        f'stroke="{colour}" stroke-width="2"/></marker>'
        for name, colour, shape, fill in (
            ("good", "#475569", "M1 1L9 5L1 9z", "#475569"),
            ("open", "#b45309", "M1 1L9 5L1 9z", "#b45309"),
            ("failing", AMBER, "M1 1L9 5L1 9z", AMBER),
            ("denied", RED, "M2 1L9 9M9 1L2 9", "none"),
        )
    )
    style = (
        f"text{{font-family:{FONT};fill:{INK}}}.h{{font-size:17px;font-weight:600}}.t{{font-size:13.5px;font-weight:600}}"
        f".s{{font-size:11px;fill:{FAINT}}}"
        ".l{font-size:11px}"
    )
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<defs>{markers}<style>{style}</style></defs>",
        '<rect width="100%" height="100%" fill="#f8fafc"/>',
        f'<text x="{MARGIN:g}" y="32" class="h">{escape(title)}</text>',
        f'<text x="{width - MARGIN:.0f}" y="32" class="s" text-anchor="end">{escape(remark)}</text>',
    ]


def _legend(height: float) -> list[str]:
    y, x, found = height - 22, MARGIN, []
    for text, line in (
        ("let through", Line("", "", (), 0, "good")),
        ("with errors", Line("", "", (), 0, "failing")),
        ("undeclared", Line("", "", (), 0, "good", undeclared=True)),
        ("denied", Line("", "", (), 0, "denied")),
    ):
        found.append(_stroke(f"M{x:.0f} {y:.0f}H{x + 34:.0f}", line, "end"))
        found.append(f'<text x="{x + 42:.0f}" y="{y + 4:.0f}" class="s">{text}</text>')
        x += 42 + len(text) * SMALL_LETTER + 22
    return found
