"""virtiofsd, which shares a directory with a virtual machine. QEMU 7.2 has one in C, later there is one in Rust.

It runs in a container already, with nothing there but what it shares, so it confines itself by chroot only.
"""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import Unavailable

_PLACES = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
_NOT_HELD = "-mknod:-setfcap"
"""Capabilities that it would keep, but that its container does not have."""


def binary() -> Path:
    """Raises Unavailable if it is not installed."""
    found = next((path for path in _PLACES if path.is_file()), None)
    if found is None:
        raise Unavailable("virtiofsd is not installed", hint="Debian 12: apt-get install qemu-system-common")
    return found


def command(program: Path, socket: Path, directory: Path) -> list[str]:
    """Serve `directory` at `socket` to one machine, until that goes."""
    if program == _PLACES[0]:
        options = f"source={directory},sandbox=chroot,cache=auto,xattr,no_posix_lock,log_level=warn,modcaps={_NOT_HELD}"
        return [str(program), f"--socket-path={socket}", "--rlimit-nofile=0", "-o", options]
    return [
        *(str(program), f"--socket-path={socket}", f"--shared-dir={directory}", "--sandbox=chroot"),
        *("--cache=auto", "--xattr", "--log-level=warn", "--rlimit-nofile=0", f"--modcaps={_NOT_HELD}"),
    ]
