"""That the benchmark runs and reports. What it measures is nothing to assert."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.benchmark import run

SYSTEMS = {
    "Whit", "Whit, program alone", "plain routing", "nft, maps", "nft, rules", "iptables (nft)", "iptables (legacy)",
}  # fmt: skip


@pytest.mark.root
@pytest.mark.machine
def test_each_system_is_measured_for_each_count(tmp_path: Path) -> None:
    counts = ["--services", "1,3", "--entries", "1,20"]
    printed = run("flat.py", *counts, "--rounds", "3", "--packets", "4", "--results", str(tmp_path))
    (written,) = tmp_path.glob("flat-*.json")
    document = json.loads(written.read_text())
    assert document["machine"]["kernel"] == os.uname().release
    for kind, asked in (("services", (1, 3)), ("policy", (1, 20))):
        rows = {(row["system"], row["count"], row["packet"]) for row in document["rows"] if row["kind"] == kind}
        wanted = {(system, count, packet) for system in SYSTEMS for count in asked for packet in ("first", "known")}
        assert wanted - rows == {("plain routing", asked[1], packet) for packet in ("first", "known")}
    assert all(row["nanoseconds"]["low"] <= row["nanoseconds"]["value"] for row in document["rows"])
    assert all(f"| {system} |" in printed for system in SYSTEMS)
