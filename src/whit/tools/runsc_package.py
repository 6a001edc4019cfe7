"""Debian's package of runsc: fetched by apt and unpacked, without installing it.

Whether the program in it works here is runsc.py's.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

from whit.base.errors import Permanent, Unavailable, WhitError
from whit.tools import apt, apt_sources, process

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LISTS_MAX_AGE = 24 * 3600.0
HINT = "set WHIT_RUNSC to a runsc of 2024 or later, or let the agent reach a Debian mirror"


async def fetched(programs: Path) -> Path:
    """Debian's runsc, its signature checked by apt.

    Raises:
        Unavailable: this is not Debian, or no mirror can be reached.
    """
    try:
        codename, architecture = apt_sources.release(), ARCHITECTURES[platform.machine()]
        choose = apt_sources.backports if codename == "bookworm" else apt_sources.host_sources
        with tempfile.TemporaryDirectory(prefix=".apt-", dir=programs) as private:
            root = apt.Root(Path(private) / "shared", Path(private) / "own", architecture)
            await root.prepare(choose(codename, architecture), apt_sources.host_credentials())
            await root.update(LISTS_MAX_AGE)
            (package,) = (await root.resolve(["runsc"])).packages
            await root.download([package])
            return await _unpacked(root.path(package), programs / f"runsc-{package.sha256[:12]}", Path(private))
    except (WhitError, ValueError, KeyError) as error:
        reason = error.message if isinstance(error, WhitError) else f"Debian's package is not as expected ({error})"
        raise Unavailable(f"gVisor cannot be fetched: {reason}", hint=HINT) from error


async def _unpacked(package: Path, target: Path, scratch: Path) -> Path:
    await process.run(["dpkg-deb", "--extract", str(package), str(scratch / "tree")], timeout=120)
    program = scratch / "tree/usr/bin/runsc"
    if not program.is_file():
        raise Permanent(f"{package} holds no usr/bin/runsc")
    program.replace(target)
    return target
