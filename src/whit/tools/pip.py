"""pip: installs wheels for a given Python and platform into a directory, with the host's pip configuration.

Only wheels: nothing of a dependency is run while it is installed, so they may be for another architecture too. Building
the app's own project does run its build backend. Options: pip.pypa.io/en/stable/cli; platform tags: PEP 600.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CommandError, DigestMismatch, InputError, Unavailable
from whit.tools import process

_TIMEOUT = 1800.0
_UNMET = "the Python requirements cannot be installed"
_QUIET = ("--no-input", "--progress-bar=off", "--disable-pip-version-check", "--no-cache-dir")
_NOT_OURS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_NO_BINARY")
"""Settings of the host that say where or how pip installs there, which is not how it installs here."""
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
"""Minor versions of the first manylinux platform of each machine."""
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_GLIBC = {"3.11": 36, "3.13": 41}
"""Minor version of glibc in the Debian release with this Python."""
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_PIP = (
    "import platform, runpy, sys; machine = sys.argv.pop(1); platform.machine = lambda: machine; "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
"""pip has options for the tags of another platform, and none for its markers (PEP 508), which it takes from its own."""
_NOTHING_FITS = re.compile(r"requirement ([A-Za-z0-9][\w.-]*)[^\n]*\(from versions: none\)")


@dataclass(frozen=True)
class Target:
    """The Python that wheels are for: its version, and its architecture as Debian names it."""

    python: str
    architecture: str

    @property
    def machine(self) -> str:
        """As the kernel names it."""
        return _MACHINES[self.architecture]

    @property
    def options(self) -> list[str]:
        tags = [option for tag in platforms(self.machine, _GLIBC[self.python]) for option in ("--platform", tag)]
        return ["--implementation", "cp", "--python-version", self.python, "--only-binary", ":all:", *tags]

    def command(self, verb: str) -> list[str]:
        return [sys.executable, "-c", _PIP, self.machine, verb, *_QUIET]


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
    directory: Path,
    what: Sequence[str],
    target: Target,
    *,
    env: Mapping[str, str],
    cwd: Path,
    dependencies: bool = True,
) -> None:
    """Bring wheels of `what` (requirements, or `-r FILE`) into `directory`.

    Raises:
        InputError: a requirement cannot be had as a wheel.
        DigestMismatch: its hash is wrong.
    """
    argv = [*target.command("download"), "--dest", str(directory), *target.options]
    try:
        await _run([*argv, *([] if dependencies else ["--no-deps"]), *what], env, cwd, _UNMET)
    except InputError as error:
        name = _NOTHING_FITS.search(error.message)
        if name and await _published(name[1], env, cwd):
            raise _without_wheel(name[1], target) from error
        raise


async def install(
    directory: Path, wheels: Sequence[Path], target: Target, *, env: Mapping[str, str], cwd: Path
) -> None:
    """Install these wheels into `directory`, without byte code, and fetch nothing. Raises InputError."""
    argv = [*target.command("install"), "--no-compile", "--target", str(directory), *target.options]
    await _run([*argv, "--no-deps", "--no-index", *map(str, wheels)], env, cwd, _UNMET)


async def _published(name: str, env: Mapping[str, str], cwd: Path) -> bool:
    """The index has something of that name, whatever it is for."""
    argv = [sys.executable, "-m", "pip", "index", "versions", "--no-input", "--disable-pip-version-check", name]
    ended = await process.run(argv, env=env, cwd=str(cwd), timeout=_TIMEOUT, check=False)
    return ended.returncode == 0


def _without_wheel(name: str, target: Target) -> InputError:
    """Its source may be there: building it would run what nobody has looked at, and needs compilers."""
    package = f"debian:python3-{name.lower().replace('_', '-')}"
    return InputError(
        f"{name} has no wheel for Python {target.python} on {target.architecture}, only source or other wheels",
        hint=f"ask for a version that has one, or take Debian's package ({package}), or build a wheel on such a "
        "machine (pip wheel) and name its directory in PIP_FIND_LINKS",
        code="requirement-no-wheel",
    )


async def wheel(project: Path, directory: Path, *, builders: Path, env: Mapping[str, str], fetch: bool) -> Path:
    """Build the project's wheel into `directory`, which is empty; its build backend is taken from `builders`, and run.

    With `fetch` what it asks for besides comes from the index. Raises InputError.
    """
    argv = [sys.executable, "-m", "pip", "wheel", *_QUIET, "--no-deps", "--wheel-dir", str(directory), str(project)]
    found = {"PIP_FIND_LINKS": str(builders)} | ({} if fetch else {"PIP_NO_INDEX": "1"})
    await _run(argv, {**env, **found}, directory, "the Python project cannot be built")
    (built,) = directory.glob("*.whl")  # pip fails otherwise
    return built


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
