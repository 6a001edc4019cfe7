from __future__ import annotations

import pytest

from whit.model.instance import ExitRecord
from whit.model.service import RestartSpec
from whit.runtime.supervision.restart import at_agent_start, decide, delay


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("no", 0, False),
        ("no", 1, False),
        ("always", 0, True),
        ("always", 1, True),
        ("unless-stopped", 0, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        # Nobody saw how it ended: that is no success.
        ("on-failure", None, True),
    ],
)
def test_policies(policy: str, code: int | None, again: bool) -> None:
    spec = RestartSpec.model_validate({"policy": policy})
    decision = decide(spec, ExitRecord(code=code), attempts=0, ran_for=1)
    assert (decision.after is not None) is again
    assert decide(spec, ExitRecord(code=code), attempts=0, ran_for=1, stopped_by_user=True).after is None


def test_back_off_doubles_to_a_minute() -> None:
    assert [delay(n) for n in range(12)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]
    assert delay(100000) == 60


def test_a_good_run_starts_the_back_off_anew() -> None:
    spec, ended = RestartSpec(policy="always"), ExitRecord(code=1)
    attempts, delays = 0, []
    for ran_for in (0.1, 9.9, 10.0, 0.1):
        decision = decide(spec, ended, attempts=attempts, ran_for=ran_for)
        attempts = decision.attempts
        delays.append(decision.after)
    assert delays == [0.1, 0.2, 0.1, 0.2]


def test_giving_up() -> None:
    spec, ended, attempts = RestartSpec(policy="on-failure", max_attempts=2), ExitRecord(code=1), 0
    after = []
    for _ in range(3):
        decision = decide(spec, ended, attempts=attempts, ran_for=0)
        attempts = decision.attempts
        after.append(decision.after)
    assert after == [0.1, 0.2, None]
    assert decision.reason == "it failed again after 2 restarts"


def test_when_an_agent_starts() -> None:
    ended = ExitRecord(code=0)
    assert at_agent_start(RestartSpec(policy="always"), ended, stopped_by_user=True)
    assert not at_agent_start(RestartSpec(policy="unless-stopped"), ended, stopped_by_user=True)
    assert at_agent_start(RestartSpec(policy="unless-stopped"), ended, stopped_by_user=False)
    assert not at_agent_start(RestartSpec(policy="no"), ended, stopped_by_user=False)
    assert not at_agent_start(RestartSpec(policy="on-failure"), ended, stopped_by_user=False)
