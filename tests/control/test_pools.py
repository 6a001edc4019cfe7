"""Agents that start at the same moment take different pools."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from whit.base.errors import Conflict
from whit.base.settings import Settings
from whit.control import pools

pytestmark = pytest.mark.machine
AGENTS = 8


@pytest.fixture
def several(tmp_path: Path) -> list[Settings]:
    settings = Settings(id="t0", run_root=tmp_path / "run", state_root=tmp_path / "state")
    return [replace(settings, id=f"t{secrets.token_hex(3)}") for _ in range(AGENTS)]


def test_agents_that_start_together_take_different_pools(several: list[Settings]) -> None:
    with ThreadPoolExecutor(AGENTS) as pool:
        chosen = list(pool.map(pools.choose, several))
    assert all(not one.overlaps(other) for number, one in enumerate(chosen) for other in chosen[:number])


def test_a_pool_that_another_agent_chose_is_refused(several: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = several
    monkeypatch.setenv("WHIT_POOL", str(pools.choose(first)))
    assert pools.choose(first) == pools.choose(first), "its own is no other's"
    with pytest.raises(Conflict):
        pools.choose(second)
