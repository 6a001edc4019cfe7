"""Boot loader: systemd's programs for firmware, of this machine as they are installed, of others from Debian's package.

It is kept below a store of kernels. Nothing of it is run here.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from whit.image.oci import manifest
from whit.image.sources.kernel import LISTS_MAX_AGE
from whit.tools import apt, apt_sources, process

INSTALLED = Path("/usr/lib/systemd/boot/efi")
PACKAGE = "systemd-boot-efi"


async def obtain(store: Path, architecture: str) -> Path:
    """The directory of the programs for machines of an architecture. Of this one's it may be missing.

    Raises:
        Unavailable: the host is not Debian, or has no source for it.
        InputError, Permanent: the package cannot be had.
    """
    if architecture == manifest.architecture():
        return INSTALLED
    home = store / f"stable-{architecture}"
    current = home / PACKAGE
    if not current.exists():
        await _fetch(home, architecture, current)
    return current / str(INSTALLED).lstrip("/")


async def _fetch(home: Path, architecture: str, target: Path) -> None:
    """Appears whole or not at all."""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=home) as private:
        root = apt.Root(home / "apt", Path(private) / "apt", architecture)
        sources = apt_sources.host_sources(apt_sources.release(), architecture)
        await root.prepare(sources, apt_sources.host_credentials())
        await root.update(LISTS_MAX_AGE)
        package = next(one for one in (await root.resolve([PACKAGE])).packages if one.name == PACKAGE)
        await root.download([package])
        scratch = Path(private) / "files"
        await process.run(["dpkg-deb", "--extract", str(root.path(package)), str(scratch)], timeout=300)
        root.path(package).unlink()
        await asyncio.to_thread(_publish, scratch, target)


def _publish(scratch: Path, target: Path) -> None:
    scratch.chmod(0o755)
    try:
        scratch.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(scratch)
