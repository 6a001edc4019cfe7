"""Which instance is started, restarted or removed next: a pure function from what is wanted and seen.

It is asked again after everything that happens, so it needs no memory: what is not yet possible waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whit.control.desired import Wanted
from whit.model.instance import REACHABLE, InstanceStatus
from whit.model.service import DependencySpec


@dataclass(frozen=True)
class Seen:
    """An instance as it is now."""

    status: InstanceStatus
    depends_on: Mapping[str, DependencySpec]
    busy: bool = False
    """Something is being done to it already."""
    retry_at: float | None = None
    """Monotonic time at which it is started again; None: it rests as it is."""


@dataclass(frozen=True)
class Start:
    name: str


@dataclass(frozen=True)
class Restart:
    """Start the process again, in the network and with the files that the instance has."""

    name: str


@dataclass(frozen=True)
class Remove:
    name: str
    reason: str


Action = Start | Restart | Remove


def plan(wanted: Mapping[str, Wanted], seen: Mapping[str, Seen], now: float) -> list[Action]:
    """The actions that are due. Instances that are busy are left alone."""
    actions: list[Action] = []
    for name, there in seen.items():
        if not there.busy:
            actions += _removal(name, there, wanted.get(name), seen)
    leaving = {action.name for action in actions}
    for name, want in wanted.items():
        present = seen.get(name)
        if present is None:
            if dependencies_met(want, seen, wanted):
                actions.append(Start(name))
        elif not present.busy and name not in leaving and present.retry_at is not None and present.retry_at <= now:
            actions.append(Restart(name))
    return actions


def next_retry(seen: Mapping[str, Seen]) -> float | None:
    """When `plan` should be asked again although nothing happened."""
    return min((there.retry_at for there in seen.values() if there.retry_at is not None), default=None)


def _removal(name: str, there: Seen, want: Wanted | None, seen: Mapping[str, Seen]) -> list[Action]:
    if want is not None and want.spec.revision == there.status.revision:
        return []
    if want is not None:
        return [Remove(name, "changed")]
    # Those that depend on it go first, so that they can still say goodbye to it.
    app, service = there.status.app, there.status.service
    needed = any(o.status.app == app and service in o.depends_on for o in seen.values() if o is not there)
    return [] if needed else [Remove(name, "not wanted")]


def dependencies_met(want: Wanted, seen: Mapping[str, Seen], wanted: Mapping[str, Wanted]) -> bool:
    return not unmet(want, seen, wanted)


def unmet(want: Wanted, seen: Mapping[str, Seen], wanted: Mapping[str, Wanted]) -> list[str]:
    """The dependencies that hold the instance back, in words."""
    return [
        f"{service}: {dependency.condition.removeprefix('service_').replace('_', ' ')}"
        for service, dependency in want.depends_on.items()
        if not _condition_holds(want.spec.app, service, dependency, seen, wanted)
    ]


def _condition_holds(
    app: str, service: str, dependency: DependencySpec, seen: Mapping[str, Seen], wanted: Mapping[str, Wanted]
) -> bool:
    for name, other in wanted.items():
        if (other.spec.app, other.spec.service) != (app, service):
            continue
        there = seen.get(name)
        if there is None or there.status.revision != other.spec.revision:
            return False
        if not _status_satisfies(there.status, dependency):
            return False
    return True


def _status_satisfies(status: InstanceStatus, dependency: DependencySpec) -> bool:
    match dependency.condition:
        case "service_completed_successfully":
            return status.state == "exited" and status.exit_code == 0
        case "service_healthy":
            return status.state in REACHABLE and status.health in ("healthy", "none")
        case "service_started":
            return status.state in REACHABLE or (status.state == "exited" and status.started_at is not None)
