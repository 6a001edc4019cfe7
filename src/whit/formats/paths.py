"""Paths as an app file has them: from the file's directory, or from a home with `~`."""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import InputError, Place
from whit.model.service import bind_directory


def absolute(text: str, place: Place, directory: Path) -> Path:
    """The path, which need not exist. Raises InputError if none could be there: an unknown home, too long a name."""
    try:
        path = Path(bind_directory(directory, text))
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{text!r} is not a usable path: {error}", place=place) from error
    return path
