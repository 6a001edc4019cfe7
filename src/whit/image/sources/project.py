"""Project: what a Python project's own files say: what it requires, how it is installed, which commands it has.

Reads pyproject.toml (PEP 518, 621) and requirements.txt (pip's format). Installing is python.py's business.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, Place, Unavailable

IGNORED = (".venv", "venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.egg-info")
"""Never part of an application, wherever they are in its directory."""
REQUIREMENTS = "requirements.txt"

_REFERENCE = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[\s=]+(\S+)")
_LOCAL = re.compile(r"^\s*(?:-e\b|--editable\b|\.{0,2}/|file:|[\w.-]+\s*@\s*file:)")
_PYTHON = {"bookworm": "3.11", "trixie": "3.13"}


@dataclass(frozen=True)
class Project:
    """`installed`: built into a wheel and installed; otherwise its files are copied to /app.

    `requirements` are the texts of the requirement files by name, REQUIREMENTS first if it is there. If `dynamic`, only
    the build knows what the project depends on.
    """

    directory: Path
    installed: bool
    dynamic: bool = False
    requirements: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()
    """Requirements of what builds it (PEP 518)."""


def python_version(codename: str) -> str:
    """Python of a Debian release. Raises Unavailable if it is not known."""
    if codename not in _PYTHON:
        raise Unavailable(f"the Python version of Debian {codename} is not known", hint="use Debian 12 or 13")
    return _PYTHON[codename]


def read(directory: Path) -> Project:
    """Raises InputError if this is not a Python project."""
    metadata = _metadata(directory / "pyproject.toml")
    installed = "project" in metadata or "build-system" in metadata
    requirements = dict(_requirement_files(directory, REQUIREMENTS))
    if not installed and not requirements:
        raise InputError(
            "has neither a pyproject.toml with a [project] table nor a requirements.txt",
            place=Place(str(directory)),
            hint="add one of them; an empty requirements.txt is enough",
            code="project-neither",
        )
    table = metadata.get("project") or {}
    dependencies = table.get("dependencies") or []
    if dependencies:
        requirements["pyproject-dependencies.txt"] = "".join(f"{line}\n" for line in dependencies)
    scripts = tuple(table.get("scripts") or {})
    dynamic = installed and (not table or "dependencies" in (table.get("dynamic") or []))
    command = scripts if len(scripts) == 1 else ()
    return Project(directory, installed, dynamic, requirements, command, _builders(metadata) if installed else ())


def _builders(metadata: dict[str, Any]) -> tuple[str, ...]:
    """What the project says; setuptools also asks for wheel, and is the default (PEP 517)."""
    system = metadata.get("build-system") or {}
    backend = str(system.get("build-backend", "setuptools"))
    implied = ("setuptools", "wheel") if backend.startswith("setuptools") else ()
    return tuple(dict.fromkeys((*map(str, system.get("requires", ())), *implied)))


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = "mend it where the message says"
        raise InputError(
            f"is not valid TOML: {error}", place=Place(str(path)), hint=hint, code="project-toml"
        ) from error


def _requirement_files(directory: Path, name: str, seen: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """The file and those it refers to with -r and -c."""
    path = (directory / name).resolve()
    if name in seen or (name == REQUIREMENTS and not path.is_file()):
        return []
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        raise InputError(
            f"there is no {name} in the project's directory",
            place=Place(str(directory / REQUIREMENTS)),
            hint="put the file there: nothing outside of the directory is read",
            code="requirements-missing",
        )
    text = path.read_text()
    found = [(name, text)]
    for number, line in enumerate(text.splitlines(), start=1):
        if _LOCAL.match(line):
            raise InputError(
                f"{line.strip()!r} is not in a package index",
                place=Place(str(path), number),
                hint="requirements are installed from wheels; a project's own code comes from its pyproject.toml",
                code="requirement-form",
            )
        if reference := _REFERENCE.match(line):
            other = str((Path(name).parent / reference[1]).as_posix())
            found += _requirement_files(directory, other, seen | {name})
    return found
