from __future__ import annotations

import asyncio

from whit.base.errors import Conflict
from whit.model.service import HealthSpec
from whit.runtime.supervision.health import CheckResult, HealthState, advance, initial, watch

GOOD, BAD = CheckResult(ok=True, output="fine"), CheckResult(ok=False, output="oops")


def run(spec: HealthSpec, *results: tuple[float, CheckResult]) -> list[HealthState]:
    """The states after checks that end at these times, for an instance that started at 0."""
    states = [initial(spec, 0)]
    for now, result in results:
        states.append(advance(spec, states[-1], result, now))
    return states


def test_retries_in_a_row() -> None:
    spec = HealthSpec(test=("t",), interval=10, retries=3)
    states = run(spec, (10, BAD), (20, BAD), (30, GOOD), (40, BAD), (50, BAD), (60, BAD), (70, GOOD))
    assert [state.health for state in states] == [*["starting"] * 3, *["healthy"] * 3, "unhealthy", "healthy"]
    assert [state.next_check for state in states] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert states[1].output == "oops"


def test_the_start_period_forgives() -> None:
    spec = HealthSpec(test=("t",), interval=30, retries=2, start_period=20, start_interval=5)
    states = run(spec, (5, BAD), (10, BAD), (15, BAD), (20, BAD), (50, BAD))
    assert [state.health for state in states] == [*["starting"] * 5, "unhealthy"]
    assert [state.failures for state in states] == [0, 0, 0, 0, 1, 2]
    assert [state.next_check for state in states] == [5, 10, 15, 20, 50, 80]


def test_one_success_ends_the_start_period() -> None:
    spec = HealthSpec(test=("t",), interval=30, retries=1, start_period=100, start_interval=5)
    states = run(spec, (5, GOOD), (35, BAD))
    assert [state.health for state in states] == ["starting", "healthy", "unhealthy"]
    assert states[1].next_check == 35


async def test_the_loop() -> None:
    spec = HealthSpec(test=("check", "me"), interval=0.01, timeout=7, retries=2)
    results = iter([GOOD, BAD, Conflict("not running"), GOOD])
    seen: list[tuple[str, str]] = []
    asked: list[tuple[tuple[str, ...], float]] = []
    over = asyncio.Event()

    async def check(command: tuple[str, ...], timeout: float) -> CheckResult:
        asked.append((command, timeout))
        result = next(results, None)
        if result is None:
            over.set()
            await asyncio.sleep(60)
        if isinstance(result, Conflict):
            raise result
        assert isinstance(result, CheckResult)
        return result

    task = asyncio.create_task(watch(spec, check, lambda state: seen.append((state.health, state.output))))
    await asyncio.wait_for(over.wait(), 30)
    task.cancel()
    assert seen == [("starting", ""), ("healthy", "fine"), ("unhealthy", "not running"), ("healthy", "fine")]
    assert asked[0] == (("check", "me"), 7)
