"""Proofs: `build.check`, a list of commands, or of tables about a server that runs while it is asked."""

from __future__ import annotations

from collections.abc import Iterator

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Listing, Table, Value
from whit.formats.problems import Problems, make
from whit.formats.quantities import duration
from whit.model.build import CheckSpec

KEYS = tuple(CheckSpec.model_fields)


def read_checks(value: Value, problems: Problems) -> Iterator[CheckSpec]:
    """Each check; what cannot be read is among the problems. Raises InputError."""
    for item in shapes.items(value):
        with problems.guard():
            yield _check(item, problems)


def _check(value: Value, problems: Problems) -> CheckSpec:
    if not isinstance(value, Table):
        return make(CheckSpec, value.place, {}, {"run": _words(value)})
    refuse(value, "services.*.build.check[]", KEYS, problems)
    fields: dict[str, object] = {}
    for key, entry in value.entries.items():
        if key in ("run", "start"):
            fields[key] = _words(entry.value)
        elif key == "timeout":
            fields[key] = shapes.parsed(entry.value, duration, code="check-timeout")
        elif key in ("status", "tcp"):
            fields[key] = shapes.whole(entry.value)
        elif key in KEYS:
            fields[key] = shapes.text(entry.value)
    asked = [key for key in ("run", "http", "tcp") if key in fields]
    if len(asked) != 1:
        hint = "write a check for each of them"
        raise InputError("has exactly one of run, http and tcp", place=value.place, hint=hint, code="check-question")
    if asked != ["run"] and "start" not in fields:
        raise InputError(
            "asks a server that nobody starts",
            place=value.place,
            hint="add start with its command",
            code="check-no-server",
        )
    return make(CheckSpec, value.place, {key: entry.place for key, entry in value.entries.items()}, fields)


def _words(value: Value) -> tuple[str, ...]:
    found = shapes.words(value)
    if not found:
        kind = "list" if isinstance(value, Listing) else "text"
        hint = "name a program of the image, with its arguments"
        raise InputError(f"an empty {kind} is no command", place=value.place, hint=hint, code="check-no-command")
    return found
