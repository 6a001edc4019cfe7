"""What becomes an alarm."""

from __future__ import annotations

from collections import Counter

from whit.control.observing.alarms import alarms_of, changes, dropped_between, lost_between
from whit.datapath.abi import DropKey, DropReason, DropValue
from whit.model.alarm import Alarm, Fill


def name(number: int) -> str:
    return f"app/{number}"


def found(fills: list[Fill] | None = None, drops: dict[str, int] | None = None, lost: int = 0) -> list[Alarm]:
    users = {"flows": Counter({1: 50, 2: 900, 3: 5, 4: 1})}
    return alarms_of(fills or [], drops or {}, lost, users, name)


def test_a_map_is_told_at_four_fifths_with_its_heaviest_users() -> None:
    assert found([Fill(map="flows", entries=799, room=1000)]) == []
    (one,) = found([Fill(map="flows", entries=800, room=1000)])
    assert (one.name, one.severity, one.users) == ("map-full:flows", "warning", ("app/2: 900", "app/1: 50", "app/3: 5"))
    (worse,) = found([Fill(map="policies", entries=960, room=1000)])
    assert (worse.severity, worse.users) == ("critical", ())


def test_lost_events_and_faults_are_told_and_policy_is_not() -> None:
    assert [one.name for one in found(lost=3)] == ["events-lost"]
    assert found(drops={"POLICY_EGRESS": 10_000}) == []
    assert [one.name for one in found(drops={"CONNTRACK_FULL": 1, "INTERNAL": 2})] == [
        "drops:CONNTRACK_FULL",
        "drops:INTERNAL",
    ]


def test_drops_are_counted_between_two_looks() -> None:
    policy, lost = DropKey(DropReason.POLICY_EGRESS, 1), DropKey(0, 255)
    before = {policy: DropValue(5, 500), lost: DropValue(1, 96)}
    now = {policy: DropValue(8, 800), lost: DropValue(3, 288), DropKey(999, 1): DropValue(1, 60)}
    assert dropped_between(now, before) == {"POLICY_EGRESS": 3, "999": 1}
    assert lost_between(now, before) == 2


def test_only_changes_are_logged() -> None:
    warning = Alarm(name="a", severity="warning", text="x")
    critical = Alarm(name="a", severity="critical", text="x")
    assert changes([], [warning]) == ([warning], [])
    assert changes([warning], [warning]) == ([], [])
    assert changes([warning], [critical]) == ([critical], [])
    assert changes([critical], []) == ([], [critical])
