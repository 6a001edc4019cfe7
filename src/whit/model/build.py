"""Build: the parts that are linked into an image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.model.base import Noun


class DebianPart(Noun):
    """A Debian package with what it depends on (Recommends are left out)."""

    kind: Literal["debian"] = "debian"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", description="Package name.")
    version: str | None = Field(default=None, description="Exact version; the newest if left out.")


class PythonPart(Noun):
    """A Python project (pyproject.toml) or a requirements.txt, installed from wheels, compiled to byte code."""

    kind: Literal["python"] = "python"
    path: Path = Field(description="The project's directory.")


class DirectoryPart(Noun):
    """The files below a directory, copied to the image's root."""

    kind: Literal["directory"] = "directory"
    path: Path = Field(description="The directory.")


class LayoutPart(Noun):
    """The layers of an image in an OCI layout directory or an OCI archive."""

    kind: Literal["layout"] = "layout"
    path: Path = Field(description="The layout or archive.")
    reference: str | None = Field(default=None, description="Its name in the index; needed if there are several.")


Part = DebianPart | PythonPart | DirectoryPart | LayoutPart


class BuildSpec(Noun):
    """Parts, linked in this order; later ones win where two bring the same path."""

    parts: tuple[Part, ...] = Field(min_length=1, description="The parts.")
