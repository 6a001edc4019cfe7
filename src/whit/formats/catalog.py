"""Catalogue: ready apps and machines that are linked from parts alone, as files of the package, by name.

An entry is a directory of `whit/catalog` with an app file or a machine file; its first line, a comment, says what it
is.
`catalog:NAME` stands for that file wherever a path to one is given, and for its service in `extends`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.nodes import Entry, Expand, Listing, Scalar, Table, Value, parse
from whit.formats.problems import Problems, near

PREFIX = "catalog:"
ROOT = Path(__file__).resolve().parents[1] / "catalog"
_FILES: dict[str, Literal["app", "machine"]] = {"whit.yaml": "app", "machine.yml": "machine"}
_ADDED = ("parts", "needs", "include", "exclude")
"""Keys of `build` to which an own service adds; others it replaces."""


@dataclass(frozen=True)
class CatalogEntry:
    name: str
    kind: Literal["app", "machine"]
    file: Path
    summary: str


def entries() -> list[CatalogEntry]:
    """All of them, by name."""
    return [
        CatalogEntry(directory.name, kind, directory / name, _summary(directory / name))
        for directory in sorted(ROOT.iterdir())
        for name, kind in _FILES.items()
        if (directory / name).is_file()
    ]


def find(name: str, place: Place | None = None) -> CatalogEntry:
    """Raises InputError."""
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        hint = near(name, known) or "`whit catalog ls` names them"
        raise InputError(f"the catalogue has no {name!r}", place=place, hint=hint)
    return known[name]


def resolve(path: Path) -> Path:
    """The file that `catalog:NAME` stands for; any other path as it is. Raises InputError."""
    text = str(path)
    return find(text.removeprefix(PREFIX)).file if text.startswith(PREFIX) else path


def is_named(text: str) -> bool:
    """Whether it names an entry, not a path or an image."""
    return text.startswith(PREFIX)


def _summary(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").rstrip()


# ---- extends ----


def extended(table: Table, expand: Expand, problems: Problems) -> Table:
    """A service with what the entry that it `extends` says; its own keys win, its own parts come last.

    What else `extends` may name is not honoured, and stays to be refused.

    Raises:
        InputError: there is no such entry, or it is a machine.
    """
    given = table.entries["extends"].value if "extends" in table.entries else None
    if not isinstance(given, Scalar) or not is_named(given.value):
        return table
    base = _service(find(shapes.text(given).removeprefix(PREFIX), given.place), given.place, expand, problems)
    own = {key: entry for key, entry in table.entries.items() if key != "extends"}
    merged = base.entries | own
    if "image" in own:
        merged.pop("build", None)
    elif "build" in own and "build" in base.entries:
        merged["build"] = replace(own["build"], value=_build(base.entries["build"].value, own["build"].value))
    return Table(table.place, merged)


def _service(entry: CatalogEntry, place: Place, expand: Expand, problems: Problems) -> Table:
    """The one service of an app, with the directories of its parts from the root on."""
    if entry.kind != "app":
        raise InputError(f"{entry.name} is a machine", place=place, hint="extend an app; `whit catalog ls` says which")
    top = shapes.table(parse(entry.file.read_text(encoding="utf-8"), str(entry.file), expand, problems))
    service = shapes.table(next(iter(shapes.table(top.entries["services"].value).entries.values())).value)
    build = service.entries["build"]
    return Table(service.place, service.entries | {"build": replace(build, value=_absolute(build.value, entry.file))})


def _absolute(build: Value, file: Path) -> Value:
    table = shapes.table(build)
    parts = table.entries["parts"]
    found = tuple(
        replace(item, value=str(file.parent / item.value))
        if isinstance(item, Scalar) and item.value[:2] == "./"
        else item
        for item in shapes.items(parts.value)
    )
    return Table(table.place, table.entries | {"parts": replace(parts, value=Listing(parts.value.place, found))})


def _build(base: Value, own: Value) -> Value:
    """The parts of both, the own ones last, where they win; own checks replace those of the entry."""
    theirs = shapes.table(base).entries
    mine = dict(own.entries) if isinstance(own, Table) else {"parts": Entry("parts", own.place, own)}
    if "context" in mine:
        mine["parts"] = replace(mine.pop("context"), key="parts")
    for key in _ADDED:
        if key in theirs and key in mine:
            items = (*shapes.one_or_more(theirs[key].value), *shapes.one_or_more(mine[key].value))
            mine[key] = replace(mine[key], value=Listing(mine[key].value.place, items))
    return Table(own.place, theirs | mine)
