"""Where an agent's maps, programs and links are kept in bpffs, and the mount of bpffs itself.

    <bpf_dir>/v<ABI_VERSION>/maps/<name>
                             programs/<digest>/<name>    what the links run; the digest is that of object and constants
                             links/instance-<n>-ingress, instance-<n>-egress, uplink-<link>,
                             uplink_egress-<link>, host-<program>

The digest is a directory of bpffs and not a file elsewhere, so that it cannot outlive, or be outlived by, the programs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from whit.base.errors import NotFound
from whit.base.settings import Settings
from whit.datapath.abi import ABI_VERSION
from whit.kernel import libc, mount
from whit.kernel.files import make_path

BPFFS = Path("/sys/fs/bpf")
PENDING = "pending"
"""Programs that are not yet in all links."""

_NOSUID_NODEV_NOEXEC = 2 | 4 | 8


@dataclass(frozen=True)
class Pins:
    """The directories of one agent and one ABI."""

    root: Path

    @classmethod
    def of(cls, settings: Settings) -> Pins:
        return cls(settings.bpf_dir / f"v{ABI_VERSION}")

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def links(self) -> Path:
        return self.root / "links"

    @property
    def pending(self) -> Path:
        return self.programs / PENDING

    def make(self) -> None:
        for directory in (self.maps, self.programs, self.links):
            make_path(directory, mode=0o700)

    def instance(self, number: int, direction: str) -> Path:
        return self.links / f"instance-{number}-{direction}"

    def uplink(self, name: str, direction: str = "ingress") -> Path:
        """Names in bpffs have no dots, those of links may."""
        kind = "uplink" if direction == "ingress" else "uplink_egress"
        return self.links / f"{kind}-{quote(name, safe='').replace('.', '%2E')}"

    def host(self, program: str) -> Path:
        return self.links / f"host-{program}"

    def generations(self) -> list[Path]:
        """The directories of finished programs, newest first. More than one is left only by a kill."""
        try:
            finished = [path for path in self.programs.iterdir() if path.name != PENDING]
        except FileNotFoundError:
            return []
        return sorted(finished, key=lambda path: path.stat().st_ctime_ns, reverse=True)

    def current(self) -> Path:
        """The directory of the programs in use. Raises NotFound if nothing is installed, or not to the end."""
        for directory in self.generations():
            return directory
        raise NotFound(f"no datapath is installed below {self.root}", hint="start the agent: `whit up`")

    def others(self) -> list[Pins]:
        """Those of other ABIs of the same agent."""
        found = self.root.parent.iterdir() if self.root.parent.is_dir() else ()
        return [Pins(path) for path in sorted(found) if path != self.root and path.name.startswith("v")]

    def program(self, name: str) -> Path:
        return self.current() / name


def program_of(pin: Path) -> str:
    """The program that belongs at a pin of a link."""
    kind, _, rest = pin.name.partition("-")
    if kind == "instance":
        return "from_instance" if rest.endswith("-ingress") else "to_instance"
    return {"uplink": "from_uplink", "uplink_egress": "to_uplink"}.get(kind, rest)


def mount_bpffs() -> bool:
    """Mount bpffs at its usual place if nobody has; returns whether it did. It is the machine's, and stays."""
    parent = os.open(BPFFS.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # two agents that start together would hide each other's mount
        if is_bpffs_mounted():
            return False
        libc.mount("bpf", str(BPFFS), "bpf", _NOSUID_NODEV_NOEXEC, "mode=0700")
        return True
    finally:
        os.close(parent)


def is_bpffs_mounted() -> bool:
    return any(point.path == BPFFS and point.kind == "bpf" for point in mount.table())


def remove(directory: Path) -> None:
    """Remove a directory of pins with all in it, and its parent if it is Whit's own and empty. Safe twice."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
    if directory.parent.name == "whit":
        with suppress(OSError):  # other agents have theirs in it
            directory.parent.rmdir()
