"""Parts of a machine: what the store, Debian and init/ give, before it is one tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from whit.image.provenance.bill import Bill
from whit.image.rootfs.accounts_file import identity_of
from whit.image.rootfs.tree import Content, Entry
from whit.image.sources.kernel import Kernel as Linux
from whit.model.image import ImageConfig
from whit.model.machine import ImageSource


@dataclass(frozen=True)
class Root:
    """An image's file system, and what the image says of how it is run. The contents lie in the store."""

    name: str
    digest: str
    entries: tuple[Entry, ...]
    config: ImageConfig = field(default_factory=ImageConfig)
    bill: Bill | None = None
    """What it is made of, if it was built here."""

    def owner(self) -> tuple[int, int]:
        """User and group that the image names. Raises InputError if it has no such user."""
        files = {entry.path: entry for entry in self.entries if entry.path in ("etc/passwd", "etc/group")}
        texts = {path: entry.data().decode(errors="replace") for path, entry in files.items()}
        found = identity_of(texts.get("etc/passwd", ""), texts.get("etc/group", ""), self.config.user)
        return found.uid, found.gid


@dataclass(frozen=True)
class Kernel:
    """What boots. `drivers` are modules by name; `tree` is what the kernel's image has for the root."""

    linux: Linux
    drivers: tuple[str, ...] = ()
    tree: tuple[Entry, ...] = ()
    microcode: Content = b""


@dataclass(frozen=True)
class Parts:
    """`images` are by `key_of` their source."""

    kernel: Kernel
    supervisor: Path
    """Our init, static."""
    runtime: Root
    """crun with the libraries that it needs."""
    images: Mapping[str, Root]
    layouts: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    """The OCI layouts of those that volumes hold as such, by the same keys."""

    def image(self, source: ImageSource) -> Root:
        return self.images[key_of(source)]


def key_of(source: ImageSource) -> str:
    """Equal for the same image."""
    return source.reference or (source.build.model_dump_json() if source.build else "")
