"""Waiting until an app is up or gone: what is seen on the way, and what is wrong when it will not be."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from whit.base.errors import Permanent, TimedOut
from whit.control.desired import Wanted
from whit.control.plan import Seen, unmet
from whit.model.instance import REACHABLE, InstanceStatus
from whit.model.progress import Progress, Report


async def until(
    holds: Callable[[], bool], changes: Callable[[], asyncio.Event], timeout: float, what: Callable[[], str]
) -> None:
    """Ask `holds` again after everything that happens.

    `changes` gives the event of the next change, `what` says what is waited for and what is still missing.

    Raises:
        TimedOut: it did not hold within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        change = changes()
        if holds():
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"waited {timeout:g} s for {what()}", hint="`whit ps` and `whit logs` tell more")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(change.wait(), min(left, 1.0))


def is_up(
    app: str,
    wanted: Mapping[str, Wanted],
    seen: Mapping[str, Seen],
    report: Report,
    last_words: Callable[[str], str],
) -> bool:
    """Whether every instance of the app runs and is healthy, or has done its work.

    Raises:
        Permanent: one has failed and will not be started again; with `last_words`, the end of what it printed.
    """
    up = True
    for name, want in wanted.items():
        if want.spec.app != app:
            continue
        there = seen.get(name)
        if there is None or there.status.revision != want.spec.revision:
            waits = unmet(want, seen, wanted)
            report(Progress(subject=name, step=f"waits for {', '.join(waits)}" if waits else "starting"))
            up = False
            continue
        _refuse_failure(there, last_words)
        done = is_settled(there.status)
        report(Progress(subject=name, step=words(there.status), done=done, failed=there.status.state == "failed"))
        up = up and done
    return up


def _refuse_failure(there: Seen, last_words: Callable[[str], str]) -> None:
    status = there.status
    if there.retry_at is not None or there.busy:
        return
    if status.state == "failed":
        raise Permanent(f"{status.name} cannot be started: {status.message}")
    if status.state == "exited" and status.exit_code != 0:
        raise Permanent(
            f"{status.name} ended with {status.exit_code}: {status.message}\n{last_words(status.name)}",
            hint=f"`whit logs {status.service}` has the rest",
        )


def gone(app: str, seen: Mapping[str, Seen], report: Report) -> bool:
    """Whether nothing of the app is left."""
    left = [name for name, there in seen.items() if there.status.app == app]
    for name in left:
        report(Progress(subject=name, step="stopping"))
    return not left


def is_settled(status: InstanceStatus) -> bool:
    """It is as it should be: healthy, or done."""
    if status.state in REACHABLE:
        return status.health in ("none", "healthy")
    return status.state == "exited" and status.exit_code == 0


def words(status: InstanceStatus) -> str:
    if status.state == "running":
        return "running" if status.health == "none" else status.health
    return status.message or status.state


def missing(app: str, seen: Mapping[str, Seen]) -> str:
    """What is not as it should be, a line each."""
    statuses = [there.status for there in seen.values() if there.status.app == app]
    return "".join(f"\n  {status.name}: {words(status)}" for status in statuses if not is_settled(status))
