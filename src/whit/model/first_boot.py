"""First boot: what a machine is told once, before anything of it runs: files, directories, links, its name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.base import Noun


class WrittenFile(Noun):
    """A file, directory or link. Parents that are not there are made, with mode 0755."""

    path: str = Field(pattern="^/", description="Its place in the machine.")
    kind: Literal["file", "directory", "symlink", "link"] = "file"
    contents: bytes = b""
    target: str = Field(default="", description="Where a link leads.")
    mode: int = Field(default=0o644, ge=0, le=0o7777)
    uid: int = Field(default=0, ge=0)
    gid: int = Field(default=0, ge=0)
    overwrite: bool = Field(default=True, description="What is there already is replaced, else it is a failure.")
    append: bool = Field(default=False, description="The contents come after those that are there.")


class FirstBootSpec(Noun):
    """Applied in order, all of it or the boot stops."""

    hostname: str = ""
    files: tuple[WrittenFile, ...] = ()
