"""Top and map: what is computed from edges, how it is printed and drawn."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

from whit.cli.commands.service_map import picture
from whit.cli.commands.top import chosen
from whit.cli.display.layers import lay_out
from whit.model.edge import Edge, difference
from whit.model.status import AppStatus, ServiceStatus

Run = Callable[..., subprocess.CompletedProcess[str]]
LATENCY = (0, 0, 0, 0, 300, 500, 150, 40, 10, *[0] * 7)


def edge(source: str, destination: str, port: int = 80, verdict: str = "allow", **more: Any) -> Edge:
    counted = {"packets": 100, "seconds": 60.0} | more
    return Edge(source=source, destination=destination, port=port, protocol="tcp", verdict=verdict, **counted)  # type: ignore[arg-type]


SHOP = [
    edge("world", "shop/web", 8080, requests=720, latency=LATENCY),
    edge("shop/web", "shop/api", 8000, requests=600, errors=12, latency=LATENCY),
    edge("shop/api", "shop/db", 5432, flows=60),
    edge("shop/web", "shop/db", 5432, "deny", packets=4, rule=7, rule_text="web does not use db"),
    edge("shop/api", "world", 443, flows=2, undeclared=True),
]


def test_quantiles_lie_within_their_buckets() -> None:
    seen = edge("a", "b", latency=LATENCY)
    assert 1024 <= (seen.quantile(0.5) or 0) <= 2048
    assert 8192 <= (seen.quantile(0.99) or 0) <= 16384
    assert seen.quantile(0.0) == 512
    assert edge("a", "b").quantile(0.5) is None
    assert edge("a", "b", latency=(*[0] * 15, 3)).quantile(0.5) == 64 << 14


def test_a_difference_counts_what_came_between() -> None:
    before = [edge("a", "b", packets=10, bytes=100, latency=(1, *[0] * 15)), edge("a", "c", packets=50)]
    now = [
        edge("a", "b", packets=15, bytes=700, latency=(4, *[0] * 15)),
        edge("a", "c", packets=3),
        edge("a", "d", packets=8),
    ]
    found = {one.destination: one for one in difference(now, before, 2.0)}
    assert (found["b"].packets, found["b"].rate("bytes"), found["b"].latency[0]) == (5, 300.0, 3)
    assert found["c"].packets == 3, "an edge that was evicted begins at 0 again"
    assert found["d"].packets == 8


def test_the_greatest_come_first_and_the_quiet_not_at_all() -> None:
    before = [edge("a", "b", packets=1), edge("a", "c", packets=1), edge("a", "d", packets=1)]
    now = [
        edge("a", "b", packets=2, bytes=10),
        edge("a", "c", packets=2, bytes=90),
        edge("a", "d", packets=1),
    ]
    assert [one.destination for one in chosen(now, before, 1, "bytes", every=False)] == ["c", "b"]
    assert len(chosen(now, before, 1, "bytes", every=True)) == 3


def test_top_once(run_whit: Run, recorded: Any) -> None:
    recorded.edges = [[one.model_dump(mode="json") for one in SHOP]]
    recorded.edges.append(
        [one | {"packets": one["packets"] + 50, "flows": one["flows"] + 9} for one in recorded.edges[0]]
    )
    done = run_whit("top", "--once", "--interval", "0.1", "--sort", "errors")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["SOURCE", "DESTINATION", "PORT"]
    assert len(lines) == 6
    assert "deny: rule 7" in done.stdout
    documents = json.loads(run_whit("--json", "top", "--once", "--interval", "0.1").stdout)
    assert documents == []
    assert run_whit("top", "--sort", "x").returncode == 2


def test_map_on_a_terminal(run_whit: Run, recorded: Any) -> None:
    recorded.edges = [[one.model_dump(mode="json") for one in SHOP]]
    lines = run_whit("map").stdout.splitlines()
    assert lines[0] == "world"
    assert lines[1].startswith(" └──▶ shop/web 8080/tcp")
    assert "12.0 req/s, p99" in lines[1]
    assert any(line.startswith(" └──✗ shop/db 5432/tcp") and "web does not use db" in line for line in lines)
    assert any(line.startswith(" └╌╌▷ world 443/tcp") and "undeclared" in line for line in lines)


def test_map_as_a_picture(run_whit: Run, recorded: Any, tmp_path: Path) -> None:
    recorded.edges = [[one.model_dump(mode="json") for one in SHOP]]
    assert run_whit("map", "shop", "--svg", str(tmp_path / "map.svg")).returncode == 0
    root = ElementTree.parse(tmp_path / "map.svg").getroot()
    texts = " ".join(text for text in root.itertext())
    assert {"web", "api", "db", "world", "4 dropped", "2.0% errors"} <= {
        *texts.split(),
        *(t.strip() for t in root.itertext()),
    }
    drawn = [one.attrib for one in root.iter("{http://www.w3.org/2000/svg}path") if "marker-end" in one.attrib]
    assert sum("denied" in one["marker-end"] for one in drawn) == 2, "the edge, and the legend"
    assert sum("stroke-dasharray" in one for one in drawn) == 2
    assert run_whit("map", "--svg", "/nonexistent/x.svg").returncode == 2


def test_strange_names_do_no_harm() -> None:
    apps = [AppStatus(name="a<b", mode="open", state="running", services=(service("a<b", 'x"&'),))]
    text = picture([edge('a<b/x"&', "world"), edge('a<b/x"&', 'a<b/x"&')], apps, "a<b")
    ElementTree.fromstring(text)
    ElementTree.fromstring(picture([], [], ""))


def service(app: str, name: str) -> ServiceStatus:
    return ServiceStatus(app=app, name=name, state="running", wanted=1, running=1)


@pytest.mark.parametrize("seed", range(30))
def test_boxes_never_overlap_and_edges_lead_through_no_box(seed: int) -> None:
    chance = random.Random(seed)
    names: list[Hashable] = [f"n{number}" for number in range(chance.randint(1, 25))]
    sizes = {name: (float(chance.randint(40, 200)), 52.0) for name in names}
    edges = [(chance.choice(names), chance.choice(names)) for _ in range(chance.randint(0, 60))]
    drawing = lay_out(sizes, edges, gap=100, row_gap=20)
    assert {node for column in drawing.columns for node in column} >= set(names)
    for column in drawing.columns:
        for above, below in itertools.pairwise(sorted(column, key=lambda one: drawing.y[one])):
            heights = [sizes[one][1] if one in sizes else 24.0 for one in (above, below)]
            assert drawing.y[below] - drawing.y[above] >= sum(heights) / 2 + 19.9
    column_of = drawing.column_of
    for way in drawing.ways.values():
        numbers = [column_of[one] for one in way]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
