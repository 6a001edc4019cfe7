"""pip: installs wheels for a given Python and platform into a directory, with the host's pip configuration.

Only wheels: nothing of a dependency is run while it is installed. Building the app's own project does run its build
backend. Options: pip.pypa.io/en/stable/cli; platform tags: PEP 600.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from whit.base.errors import CommandError, DigestMismatch, InputError, Unavailable
from whit.tools import process

_TIMEOUT = 1800.0
_QUIET = ("--no-input", "--progress-bar=off", "--disable-pip-version-check", "--no-cache-dir")
_NOT_OURS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_NO_BINARY")
"""Settings of the host that say where or how pip installs there, which is not how it installs here."""
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
"""Minor versions of the first manylinux platform of each machine."""
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


def platforms(machine: str, glibc_minor: int) -> list[str]:
    """Platform tags that an image with glibc 2.`glibc_minor` satisfies, best first."""
    tags = []
    for minor in range(glibc_minor, _OLDEST_GLIBC.get(machine, 17) - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            tags.append(f"{_LEGACY[minor]}_{machine}")
    return [*tags, f"linux_{machine}"]


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The host's PIP_… variables that matter to an installation elsewhere."""
    return {name: value for name, value in environment.items() if name.startswith("PIP_") and name not in _NOT_OURS}


async def download(
    target: Path,
    what: Sequence[str],
    *,
    python: str,
    tags: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    dependencies: bool = True,
) -> None:
    """Bring wheels of `what` (requirements, or `-r FILE`) into `target`.

    Raises:
        InputError: a requirement cannot be had as a wheel.
        DigestMismatch: its hash is wrong.
    """
    argv = [sys.executable, "-m", "pip", "download", *_QUIET, "--dest", str(target)]
    argv += ["--only-binary", ":all:", *_for(python, tags), *([] if dependencies else ["--no-deps"]), *what]
    await _run(argv, env, cwd, "the Python requirements cannot be installed")


async def install(
    target: Path, wheels: Sequence[Path], *, python: str, tags: Sequence[str], env: Mapping[str, str], cwd: Path
) -> None:
    """Install these wheels into `target`, without byte code, and fetch nothing. Raises InputError."""
    argv = [sys.executable, "-m", "pip", "install", *_QUIET, "--no-compile", "--target", str(target)]
    argv += ["--only-binary", ":all:", *_for(python, tags), "--no-deps", "--no-index", *map(str, wheels)]
    await _run(argv, env, cwd, "the Python requirements cannot be installed")


def _for(python: str, tags: Sequence[str]) -> list[str]:
    platforms = [option for tag in tags for option in ("--platform", tag)]
    return ["--implementation", "cp", "--python-version", python, *platforms]


async def wheel(project: Path, directory: Path, *, builders: Path, env: Mapping[str, str], fetch: bool) -> Path:
    """Build the project's wheel into `directory`; its build backend is taken from `builders`, and run.

    With `fetch` what it asks for besides comes from the index. Raises InputError.
    """
    argv = [sys.executable, "-m", "pip", "wheel", *_QUIET, "--no-deps", "--wheel-dir", str(directory), str(project)]
    found = {"PIP_FIND_LINKS": str(builders)} | ({} if fetch else {"PIP_NO_INDEX": "1"})
    await _run(argv, {**env, **found}, directory, "the Python project cannot be built")
    built = sorted(directory.glob("*.whl"))
    if len(built) != 1:
        hint = "its build backend has to make one wheel: try python -m build"
        raise InputError(f"the project built {len(built)} wheels instead of one", hint=hint, code="project-wheels")
    return built[0]


async def _run(argv: Sequence[str], env: Mapping[str, str], cwd: Path, failure: str) -> None:
    try:
        await process.run(argv, env=env, cwd=str(cwd), timeout=_TIMEOUT)
    except CommandError as error:
        if "No module named pip" in error.stderr:
            hint = "install python3-pip, or put pip into the environment that Whit runs in"
            raise Unavailable("pip is not installed", hint=hint) from error
        if "DO NOT MATCH THE HASHES" in error.stderr:
            hint = "the index has other files than before, or the line is wrong: look where they come from"
            raise DigestMismatch(
                f"{failure}:\n{_complaints(error.stderr)}", hint=hint, code="requirement-digest"
            ) from error
        hint = "see pip's message; packages without a wheel for this Python and platform cannot be used"
        raise InputError(f"{failure}:\n{_complaints(error.stderr)}", hint=hint, code="requirement-unmet") from error


def _complaints(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if re.match(r"\s*(ERROR|error|Expected|Got)\b", line)]
    return "\n".join((lines or stderr.splitlines())[-12:])
