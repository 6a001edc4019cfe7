"""Limits: `deploy`, and the older keys that say the same: mem_limit, cpus and pids_limit."""

from __future__ import annotations

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.draft import Draft
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry
from whit.formats.quantities import rate, size

MAX_PIDS = 1 << 22
"""PID_MAX_LIMIT of the kernel, which takes no larger limit."""


def read_deploy(entry: Entry, draft: Draft) -> None:
    """Raises InputError."""
    path, problems = "services.*.deploy", draft.source.problems
    deploy = shapes.table(entry.value)
    refuse(deploy, path, ("replicas", "resources"), problems)
    if found := deploy.entries.get("replicas"):
        with problems.guard():
            draft.set("replicas", shapes.whole(found.value), found.value.place)
    if found := deploy.entries.get("resources"):
        resources = shapes.table(found.value)
        refuse(resources, f"{path}.resources", ("limits",), problems)
        if limits := resources.entries.get("limits"):
            table = shapes.table(limits.value)
            readers = {"memory": read_memory, "cpus": read_cpus, "pids": read_pids, "egress": read_egress}
            refuse(table, f"{path}.resources.limits", readers, problems)
            for key in table.entries.keys() & readers.keys():
                with problems.guard():
                    readers[key](table.entries[key], draft)


def read_memory(entry: Entry, draft: Draft) -> None:
    draft.limit("memory", shapes.parsed(entry.value, size), entry.place)


def read_cpus(entry: Entry, draft: Draft) -> None:
    draft.limit("cpus", shapes.number(entry.value), entry.place)


def read_egress(entry: Entry, draft: Draft) -> None:
    """Bytes a second."""
    draft.limit("egress", shapes.parsed(entry.value, rate) // 8, entry.place)


def read_pids(entry: Entry, draft: Draft) -> None:
    pids = shapes.whole(entry.value)
    if not 1 <= pids <= MAX_PIDS:
        raise InputError(
            f"must be at least 1 and at most {MAX_PIDS}",
            place=entry.value.place,
            hint="leave it out for no limit of its own",
        )
    draft.limit("pids", pids, entry.place)
