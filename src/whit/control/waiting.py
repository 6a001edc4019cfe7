"""Waiting until an app is up or gone, telling each step as it is seen, and saying what is wrong when it will not be."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from whit.base.errors import Permanent, TimedOut
from whit.control.plan import unmet
from whit.model.instance import InstanceStatus
from whit.model.progress import Progress, Report
from whit.runtime import logs

if TYPE_CHECKING:
    from whit.control.agent import Agent

LOG_LINES = 10


async def until(agent: Agent, holds: Callable[[], bool], timeout: float, what: str) -> None:
    """Ask again after everything that happens. Raises TimedOut with what is still missing."""
    deadline = time.monotonic() + timeout
    while True:
        changes = agent.changes
        if holds():
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"waited {timeout:g} s for {what}{_missing(agent)}", hint="`whit ps` and `whit logs`")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changes.wait(), min(left, 1.0))


def is_up(agent: Agent, app: str, report: Report) -> bool:
    """Whether every instance runs and is healthy, or has done its work.

    Raises:
        Permanent: one has ended badly and will not be started again; with the end of what it printed.
    """
    seen = agent.instances.seen()
    up = True
    for name, want in agent.wanted.items():
        if want.spec.app != app:
            continue
        there = seen.get(name)
        if there is None or there.status.revision != want.spec.revision:
            waits = unmet(want, seen, agent.wanted)
            report(Progress(subject=name, step=f"waits for {', '.join(waits)}" if waits else "starting"))
            up = False
            continue
        if there.status.state == "exited" and there.retry_at is None and there.status.exit_code != 0:
            raise Permanent(_ended_badly(agent, there.status), hint=f"`whit logs {there.status.service}` has the rest")
        if there.status.state == "failed" and there.retry_at is None and not there.busy:
            raise Permanent(f"{name} cannot be started: {there.status.message}")
        done = _is_settled(there.status)
        report(Progress(subject=name, step=_words(there.status), done=done, failed=there.status.state == "failed"))
        up = up and done
    return up


def gone(agent: Agent, app: str, report: Report) -> bool:
    left = [name for name, there in agent.instances.seen().items() if there.status.app == app]
    for name in left:
        report(Progress(subject=name, step="stopping"))
    return not left


def _is_settled(status: InstanceStatus) -> bool:
    if status.state == "running":
        return status.health in ("none", "healthy")
    return status.state == "exited" and status.exit_code == 0


def _words(status: InstanceStatus) -> str:
    if status.state == "running":
        return "running" if status.health == "none" else status.health
    return status.message or status.state


def _missing(agent: Agent) -> str:
    lines = [f"\n  {status.name}: {_words(status)}" for status in agent.instance_statuses() if not _is_settled(status)]
    return "".join(lines)


def _ended_badly(agent: Agent, status: InstanceStatus) -> str:
    printed = logs.read(agent.driver.layout(status.name), last=LOG_LINES)
    text = "".join(f"\n  {line.text}" for line in printed) or "\n  (it printed nothing)"
    return f"{status.name} ended with {status.exit_code}: {status.message}{text}"
