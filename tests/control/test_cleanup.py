"""Instances are cleaned away side by side: in order within one, and past those that fail or hang."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from whit.base.errors import Permanent
from whit.base.settings import Settings
from whit.control.cleanup import AT_ONCE, clean, remove_all
from whit.kernel import cgroup
from whit.model.operation import Operation
from whit.model.progress import Progress
from whit.runtime.operations import Removal
from whit.tools import process


class Places:
    """Directories with a file in each, which has to go first; some are held by a program."""

    def __init__(self, top: Path, names: list[str]) -> None:
        self.top, self.busy, self.most = top, 0, 0
        for name in names:
            (top / name).mkdir()
            (top / name / "file").touch()

    def plan(self, name: str) -> list[Operation]:
        program = {"hangs": ["sleep", "1000"], "fails": ["ls", "/nothing-of-this-name"]}.get(name)
        return [
            Removal("wait", lambda: self._wait(program)),
            Removal("remove file", lambda: asyncio.to_thread((self.top / name / "file").unlink)),
            Removal("remove directory", lambda: asyncio.to_thread((self.top / name).rmdir)),
        ]

    async def _wait(self, program: list[str] | None) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await (process.run(program, timeout=100) if program else asyncio.sleep(0.05))
        finally:
            self.busy -= 1


async def test_one_that_hangs_and_one_that_fails_hold_up_no_other(tmp_path: Path) -> None:
    names = ["fails", "hangs", *(f"other-{number}" for number in range(2 * AT_ONCE))]
    places, told = Places(tmp_path, names), list[Progress]()
    with pytest.raises(Permanent) as raised:
        await remove_all(names, places.plan, told.append, patience=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fails", "hangs"]
    assert f"2 of {len(names)} instances could not be removed" in raised.value.message
    assert "fails: ls ended with 2" in raised.value.message
    assert "hangs: it was not done after 2 s" in raised.value.message
    assert sorted(one.subject for one in told if one.failed) == ["fails", "hangs"]
    assert [one.step for one in told if not one.failed][-1] == f"removed {len(names) - 2} of {len(names)}"
    assert 1 < places.most <= AT_ONCE


async def test_all_that_can_go_are_gone(tmp_path: Path) -> None:
    names, told = [f"other-{number}" for number in range(3)], list[Progress]()
    await remove_all(names, Places(tmp_path, names).plan, told.append)
    assert list(tmp_path.iterdir()) == []
    assert [one.step for one in told] == [*(f"removed {number} of 3" for number in (1, 2, 3)), "removed all 3"]


@pytest.mark.root
async def test_the_groups_of_an_agent_go_with_those_of_trials_that_were_cut_short(settings: Settings) -> None:
    hierarchies = cgroup.find()
    for group in (settings.cgroup, f"{settings.cgroup}-probe-1/probe-1"):
        cgroup.create(hierarchies, group)
    removed = await clean(settings)
    for group in (settings.cgroup, f"{settings.cgroup}-probe-1"):
        assert {f"cgroup {root}{group}" for root in hierarchies.roots} <= {*removed}
        assert hierarchies.directories(group) == []
    assert await clean(settings) == []
