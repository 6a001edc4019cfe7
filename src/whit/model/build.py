"""Build: the parts that are linked into an image, how much of each, and what proves that the image works."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.model.base import Noun

Link = Literal["whole", "trim", "closure"]
"""Everything of a part; without what no program reads; only what the entry points reach."""

CATALOGUE: dict[str, tuple[str, ...]] = {
    "base": (),
    "c++-library": ("libstdc++6",),
    "certificates": ("ca-certificates",),
    "init": ("tini",),
    "mime-types": ("media-types",),
    "node": ("nodejs",),
    "perl": ("perl-base",),
    "python": ("python3-minimal", "libpython3-stdlib"),
    "shell": ("dash",),
    "timezones": ("tzdata",),
}
"""Which Debian packages meet a need that no part of the build provides. The base comes with every one of them."""


class PartBase(Noun):
    """What every part may say. Globs match paths without the slash at their start, as `etc/nginx/*.conf`."""

    link: Link = Field(default="whole", description="How much of it comes into the image.")
    include: tuple[str, ...] = Field(default=(), description="Globs of what stays although nothing reaches it.")
    exclude: tuple[str, ...] = Field(default=(), description="Globs of what stays out although something reaches it.")
    provides: tuple[str, ...] = Field(default=(), description="Needs of other parts that it meets.")
    requires: tuple[str, ...] = Field(default=(), description="Needs that another part has to meet.")
    label: str = Field(default="", description="What the person wrote; names it in reasons, and decides nothing.")


class DebianPart(PartBase):
    """A Debian package with what it depends on (Recommends are left out)."""

    kind: Literal["debian"] = "debian"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", description="Package name.")
    version: str | None = Field(default=None, description="Exact version; the newest if left out.")


class PythonPart(PartBase):
    """A Python project (pyproject.toml) or a requirements.txt, installed from wheels, compiled to byte code."""

    kind: Literal["python"] = "python"
    path: Path = Field(description="The project's directory.")


class DirectoryPart(PartBase):
    """The files below a directory, copied to the image's root or to a path in it; or one file."""

    kind: Literal["directory"] = "directory"
    path: Path = Field(description="The directory, or a file if a target is given.")
    target: str = Field(default="", pattern=r"^([^/].*)?$", description="Path in the image; the root if left out.")
    ignored: tuple[str, ...] = Field(default=(), description="Patterns of what stays out, as in .whitignore.")


class LayoutPart(PartBase):
    """The layers of an image in an OCI layout directory or an OCI archive."""

    kind: Literal["layout"] = "layout"
    path: Path = Field(description="The layout or archive.")
    reference: str | None = Field(default=None, description="Its name in the index; needed if there are several.")


KernelChoice = Literal["debian", "specialised"]
"""Debian's cloud kernel, or one that is built from Debian's source with only what the image needs."""

Part = DebianPart | PythonPart | DirectoryPart | LayoutPart


class CheckSpec(Noun):
    """A proof that the image works: a command that ends with 0, or an answer of a server that runs meanwhile."""

    run: tuple[str, ...] = Field(default=(), description="A command inside of the image; it has to end with 0.")
    start: tuple[str, ...] = Field(default=(), description="A server that runs meanwhile; it may not end.")
    http: str = Field(default="", description="A URL that the server answers, as http://127.0.0.1:8080/.")
    status: int = Field(default=200, description="http: the status of the answer.")
    tcp: int | None = Field(default=None, gt=0, lt=65536, description="A port of 127.0.0.1 that the server listens at.")
    send: str = Field(default="", description="tcp: what is sent to it.")
    contains: str = Field(default="", description="What the answer, or the command's output, contains.")
    user: str = Field(default="", description="Who runs it; the service's user, or the image's, if left out.")
    timeout: float = Field(default=30.0, gt=0, description="Seconds that it may take.")


class RunSpec(Noun):
    """How the service runs the image: where linking starts from, and what checks run as."""

    commands: tuple[tuple[str, ...], ...] = Field(default=(), description="Commands that have to work.")
    user: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    working_dir: str = ""
    memory: tuple[str, ...] = Field(default=(), description="Directories that are memory (tmpfs) in an instance.")


class BuildSpec(Noun):
    """Parts, linked in this order; later ones win where two bring the same path."""

    parts: tuple[Part, ...] = Field(min_length=1, description="The parts.")
    link: Link = Field(default="whole", description="How much of what the needs bring comes into the image.")
    needs: tuple[str, ...] = Field(default=(), description="What a part has to provide, whichever it is.")
    check: tuple[CheckSpec, ...] = Field(default=(), description="What proves that the image works.")
    run: RunSpec = Field(default_factory=RunSpec, description="How the service runs it.")
    kernel: KernelChoice = Field(default="debian", description="What it boots where it is a machine of its own.")
    architecture: Literal["", "amd64", "arm64"] = Field(default="", description="The machines it is for; this one's.")

    @property
    def closed(self) -> bool:
        """Some part is linked by what is reached, so the way the image is run decides what is in it."""
        return self.link == "closure" or any(part.link == "closure" for part in self.parts)
