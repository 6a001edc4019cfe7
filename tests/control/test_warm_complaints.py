"""What is said of instances that stay awake, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.instances import make_spec

from whit.base.errors import TimedOut, Unavailable, WhitError
from whit.control.instances import Record
from whit.control.warm import Complaints
from whit.model.instance import InstanceStatus


class Instance:
    """Whatever is complained about."""


def test_what_the_machine_lacks_is_told_once_for_all() -> None:
    complaints, one, two = Complaints(), Instance(), Instance()
    missing, other = Unavailable("a program is missing"), Unavailable("no freezer")
    assert complaints.is_new(one, missing)
    assert not complaints.is_new(one, missing)
    assert complaints.is_new(one, other)
    assert not complaints.is_new(two, other)
    complaints.settle(one)
    assert not complaints.is_new(one, other)


def test_what_is_the_matter_with_one_is_told_when_it_changes() -> None:
    complaints, one, two = Complaints(), Instance(), Instance()
    slow, stuck = TimedOut("not within 5 s"), TimedOut("not within 9 s")
    assert [complaints.is_new(one, error) for error in (slow, slow, stuck, stuck)] == [True, False, True, False]
    assert complaints.is_new(two, stuck)
    complaints.settle(one)
    assert complaints.is_new(one, stuck)


@pytest.mark.parametrize("error", [TimedOut("not within 5 s"), Unavailable("a program is missing")])
def test_what_was_told_of_one_goes_with_it(error: WhitError) -> None:
    complaints = Complaints()
    for _ in range(2):
        one = Instance()
        assert complaints.is_new(one, error)
        assert not complaints.is_new(one, error)
        del one


def test_instances_can_be_complained_about() -> None:
    """Records are told apart by what they are, not by what is in them, which changes."""
    spec = make_spec(Path("/"))
    status = InstanceStatus(name=spec.name, app="test", service="web", state="running")
    complaints, slow = Complaints(), TimedOut("not within 5 s")
    assert [complaints.is_new(Record(spec, {}, status), slow) for _ in range(2)] == [True, True]
