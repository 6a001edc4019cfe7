"""That the benchmark runs and reports. What it measures is nothing to assert."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.benchmark import run


@pytest.mark.root
@pytest.mark.machine
@pytest.mark.network
def test_each_level_is_measured(tmp_path: Path) -> None:
    printed = run("wake.py", "--rounds", "1", "--idle", "0.5", "--isolations", "container", "--results", str(tmp_path))
    (written,) = tmp_path.glob("wake-*.json")
    document = json.loads(written.read_text())
    assert document["machine"]["kernel"] == os.uname().release
    wanted = {"container-awake", "container-frozen", "container-created", "container-stopped"}
    assert wanted <= set(document["milliseconds"])
    assert all(f"| {name} |" in printed for name in wanted)
    assert {"container-awake", "container-frozen", "container-created"} <= set(document["idle"])
    assert any(name.startswith("bare ") for name in document["milliseconds"])
