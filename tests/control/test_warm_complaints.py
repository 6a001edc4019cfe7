"""What is said of instances that stay awake, and how often."""

from __future__ import annotations

from whit.base.errors import TimedOut, Unavailable
from whit.control.warm import Complaints


def test_what_the_machine_lacks_is_told_once_for_all() -> None:
    complaints = Complaints()
    missing, other = Unavailable("a program is missing"), Unavailable("no freezer")
    assert complaints.is_new("web-1", missing)
    assert not complaints.is_new("web-1", missing)
    assert complaints.is_new("web-1", other)
    assert not complaints.is_new("web-2", missing)
    complaints.settle("web-1")
    assert not complaints.is_new("web-1", missing)


def test_what_is_the_matter_with_one_is_told_when_it_changes() -> None:
    complaints = Complaints()
    slow, stuck = TimedOut("not within 5 s"), TimedOut("not within 9 s")
    assert [complaints.is_new("web-1", error) for error in (slow, slow, stuck, stuck)] == [True, False, True, False]
    assert complaints.is_new("web-2", stuck)
    complaints.settle("web-1")
    assert complaints.is_new("web-1", stuck)
