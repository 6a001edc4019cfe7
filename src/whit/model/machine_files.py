"""Machine files: what `machine.json` beside a kernel says of how it boots. Written by a build, read by `whit boot`."""

from __future__ import annotations

from pydantic import Field

from whit.model.base import Noun

DESCRIPTION = "machine.json"
FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class DiskFile(Noun):
    """A raw image beside the description."""

    file: str = Field(pattern=FILE)
    serial: str = Field(pattern=r"^[a-z0-9-]{1,20}$", description="What the guest finds it by.")
    read_only: bool = True


class MachineFiles(Noun):
    """A microVM in a directory. Files are named without a path."""

    name: str
    architecture: str = Field(description="As OCI names it: amd64 or arm64.")
    kernel: str = Field(pattern=FILE)
    initrd: str = Field(pattern=FILE)
    append: str = Field(description="The kernel's command line.")
    memory: int = Field(gt=0, description="MiB that it needs.")
    disks: tuple[DiskFile, ...] = ()
