"""How much memory instances that sleep may hold together: beyond it, those that slept longest give theirs back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whit.control.instances import Record
from whit.kernel import cgroup, cgroup_usage
from whit.runtime.drivers import Drivers


@dataclass(frozen=True)
class Sleeper:
    """An instance that sleeps and holds memory, with the bytes that its cgroup is charged for."""

    name: str
    slept: float
    memory: int


def holds_memory(record: Record, drivers: Drivers) -> bool:
    """Of one that is `created` there is next to nothing yet, or a whole kernel."""
    state = record.status.state
    return state == "frozen" or (state == "created" and drivers.of(record.spec.isolation).has_own_kernel)


def sleepers(records: Iterable[Record], drivers: Drivers) -> list[Sleeper]:
    """Reads a file for each."""
    hierarchies = cgroup.find()
    found = []
    for record in records:
        name = record.spec.name
        if holds_memory(record, drivers) and record.task is None:
            used = cgroup_usage.usage(hierarchies, drivers.layout(name).cgroup).memory
            found.append(Sleeper(name, record.slept, used or 0))
    return found


def too_many(found: Iterable[Sleeper], budget: int) -> list[str]:
    """Who has to go so that the others hold no more than `budget` bytes: the oldest sleepers, first."""
    ordered = sorted(found, key=lambda one: one.slept)
    held, chosen = sum(one.memory for one in ordered), list[str]()
    for one in ordered:
        if held <= budget:
            break
        chosen.append(one.name)
        held -= one.memory
    return chosen
