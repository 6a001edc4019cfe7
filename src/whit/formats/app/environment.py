"""Environment: `environment` and `env_file` of a service. What `environment` says wins over the files."""

from __future__ import annotations

import logging

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.dotenv import read_env_file
from whit.formats.app.draft import Draft
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Table, Value
from whit.formats.paths import absolute

log = logging.getLogger(__name__)

FILE_KEYS = ("path", "required")


def read_environment(entry: Entry, draft: Draft) -> None:
    """A variable without a value takes it from the environment that the file is read in. Raises InputError."""
    for key, (value, place) in shapes.assignments(entry.value).items():
        if not key or "=" in key:
            raise InputError(f"{key!r} is no variable's name", place=place, hint="leave the = out of it")
        value = draft.source.environment.get(key) if value is None else value
        if value is None:
            log.warning("%s: the variable %s has no value here; %s is without it", place, key, draft.name)
        else:
            draft.environment[key] = value


def read_env_files(entry: Entry, draft: Draft) -> None:
    """Later files win over earlier ones. Raises InputError."""
    values = (entry.value,) if isinstance(entry.value, Table) else shapes.one_or_more(entry.value)
    found: dict[str, str] = {}
    for value in values:
        with draft.source.problems.guard():
            found |= _file(value, draft)
    draft.environment = {**found, **draft.environment}


def _file(value: Value, draft: Draft) -> dict[str, str]:
    required, path = True, value
    if isinstance(value, Table):
        refuse(value, "services.*.env_file[]", FILE_KEYS, draft.source.problems)
        if "path" not in value.entries:
            raise InputError("has no path", place=value.place, hint="add path: FILE")
        path = value.entries["path"].value
        if "required" in value.entries:
            required = shapes.truth(value.entries["required"].value)
    file = absolute(shapes.text(path), path.place, draft.source.directory)
    if file.is_file():
        return read_env_file(file, draft.source.environment)
    if required:
        raise InputError(f"{file} is not a file", place=path.place, hint="make it, or add required: false")
    return {}
