"""Kernel: Linux out of Debian's packages, unpacked below a store, and the modules that a guest asks for.

A kernel is kept under the digest of its package. Its package scripts are not run (they set up a boot loader); depmod's
index of the modules is made here. Guests need few modules: the cloud kernels have virtio and BPF built in.
"""

from __future__ import annotations

import asyncio
import gzip
import lzma
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import NotFound
from whit.image.provenance.bill import Package
from whit.image.rootfs.tree import Entry
from whit.model.lock import LockedPackage, not_locked
from whit.tools import apt, apt_sources, modprobe, process

Series = Literal["stable", "backports"]
"""Of Debian 12: Linux 6.1 and 6.12."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"linux(-signed-\w+)? \((?P<version>[^)]+)\)")
"""The first line of a changelog (deb-changelog(5))."""
LISTS_MAX_AGE = 24 * 3600.0
_SCRIPTS_ONLY = ("initramfs-tools", "kmod", "linux-base")
"""What the package depends on for its scripts."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel. `root` holds boot/ and lib/modules/."""

    release: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def configuration(self) -> Path:
        return self.root / "boot" / f"config-{self.release}"

    @property
    def modules(self) -> Path:
        return self.root / "lib/modules" / self.release


async def obtain(
    store: Path,
    architecture: str,
    series: Series = "stable",
    *,
    refresh: bool = False,
    locked: LockedPackage | None = None,
    fetch: bool = True,
) -> Kernel:
    """The cloud kernel that was obtained before; if there is none, or with `refresh`, the newest of the host's release.

    What is `locked` is taken as it says, and nothing is fetched without `fetch`.

    Raises:
        Unavailable: the host is not Debian, or has no source for it.
        InputError, Permanent: the package cannot be had.
        NotLocked: it would have to be fetched.
    """
    home = store / f"{series}-{architecture}"
    current = home / "current"
    if locked is not None:
        if not (home / locked.sha256).exists():
            _may_fetch(fetch, f"{locked.name}={locked.version}")
            home.mkdir(parents=True, exist_ok=True)
            await _fetch(home, architecture, series, locked)
        return unpacked(home / locked.sha256)
    if refresh or not current.exists():
        _may_fetch(fetch, f"linux-image-cloud-{architecture} of {series}")
        home.mkdir(parents=True, exist_ok=True)
        digest = await _fetch(home, architecture, series)
        with tempfile.TemporaryDirectory(prefix=".link-", dir=home) as scratch:
            link = Path(scratch) / "current"
            link.symlink_to(digest)
            link.rename(current)
    return unpacked(current.resolve())


def _may_fetch(fetch: bool, what: str) -> None:
    if not fetch:
        raise not_locked([what])


async def _fetch(home: Path, architecture: str, series: Series, locked: LockedPackage | None = None) -> str:
    """The digest of the newest package, or of the locked one, which is then unpacked below `home`."""
    codename = apt_sources.release()
    choose = apt_sources.host_sources if series == "stable" else apt_sources.backports
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=home) as private:
        root = apt.Root(home / "apt", Path(private), architecture)
        await root.prepare(choose(codename, architecture), apt_sources.host_credentials(), _SCRIPTS_ONLY)
        await root.update(LISTS_MAX_AGE)
        wanted = locked and apt.Package(locked.name, locked.version, locked.architecture, locked.sha256, 0, "")
        package = wanted or await _newest(root, architecture)
        if not (home / package.sha256).exists():
            await root.download([package])
            await _unpack(root.path(package), home / package.sha256)
            root.path(package).unlink()
    return package.sha256


def unpacked(directory: Path) -> Kernel:
    """The kernel in a directory. Raises NotFound."""
    found = sorted((directory / "lib/modules").glob("*"))
    if len(found) != 1:
        hint = "remove the directory: it is fetched again when it is needed"
        raise NotFound(f"{directory} holds no kernel with its modules", hint=hint, code="kernel-missing")
    return Kernel(found[0].name, directory)


def package_of(kernel: Kernel) -> Package | None:
    """Debian's package that the kernel was unpacked from; None if it was built here, or is out of an image."""
    changelog = kernel.root / f"usr/share/doc/linux-image-{kernel.release}/changelog.gz"
    if not changelog.is_file() or not _DIGEST.fullmatch(kernel.root.name):
        return None
    with gzip.open(changelog, "rt") as lines:
        found = _ENTRY.match(lines.readline())
    architecture = kernel.release.rpartition("-")[2]
    # The source of signed kernels has a + where its packages have a -.
    version = found["version"].replace("+", "-", 1) if found else ""
    return Package(f"linux-image-{kernel.release}", version, "deb", architecture, kernel.root.name)


async def modules(kernel: Kernel, names: Sequence[str]) -> list[Entry]:
    """The modules that `names` need, uncompressed, in the order of loading, at their place in a root file system.

    Raises:
        NotFound: this kernel has no such module.
    """
    paths = await modprobe.closure(kernel.root, kernel.release, names)
    return [_module(path, path.relative_to(kernel.root)) for path in paths]


def _module(path: Path, place: Path) -> Entry:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return Entry(str(place.with_suffix("")), content=lzma.decompress(data))
    return Entry(str(place), content=data)


async def _newest(root: apt.Root, architecture: str) -> apt.Package:
    """The package with the image, which the one that is named after the flavour depends on."""
    resolved = await root.resolve([f"linux-image-cloud-{architecture}"])
    for package in resolved.packages:
        if package.name.startswith("linux-image-") and package.name != f"linux-image-cloud-{architecture}":
            return package
    raise NotFound(f"linux-image-cloud-{architecture} depends on no image")


async def _unpack(deb: Path, target: Path) -> None:
    """Appears whole or not at all."""
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        await process.run(["dpkg-deb", "--extract", str(deb), str(scratch)], timeout=300)
        await modprobe.index(scratch, unpacked(scratch).release)
        await asyncio.to_thread(publish, scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, target: Path) -> None:
    """Give a directory its name, unless somebody else was faster."""
    scratch.chmod(0o755)
    try:
        scratch.rename(target)
    except OSError:
        if not (target / "boot").is_dir():
            raise
