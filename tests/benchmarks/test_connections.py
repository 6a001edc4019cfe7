"""That the benchmark runs and reports, with traffic through each way. What it measures is nothing to assert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.benchmark import run


@pytest.mark.root
@pytest.mark.machine
def test_each_way_is_measured(tmp_path: Path) -> None:
    printed = run("connections.py", "--rounds", "2", "--seconds", "0.1", "--results", str(tmp_path))
    (written,) = tmp_path.glob("connections-*.json")
    document = json.loads(written.read_text())
    ways = ("plain routing", "nft DNAT", "Whit")
    assert {(row["way"], row["kind"]) for row in document["rows"]} == {(w, k) for w in ways for k in ("keep", "new")}
    assert all(row["per_second"]["value"] > 0 for row in document["rows"])
    assert document["events"] > 0, "Whit's connections were not seen"
    assert all(f"| {way} |" in printed for way in ways)
