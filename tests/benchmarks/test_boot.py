"""That the benchmark runs and reports. What it measures is nothing to assert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.benchmark import run
from support.guests import HAS_QEMU

from whit.tools import kbuild

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(bool(kbuild.missing("amd64")), reason="what builds kernels is not installed"),
]


@pytest.mark.full
def test_machines_are_measured_beside_the_floor(tmp_path: Path) -> None:
    printed = run("boot.py", "--rounds", "1", "--quick", "--results", str(tmp_path))
    (written,) = tmp_path.glob("boot-*.json")
    document = json.loads(written.read_text())
    profiles = ("", ", fast boot", ", specialised", ", specialised, fast boot")
    ways = {f"static C server, microvm{profile}" for profile in profiles}
    assert set(document["rows"]) == {"bare kernel, to power off", *ways}
    assert all(row["value"] > 0 for row in document["rows"].values())
    assert "| static C server | microvm: initrd |" in printed
