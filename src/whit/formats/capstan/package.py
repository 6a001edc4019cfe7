"""Package mode: meta/run.yaml says what is run, meta/package.yaml how it is called; the directory becomes the root."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.naming import valid_name
from whit.formats.capstan import command, keys
from whit.formats.capstan.capstanfile import Program
from whit.formats.nodes import Entry, Table, Value, parse
from whit.formats.problems import Problems, near
from whit.model.build import DirectoryPart

log = logging.getLogger(__name__)

RUN = Path("meta/run.yaml")
PACKAGE = Path("meta/package.yaml")
IGNORE = ".capstanignore"
_IGNORED = ("/meta", "/mpm-pkg", "/Capstanfile", f"/{IGNORE}", ".git", ".gitignore")
_LABELS = {"title": "title", "author": "authors", "version": "version", "created": "created"}
"""As annotations of OCI images are called (image-spec, annotations.md)."""


def read(directory: Path, problems: Problems) -> Program:
    """What cannot be read is among the problems. Raises InputError if a file is no table."""
    root = directory.resolve()
    program = Program(valid_name(root.name))
    program.parts.append(DirectoryPart(path=root, ignored=tuple(_ignored(root)), label="."))
    _read_run(_table(directory / RUN, problems), program, problems)
    if (directory / PACKAGE).is_file():
        _read_package(_table(directory / PACKAGE, problems), program, problems)
    return program


def _table(file: Path, problems: Problems) -> Table:
    return shapes.table(parse(file.read_text(encoding="utf-8"), str(file), lambda text, _: text, problems))


def _ignored(root: Path) -> Iterator[str]:
    """Patterns of .whitignore for those of .capstanignore, where `/a/*` is all that is below /a."""
    yield from _IGNORED
    file = root / IGNORE
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        text = line.strip()
        if text and not text.startswith("#"):
            yield text.removesuffix("/*").rstrip("/") or "*"


# ---- run.yaml ----


def _read_run(table: Table, program: Program, problems: Problems) -> None:
    keys.refuse(table, "run.yaml", keys.RUN, problems)
    with problems.guard():
        program.runtime = _runtime(table)
    with problems.guard():
        chosen = _chosen(table, program.runtime, problems)
        program.argv = _argv(chosen, program.runtime)
        program.environment = _environment(shapes.table(chosen.value).entries.get("env"))


def _runtime(table: Table) -> str:
    if "runtime" not in table.entries:
        raise InputError("has no runtime", place=table.place, hint=f"one of {', '.join(keys.SETS)}")
    return shapes.one_of(table.entries["runtime"].value, tuple(keys.SETS))


def _chosen(table: Table, runtime: str, problems: Problems) -> Entry:
    """The config set that is run. The others are read as well, so that a mistake in them is told."""
    entry = table.entries.get("config_set")
    sets = shapes.table(entry.value).entries if entry else {}
    if not sets:
        raise InputError("has no config_set", place=table.place, hint="add one, with what is run")
    for found in sets.values():
        with problems.guard():
            keys.refuse(shapes.table(found.value), "run.yaml.config_set.NAME", keys.SETS[runtime], problems)
    default = table.entries.get("config_set_default")
    name = shapes.text(default.value) if default else next(iter(sets))
    if default and name not in sets:
        raise InputError(f"there is no config set {name!r}", place=default.value.place, hint=near(name, sets))
    if not default and len(sets) > 1:
        hint = f"add config_set_default: {name}, or another"
        raise InputError("has several config sets, and none is the default", place=table.place, hint=hint)
    if others := sorted(sets.keys() - {name}):
        log.warning("%s: not run: %s; an image runs the default set", table.place, ", ".join(others))
    return sets[name]


def _argv(entry: Entry, runtime: str) -> tuple[str, ...]:
    given = shapes.table(entry.value).entries
    if "shell" in given and shapes.truth(given["shell"].value):
        hint = "an instance runs a program; open a shell with whit exec"
        raise InputError("an interactive shell is not run", place=given["shell"].place, hint=hint)
    main = given.get("bootcmd" if runtime == "native" else "main")
    if main is None:
        hint = "add bootcmd" if runtime == "native" else "add main"
        raise InputError("says nothing that is run", place=entry.place, hint=hint)
    if runtime == "native":
        return command.of_line(main.value, runtime)
    start = {"node": _node, "python": _python, "java": _java}[runtime]
    return (*start(given, shapes.text(main.value)), *_words(given, "args"))


def _node(given: dict[str, Entry], main: str) -> tuple[str, ...]:
    return ("node", *_words(given, "node_args"), main)


def _python(given: dict[str, Entry], main: str) -> tuple[str, ...]:
    return ("python3", *_words(given, "python_args"), main)


def _java(given: dict[str, Entry], main: str) -> tuple[str, ...]:
    memory = [f"-X{key[1:]}{_memory(given[key].value)}" for key in ("xms", "xmx") if key in given]
    path = _words(given, "classpath")
    classes = ("-cp", ":".join(path)) if path else ()
    start = ("-jar", main) if main.endswith(".jar") else (*classes, main)
    return (keys.JAVA, *memory, *_words(given, "jvm_args"), *start)


def _memory(value: Value) -> str:
    text = shapes.text(value)
    if not re.fullmatch(r"\d+[kKmMgG]?", text):
        raise InputError(f"{text!r} is no size of a heap", place=value.place, hint="as 512m")
    return text


def _words(given: dict[str, Entry], key: str) -> tuple[str, ...]:
    """A list, or text that is split as a shell does."""
    return (shapes.words(given[key].value) or ()) if key in given else ()


def _environment(entry: Entry | None) -> dict[str, str]:
    return {key: value or "" for key, (value, _) in shapes.assignments(entry.value).items()} if entry else {}


# ---- package.yaml ----


def _read_package(table: Table, program: Program, problems: Problems) -> None:
    keys.refuse(table, "package.yaml", keys.PACKAGE, problems)
    for key in ("name", "title", "author"):
        if key not in table.entries:
            problems.add(InputError(f"has no {key}", place=table.place, hint="Capstan requires it"))
    for key, entry in table.entries.items():
        with problems.guard():
            if key == "name":
                program.name = valid_name(shapes.text(entry.value).rpartition("/")[2].rpartition(".")[2])
            elif key in _LABELS:
                program.labels[f"org.opencontainers.image.{_LABELS[key]}"] = shapes.text(entry.value)
    require = table.entries.get("require")
    for item in shapes.items(require.value) if require else ():
        with problems.guard():
            _require(shapes.text(item), item.place, program)


def _require(name: str, place: Place, program: Program) -> None:
    """A package that stands for a runtime has to be the one that run.yaml names."""
    runtime = keys.runtime_of(name, place)
    if runtime and program.runtime not in (runtime, "native"):
        hint = f"meta/run.yaml says runtime: {program.runtime}"
        raise InputError(f"{name} is for another runtime", place=place, hint=hint)
    if runtime:
        program.runtime = runtime
