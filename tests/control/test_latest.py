"""What is derived once of the same sources."""

from __future__ import annotations

import pytest

from whit.base.latest import Latest


def test_the_same_objects_are_not_looked_at_again_and_others_are() -> None:
    latest: Latest[list[int]] = Latest()
    one, other = object(), object()
    made = [[1], [1], [2]]
    first = latest.get([one], lambda: made[0])
    assert first is made[0]
    assert latest.get([one], lambda: made[2]) is made[0]
    assert latest.get([other], lambda: made[1]) is made[0], "an equal result is the object that was there"
    assert latest.get([other, one], lambda: made[2]) is made[2]
    assert latest.get([], lambda: made[0]) is made[0]


def test_what_could_not_be_derived_is_tried_again() -> None:
    latest: Latest[int] = Latest()
    with pytest.raises(ZeroDivisionError):
        latest.get([1], lambda: 1 // 0)
    assert latest.get([1], lambda: 3) == 3
