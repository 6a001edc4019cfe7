"""The health of an instance, as the Compose Specification has it: a command run at intervals inside it.

The state machine is pure; `watch` runs it against a clock and whatever runs the command.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from whit.base.errors import WhitError
from whit.model.instance import Health
from whit.model.service import HealthSpec

log = logging.getLogger(__name__)

OUTPUT_LIMIT = 4096
"""Characters kept of a check's output."""


@dataclass(frozen=True)
class CheckResult:
    """One finished check. A check that could not be run, or took too long, is not ok."""

    ok: bool
    output: str = ""


def finding(code: int | None, output: bytes, timeout: float) -> CheckResult:
    """Of a command that ended with `code`, or did not end within `timeout` seconds."""
    text = output.decode(errors="replace")
    if code is None:
        return CheckResult(ok=False, output=f"{text}\nit took longer than {timeout:g} s".lstrip())
    return CheckResult(ok=code == 0, output=text)


@dataclass(frozen=True)
class HealthState:
    """`started` and `next_check` are seconds on one monotonic clock; `failures` counts those in a row that matter."""

    health: Health
    started: float
    next_check: float
    failures: int = 0
    output: str = ""


def initial(spec: HealthSpec, now: float) -> HealthState:
    """Of an instance that started now. Within the start period checks come at their own, usually shorter, interval."""
    starting = HealthState("starting", started=now, next_check=now)
    return replace(starting, next_check=now + _interval(spec, starting, now))


def advance(spec: HealthSpec, state: HealthState, result: CheckResult, now: float) -> HealthState:
    """The state after a check that ended now.

    One success makes it healthy and ends the start period. `retries` failures in a row make it unhealthy; within the
    start period a failure does not count.
    """
    output = result.output[-OUTPUT_LIMIT:]
    if result.ok:
        after = replace(state, health="healthy", failures=0, output=output)
    elif _forgives(spec, state, now):
        after = replace(state, output=output)
    else:
        failures = state.failures + 1
        health: Health = "unhealthy" if failures >= spec.retries else state.health
        after = replace(state, health=health, failures=failures, output=output)
    return replace(after, next_check=now + _interval(spec, after, now))


def _forgives(spec: HealthSpec, state: HealthState, now: float) -> bool:
    return state.health == "starting" and now < state.started + spec.start_period


def _interval(spec: HealthSpec, state: HealthState, now: float) -> float:
    if not _forgives(spec, state, now):
        return spec.interval
    return min(spec.start_interval, spec.interval)


async def watch(
    spec: HealthSpec,
    check: Callable[[tuple[str, ...], float], Awaitable[CheckResult]],
    changed: Callable[[HealthState], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Check for ever; cancel to end. `check` gets the command and the time-out in seconds; `changed` is called
    whenever the health differs from before."""
    state = initial(spec, clock())
    changed(state)
    while True:
        await asyncio.sleep(max(0.0, state.next_check - clock()))
        after = advance(spec, state, await _checked(spec, check), clock())
        if after.health != state.health:
            changed(after)
        state = after


async def _checked(spec: HealthSpec, check: Callable[[tuple[str, ...], float], Awaitable[CheckResult]]) -> CheckResult:
    try:
        return await check(spec.test, spec.timeout)
    except WhitError as error:
        log.debug("health check could not be run: %s", error)
        return CheckResult(ok=False, output=str(error))
