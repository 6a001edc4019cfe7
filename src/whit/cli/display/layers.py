"""Lays a directed graph out in columns from left to right, after Sugiyama, Tagawa and Toda (1981). Pure.

Boxes stand in the column of their longest way from the left; an edge that passes columns goes round what stands there;
boxes of a column are in the order in which their edges cross least. Edges of cycles are turned round for it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Pair = tuple[Hashable, Hashable]

SWEEPS = 12
BEND_HEIGHT = 24.0


@dataclass(frozen=True)
class Bend:
    """A place in a column that an edge goes through."""

    edge: Pair
    column: int


@dataclass
class Drawing:
    """`x` and `y` are left edges and middles."""

    columns: list[list[Hashable]] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    """Of each column."""
    widths: list[float] = field(default_factory=list)
    y: dict[Hashable, float] = field(default_factory=dict)
    ways: dict[Pair, list[Hashable]] = field(default_factory=dict)
    """Of each edge: from its left end to its right one, with bends."""
    turned: set[Pair] = field(default_factory=set)
    """Edges that lead from right to left."""

    @property
    def column_of(self) -> dict[Hashable, int]:
        return {node: number for number, column in enumerate(self.columns) for node in column}


def lay_out(
    sizes: Mapping[Hashable, tuple[float, float]], edges: Iterable[Pair], *, gap: float, row_gap: float
) -> Drawing:
    """`sizes` are width and height of each box. Edges from a box to itself are left out."""
    drawing = Drawing()
    pairs = sorted({edge for edge in edges if edge[0] != edge[1]}, key=str)
    forward = _acyclic(sorted(sizes, key=str), pairs, drawing.turned)
    ranks = _ranks(sizes, forward)
    links = _columns(drawing, ranks, pairs)
    _order(drawing.columns, links)
    _place_columns(drawing, sizes, gap)
    heights = {node: sizes[node][1] if node in sizes else BEND_HEIGHT for column in drawing.columns for node in column}
    _place_rows(drawing, links, heights, row_gap)
    return drawing


def _acyclic(nodes: Sequence[Hashable], edges: Sequence[Pair], turned: set[Pair]) -> list[Pair]:
    """The edges, with those that close a cycle turned round."""
    following = defaultdict(list)
    for source, target in edges:
        following[source].append(target)
    done: set[Hashable] = set()
    open_: set[Hashable] = set()

    def visit(node: Hashable) -> None:
        open_.add(node)
        for target in following[node]:
            if target in open_:
                turned.add((node, target))
            elif target not in done:
                visit(target)
        open_.discard(node)
        done.add(node)

    entered = {target for _, target in edges}
    for node in sorted(nodes, key=lambda one: one in entered):
        if node not in done:
            visit(node)
    return [(target, source) if (source, target) in turned else (source, target) for source, target in edges]


def _ranks(nodes: Iterable[Hashable], edges: Sequence[Pair]) -> dict[Hashable, int]:
    """The longest way from the left; then as far right as what follows allows, where nothing comes before."""
    before: dict[Hashable, list[Hashable]] = {node: [] for node in nodes}
    after: dict[Hashable, list[Hashable]] = {node: [] for node in before}
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    ranks: dict[Hashable, int] = {}

    def rank(node: Hashable) -> int:
        if node not in ranks:
            ranks[node] = 1 + max((rank(one) for one in before[node]), default=-1)
        return ranks[node]

    for node in before:
        rank(node)
    return {
        node: min(ranks[one] for one in after[node]) - 1 if after[node] and not before[node] else ranks[node]
        for node in before
    }


def _columns(drawing: Drawing, ranks: Mapping[Hashable, int], edges: Sequence[Pair]) -> list[Pair]:
    """Fills columns and ways. Returns the links from each column to the next."""
    drawing.columns = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    linked = {node for edge in edges for node in edge}
    for node in sorted(ranks, key=lambda one: (one not in linked, str(one))):
        drawing.columns[ranks[node]].append(node)
    links: list[Pair] = []
    for edge in edges:
        left, right = reversed(edge) if edge in drawing.turned else edge
        bends = [Bend(edge, column) for column in range(ranks[left] + 1, ranks[right])]
        for bend in bends:
            drawing.columns[bend.column].append(bend)
        way: list[Hashable] = [left, *bends, right]
        drawing.ways[edge] = way
        links += itertools.pairwise(way)
    return links


def _order(columns: list[list[Hashable]], links: Sequence[Pair]) -> None:
    """Sort each column by the mean place of the neighbours, from left to right and back; keep the best."""
    before, after = _neighbours(links)
    best, fewest = [list(column) for column in columns], _crossings(columns, after)
    for sweep in range(SWEEPS):
        rightward = sweep % 2 == 0
        numbers = range(1, len(columns)) if rightward else range(len(columns) - 2, -1, -1)
        for number in numbers:
            fixed = columns[number - 1 if rightward else number + 1]
            places = {node: place for place, node in enumerate(fixed)}
            near = before if rightward else after
            own = {node: place for place, node in enumerate(columns[number])}
            columns[number].sort(key=lambda node: _mean([places[one] for one in near[node]], own[node]))
        if (crossings := _crossings(columns, after)) < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best


def _neighbours(links: Sequence[Pair]) -> tuple[dict[Hashable, list[Hashable]], dict[Hashable, list[Hashable]]]:
    before, after = defaultdict(list), defaultdict(list)
    for source, target in links:
        before[target].append(source)
        after[source].append(target)
    return before, after


def _crossings(columns: Sequence[Sequence[Hashable]], after: Mapping[Hashable, Sequence[Hashable]]) -> int:
    total = 0
    for left, right in itertools.pairwise(columns):
        places = {node: place for place, node in enumerate(right)}
        ends = [places[target] for node in left for target in sorted(after[node], key=places.__getitem__)]
        total += sum(1 for place, one in enumerate(ends) for other in ends[place + 1 :] if other < one)
    return total


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _place_columns(drawing: Drawing, sizes: Mapping[Hashable, tuple[float, float]], gap: float) -> None:
    left = 0.0
    for column in drawing.columns:
        width = max((sizes[node][0] for node in column if node in sizes), default=0.0)
        drawing.x.append(left)
        drawing.widths.append(width)
        left += width + gap


def _place_rows(drawing: Drawing, links: Sequence[Pair], heights: Mapping[Hashable, float], row_gap: float) -> None:
    """As near to the middle of the neighbours as the order and the distance to others allow."""
    before, after = _neighbours(links)
    for column in drawing.columns:
        _stack(column, dict.fromkeys(column, 0.0), heights, row_gap, drawing.y)
    for sweep in range(SWEEPS):
        near = before if sweep % 2 == 0 else after
        for column in drawing.columns if sweep % 2 == 0 else reversed(drawing.columns):
            wanted = {node: _mean([drawing.y[one] for one in near[node]], drawing.y[node]) for node in column}
            _stack(column, wanted, heights, row_gap, drawing.y)
    _close_up(drawing, {node for link in links for node in link}, heights, row_gap)
    top = min((y - heights[node] / 2 for node, y in drawing.y.items()), default=0.0)
    for node in drawing.y:
        drawing.y[node] -= top


def _close_up(drawing: Drawing, linked: set[Hashable], heights: Mapping[Hashable, float], row_gap: float) -> None:
    """Boxes without any edge, the last ones of their column, follow what stands above them."""
    for column in drawing.columns:
        for above, node in itertools.pairwise(column):
            if node not in linked:
                drawing.y[node] = drawing.y[above] + (heights[above] + heights[node]) / 2 + row_gap


def _stack(
    column: Sequence[Hashable],
    wanted: Mapping[Hashable, float],
    heights: Mapping[Hashable, float],
    row_gap: float,
    y: dict[Hashable, float],
) -> None:
    """One below the other, each group that touches as a whole where its members want to be on average."""
    groups: list[tuple[list[Hashable], float]] = []
    for node in column:
        groups.append(([node], wanted[node]))
        while len(groups) > 1 and _bottom(groups[-2], heights, row_gap) > _top(groups[-1], heights, row_gap):
            (lower, _), (upper, _) = groups.pop(), groups.pop()
            members = upper + lower
            offsets = _offsets(members, heights, row_gap)
            groups.append((members, _mean([wanted[one] - offsets[one] for one in members], 0.0)))
    for members, middle in groups:
        y.update({node: middle + offset for node, offset in _offsets(members, heights, row_gap).items()})


def _offsets(members: Sequence[Hashable], heights: Mapping[Hashable, float], row_gap: float) -> dict[Hashable, float]:
    """Middles of boxes that stand one below the other, with the middle of the whole at 0."""
    position = -sum(heights[one] + row_gap for one in members) / 2
    found = {}
    for one in members:
        found[one] = position + (heights[one] + row_gap) / 2
        position += heights[one] + row_gap
    return found


def _top(group: tuple[list[Hashable], float], heights: Mapping[Hashable, float], row_gap: float) -> float:
    return group[1] - sum(heights[one] + row_gap for one in group[0]) / 2


def _bottom(group: tuple[list[Hashable], float], heights: Mapping[Hashable, float], row_gap: float) -> float:
    return group[1] + sum(heights[one] + row_gap for one in group[0]) / 2
