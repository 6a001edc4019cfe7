"""The app file that a command means: the one it names, or the one in the current directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whit.cli import names

if TYPE_CHECKING:
    from whit.model.app import AppSpec
    from whit.model.status import AppStatus


def load(path: Path) -> AppSpec:
    """The app of a file or of the app file in a directory. Raises InputError with file and line."""
    from whit.formats.app.appfile import load_app

    return load_app(path)


def default_app() -> str:
    """The name of the app whose file is in the current directory; empty if there is no such file."""
    # Reading app files costs 150 ms of imports, which most directories need not pay.
    if not any(
        entry.suffix in (".yaml", ".yml") or entry.name in ("Capstanfile", "meta") for entry in Path.cwd().iterdir()
    ):
        return ""
    from whit.formats.app.appfile import find_app_file

    file = find_app_file(Path.cwd())
    return load(file).name if file else ""


def named_app(given: str, apps: Sequence[AppStatus]) -> str:
    """What `[PATH|APP]` means: an app that is up, else the app of the file at that path, else the default."""
    if not given:
        return names.choose_app(apps, default_app())
    if any(app.name == given for app in apps):
        return given
    if Path(given).exists() or given.startswith("catalog:"):
        return names.require_app(load(Path(given)).name, apps)
    return names.require_app(given, apps)
