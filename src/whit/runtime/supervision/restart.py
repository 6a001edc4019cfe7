"""Whether an instance that ended is started again, and after how long. Pure; control carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from whit.model.instance import ExitRecord
from whit.model.service import RestartSpec

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
HEALTHY_RUN = 10.0
"""Seconds; a run that lasted so long starts the back-off anew."""


@dataclass(frozen=True)
class Decision:
    """`after` is in seconds and None means: leave it. `attempts` is what to pass in at the next exit."""

    after: float | None
    attempts: int
    reason: str


def decide(
    wanted: RestartSpec, ended: ExitRecord, *, attempts: int, ran_for: float, stopped_by_user: bool = False
) -> Decision:
    """What follows an exit.

    Args:
        attempts: Restarts in a row so far, from the last decision; 0 at first.
        ran_for: Seconds since the last start.
        stopped_by_user: Somebody asked for the stop. No policy undoes that at once: `always` starts it again only
            when the agent starts anew (see `at_agent_start`).
    """
    if stopped_by_user:
        return Decision(None, 0, "it was stopped on request")
    if wanted.policy == "no":
        return Decision(None, attempts, "its restart policy is no")
    if wanted.policy == "on-failure" and ended.code == 0:
        return Decision(None, attempts, "it ended well")
    so_far = 0 if ran_for >= HEALTHY_RUN else attempts
    if wanted.policy == "on-failure" and 0 < wanted.max_attempts <= so_far:
        return Decision(None, so_far, f"it failed again after {so_far} restarts")
    return Decision(delay(so_far), so_far + 1, f"its restart policy is {wanted.policy}")


def delay(attempts: int) -> float:
    """Seconds before the restart that follows so many others in a row: 0.1 doubling to 60."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(attempts, 16)))


def at_agent_start(wanted: RestartSpec, ended: ExitRecord, *, stopped_by_user: bool) -> bool:
    """Whether an instance that a new agent finds ended is started: `always` even after a stop on request,
    `unless-stopped` not after one."""
    if stopped_by_user:
        return wanted.policy == "always"
    return decide(wanted, ended, attempts=0, ran_for=HEALTHY_RUN).after is not None
