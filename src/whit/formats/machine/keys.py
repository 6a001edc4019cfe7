"""Keys of machine files: how a table of them is read, and which keys of LinuxKit's schema are refused, with the remedy.

The keys are those of LinuxKit's schema (src/cmd/linuxkit/moby/schema.go) in 2026. A mistake in the value of a key has
the code `machine-<key>`; what contradicts itself across keys has a code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Table, Value
from whit.formats.problems import Problems

_V2 = "a machine has cgroup v2, which has no such limit; leave it out"

UNSUPPORTED: dict[str, str] = {
    "trust": "images are verified where they are stored; leave it out",
    "container.runtime.namespace": "services are not kept by containerd; leave it out",
    "container.resources.memory.kernel": _V2,
    "container.resources.memory.kernelTCP": _V2,
    "container.resources.memory.swappiness": _V2,
    "container.resources.memory.disableOOMKiller": "use oomScoreAdj: -1000",
    "container.resources.cpu.realtimeRuntime": _V2,
    "container.resources.cpu.realtimePeriod": _V2,
    "container.resources.network": _V2,
    "container.resources.blockio.leafWeight": _V2,
    "container.resources.blockio.weightDevice[].leafWeight": _V2,
    "volumes[].platforms": "a machine is built for one architecture; leave it out",
}
"""`container` stands for an entry of `onboot`, `onshutdown` or `services`, and for what an image says of itself."""


@dataclass(frozen=True)
class Key:
    """`field` of the noun that the key fills, what it takes, in words, and what reads it."""

    field: str
    takes: str
    read: Callable[[Value], Any]


def fault(code: str, message: str, *, place: Place, hint: str = "") -> InputError:
    """A mistake with a code of its own, as `machine-no-kernel`."""
    error = InputError(message, place=place, hint=hint)
    error.code = f"machine-{code}"
    return error


def code_of(key: str) -> str:
    """`oom-score-adj` of `oomScoreAdj`, `binds-add` of `binds.add`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[._]", "-", key).lower()


@contextmanager
def coded(key: str, problems: Problems, kind: str = "machine") -> Iterator[None]:
    """Keep the mistake that ends the block, with the code of the key unless it has one of its own."""
    with problems.guard():
        try:
            yield
        except InputError as error:
            if error.code == InputError.code:
                error.code = f"{kind}-{code_of(key)}"
            raise


def read_keys(
    table: Table, parent: str, keys: Mapping[str, Key], problems: Problems
) -> tuple[dict[str, Any], dict[str, Place]]:
    """What the keys of a table say, by the noun's fields, and where. Mistakes are among the problems."""
    refuse(table, parent, keys, problems, UNSUPPORTED)
    fields: dict[str, Any] = {}
    places: dict[str, Place] = {}
    for name, key in keys.items():
        if name in table.entries:
            value = table.entries[name].value
            with coded(name, problems):
                fields[key.field] = key.read(value)
                places[key.field] = value.place
    return fields, places


def strings(value: Value) -> tuple[str, ...]:
    """A list of texts, of which some may be empty. A text alone is refused, as the schema does."""
    return tuple(shapes.text_or_empty(item) for item in shapes.items(value))


def string_map(value: Value) -> dict[str, str]:
    return {key: shapes.text_or_empty(entry.value) for key, entry in shapes.table(value).entries.items()}


def absolute(value: Value) -> str:
    """A path from the root that stays below it."""
    return _absolute(shapes.text(value), value.place)


def absolutes(value: Value) -> tuple[str, ...]:
    return tuple(absolute(item) for item in shapes.items(value))


def _absolute(text: str, place: Place) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        raise InputError(f"{text!r} is not a path from the root", place=place, hint="begin with / and leave out ..")
    return text


def between(least: int, most: int) -> Callable[[Value], int]:
    """A reader of whole numbers."""

    def read(value: Value) -> int:
        found = shapes.whole(value)
        if not least <= found <= most:
            raise InputError(f"{found} is not from {least} to {most}", place=value.place)
        return found

    return read


def needed(table: Table, *names: str) -> None:
    """Raises InputError if the table lacks one of the keys."""
    for name in names:
        if name not in table.entries:
            raise fault(f"no-{code_of(name)}", f"has no {name}", place=table.place, hint=f"add {name}:")
