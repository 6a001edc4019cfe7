"""Health: `healthcheck` of a service, as the Compose Specification has it (05-services.md, healthcheck)."""

from __future__ import annotations

from typing import Any

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.draft import Draft
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Scalar, Table, Value
from whit.formats.problems import make
from whit.formats.quantities import duration
from whit.model.service import HealthSpec

DURATIONS = ("interval", "timeout", "start_period", "start_interval")
KEYS = ("test", "disable", "retries", *DURATIONS)


def read_healthcheck(entry: Entry, draft: Draft) -> None:
    """Raises InputError."""
    draft.places["healthcheck"] = entry.place
    table = shapes.table(entry.value)
    refuse(table, "services.*.healthcheck", KEYS, draft.source.problems)
    entries = table.entries
    if "disable" in entries and shapes.truth(entries["disable"].value):
        del draft.places["healthcheck"]
        return
    if "test" not in entries:
        hint = "add test: [CMD, …]; an image's own check is not run"
        raise InputError("has no test", place=entry.place, hint=hint)
    test = _test(entries["test"].value)
    if test is None:
        del draft.places["healthcheck"]
        return
    fields: dict[str, Any] = {"test": test, **_times(table, draft)}
    if "retries" in entries:
        fields["retries"] = shapes.whole(entries["retries"].value)
    draft.healthcheck = make(
        HealthSpec, entry.place, {key: found.value.place for key, found in entries.items()}, fields
    )


def _times(table: Table, draft: Draft) -> dict[str, float]:
    found: dict[str, float] = {}
    for key in DURATIONS:
        if key in table.entries:
            with draft.source.problems.guard():
                found[key] = shapes.parsed(table.entries[key].value, duration)
    return found


def _test(value: Value) -> tuple[str, ...] | None:
    """The command; None if the check is switched off."""
    if isinstance(value, Scalar):
        return _shell(shapes.text(value))
    kind, *words = tuple(shapes.text_or_empty(item) for item in shapes.items(value)) or ("",)
    if kind == "NONE" and not words:
        return None
    if kind == "CMD" and words:
        return tuple(words)
    if kind == "CMD-SHELL" and len(words) == 1:
        return _shell(words[0])
    hint = "write [CMD, program, argument…], [CMD-SHELL, text], [NONE] or text"
    raise InputError("the list does not say how the check is run", place=value.place, hint=hint)


def _shell(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)
