"""Who has to make room when frozen instances hold too much memory."""

from __future__ import annotations

import pytest

from whit.control.budget import Sleeper, too_many

MIB = 1 << 20
FOUND = [Sleeper("young", 30.0, 50 * MIB), Sleeper("old", 10.0, 20 * MIB), Sleeper("middle", 20.0, 30 * MIB)]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(100, []), (99, ["old"]), (80, ["old"]), (79, ["old", "middle"]), (49, ["old", "middle", "young"]), (0, None)],
)
def test_the_oldest_go_until_the_rest_fits(budget: int, expected: list[str] | None) -> None:
    assert too_many(FOUND, budget * MIB) == (["old", "middle", "young"] if expected is None else expected)


def test_nobody_sleeps() -> None:
    assert too_many([], 0) == []
