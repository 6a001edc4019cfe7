"""Probes tell what this machine can do, leave nothing, and know a refusal when they meet one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.kernel import cgroup, libc, mount, probes
from whit.kernel.cgroup import Hierarchies

pytestmark = pytest.mark.root

_PRINT = """
import json, sys
from whit.base.settings import Settings
from whit.kernel import probes
from pathlib import Path
settings = Settings(id=sys.argv[1], run_root=Path(sys.argv[2]) / "run", state_root=Path(sys.argv[2]))
print(json.dumps({feature.name: feature.state for feature in probes.features(settings)}))
"""


def test_this_machine_has_all_that_is_required(settings: Settings) -> None:
    found = {feature.name: feature for feature in probes.features(settings)}
    assert not [feature for feature in found.values() if feature.required and feature.state == "missing"]
    assert "veth" in found["network links"].detail
    assert all(feature.hint for feature in found.values() if feature.state != "works")


def test_nothing_is_left(settings: Settings) -> None:
    before = _open_files()
    probes.features(settings)
    assert _open_files() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "whit-kernel"]
    assert not settings.run_dir.exists()
    assert not list(settings.state_root.parent.glob(".whit-probe-*"))
    assert not [point for point in mount.table() if "whit-probe" in str(point.path) or settings.id in str(point.path)]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_a_user_without_rights_lacks_is_found_missing(settings: Settings, tmp_path: Path) -> None:
    """As root without the rights that a container has not."""
    environment = {"PYTHONPATH": str(Path(libc.__file__).parents[2])}
    argv = [sys.executable, "-c", _PRINT, settings.id, str(tmp_path)]
    dropped = ["setpriv", "--bounding-set", "-sys_admin,-net_admin", *argv]
    done = subprocess.run(dropped, env=os.environ | environment, capture_output=True, text=True, check=True)
    states = json.loads(done.stdout)
    for name in ("namespaces", "overlayfs", "network namespaces", "network links"):
        assert states[name] == "missing", name
    assert states["pidfd"] == "works"


def test_the_layouts_of_cgroups() -> None:
    base = Path("/sys/fs/cgroup")
    assert probes.cgroups(Hierarchies({}, base)).state == "works"
    hybrid = probes.cgroups(Hierarchies({"memory": base / "memory"}, base / "unified"))
    assert (hybrid.state, "hybrid" in hybrid.detail) == ("degraded", True)
    assert probes.cgroups(Hierarchies({"memory": base / "memory"}, None)).state == "missing"
    assert probes.cgroups(Hierarchies({}, None)).detail.startswith("none is mounted")


def test_a_controller_that_is_not_handed_down_is_found_missing(settings: Settings) -> None:
    """The unified hierarchy alone: on a hybrid machine it has no controllers to hand down."""
    found = cgroup.find()
    unified = Hierarchies({}, found.bpf_root())
    expected = "works" if unified.has("pids") else "missing"
    assert probes.limits(unified, "pids", settings).state == expected
    assert probes.limits(unified, "nonsense", settings).state == "missing"
    assert probes.limits(found, "pids", settings).state == "works"


def test_a_controller_that_a_hybrid_layout_leaves_on_v2_limits_nothing(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    hybrid = Hierarchies({"pids": tmp_path / "pids"}, tmp_path)
    found = probes.limits(hybrid, "memory", settings)
    assert (found.state, "by v1" in found.detail) == ("missing", True)
    assert probes.limits(hybrid, "pids", settings).state == "works"


def test_this_kernel_tells_who_listens() -> None:
    assert probes.listening().state == "works"


def test_a_file_system_that_holds_no_layers_is_found() -> None:
    """/proc is there on every machine, and takes no directory."""
    found = probes.overlay(Path("/proc"))
    assert found.state == "missing"
    assert "/proc" in found.hint
