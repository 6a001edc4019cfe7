from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.kernel.cgroup import Hierarchies
from whit.runtime.probes import features, moving
from whit.tools.oci_runtime import choose

pytestmark = [pytest.mark.machine, pytest.mark.timeout(60)]


async def test_what_this_machine_can_do(settings: Settings) -> None:
    """Says the same as what runs instances here."""
    found = {feature.name: feature for feature in await features(settings)}
    chosen = await choose(settings)
    assert found["OCI runtime"].state == "works"
    assert found[chosen.kind].state == "works"
    assert found["conmon"].state == "works"
    assert found["conmon"].detail[0].isdigit()
    assert found["system-call filter"].state == "works"
    assert all(feature.detail for feature in found.values() if feature.state == "missing" and not feature.hint)


def test_what_crun_lacks_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("rdma hugetlb\n")
    told = moving(Hierarchies({"memory": tmp_path / "memory"}, tmp_path))
    assert "with hugetlb, rdma on v1: mkdir -p /sys/fs/cgroup/hugetlb" in told
    assert "mount -t cgroup -o hugetlb hugetlb /sys/fs/cgroup/hugetlb; mkdir -p /sys/fs/cgroup/rdma" in told
    (tmp_path / "cgroup.subtree_control").write_text("hugetlb\n")
    told = moving(Hierarchies({"memory": tmp_path / "memory"}, tmp_path))
    assert f"on v1: echo -hugetlb >{tmp_path}/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/hugetlb" in told
    (tmp_path / "cgroup.controllers").write_text("\n")
    assert moving(Hierarchies({"memory": tmp_path / "memory"}, tmp_path)).endswith("crun does on pure v2")
