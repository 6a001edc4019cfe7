"""Freezing real processes, by whichever hierarchies this machine has."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from whit.base.errors import NotFound, Unavailable
from whit.base.settings import Settings
from whit.kernel import cgroup, freezer
from whit.kernel.cgroup import Hierarchies

COUNTS = "import sys, time\nfor n in range(10**6):\n    print(n, flush=True); time.sleep(0.001)\n"


def kinds() -> list[str]:
    found = cgroup.find()
    return [*(["v1"] if "freezer" in found.controllers else []), *(["v2"] if found.unified else [])]


@pytest.fixture(params=kinds())
def hierarchies(request: pytest.FixtureRequest) -> Hierarchies:
    found = cgroup.find()
    return found if request.param == "v1" else Hierarchies({}, found.unified)


@pytest.fixture
def counting(settings: Settings) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    group = f"{settings.cgroup}/counting"
    everywhere = cgroup.find()
    cgroup.create(everywhere, group)
    process = subprocess.Popen([sys.executable, "-c", COUNTS], stdout=subprocess.PIPE)
    try:
        cgroup.place(everywhere, group, process.pid)
        yield group, process
    finally:
        cgroup.uproot(everywhere, group)
        process.wait(30)
        assert process.stdout
        process.stdout.close()


def cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(") ")[2].split()[11:13]))


@pytest.mark.root
def test_what_is_frozen_stands_still(hierarchies: Hierarchies, counting: tuple[str, subprocess.Popen[bytes]]) -> None:
    group, process = counting
    assert process.stdout
    process.stdout.readline()
    for _ in range(3):
        freezer.freeze(hierarchies, group)
        assert freezer.is_frozen(hierarchies, group)
        before = cpu_ticks(process.pid)
        time.sleep(0.1)
        assert cpu_ticks(process.pid) == before
        freezer.thaw(hierarchies, group)
        freezer.thaw(hierarchies, group)
        assert not freezer.is_frozen(hierarchies, group)
        process.stdout.readline()


@pytest.mark.root
def test_what_is_frozen_can_be_killed(hierarchies: Hierarchies, counting: tuple[str, subprocess.Popen[bytes]]) -> None:
    group, process = counting
    freezer.freeze(hierarchies, group)
    cgroup.kill(cgroup.find(), group)
    assert process.wait(30) == -9


@pytest.mark.root
def test_a_group_that_has_gone(hierarchies: Hierarchies, settings: Settings) -> None:
    group = f"{settings.cgroup}/nobody"
    assert not freezer.is_frozen(hierarchies, group)
    freezer.thaw(hierarchies, group)
    with pytest.raises(NotFound):
        freezer.freeze(hierarchies, group)


def test_a_machine_without_a_freezer() -> None:
    with pytest.raises(Unavailable, match="freeze"):
        freezer.freeze(Hierarchies({}, None), "/any")
