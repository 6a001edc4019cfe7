"""Confine: what a build may do. It runs under a user of its own, without privileges, with limits on what it consumes.

Started as root, the worker is in mount and process namespaces of its own (unshare(1)): its directory stands at
/var/tmp, wherever it really is, so builds cannot see each other and always see the same paths. Started by another
user, it stays that user.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

from whit.base.errors import SystemCallError

DEBIAN_UID = 64600
"""Owns the lists and the packages; runs apt, and nothing that comes with an app."""
FIRST_UID = 64601
"""The first of the users that run everything else, one a build. The range is not given out by Debian's adduser."""
SLOTS = 16
"""Builds that may run at the same time on one machine."""

_INSIDE = Path("/var/tmp")  # noqa: S108 - mounted over before it is used
_MS_BIND = 0x1000
_PR_SET_NO_NEW_PRIVS = 38
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_AS: 8 << 30,
    resource.RLIMIT_FSIZE: 16 << 30,
    resource.RLIMIT_NOFILE: 4096,
    resource.RLIMIT_NPROC: 1024,
    resource.RLIMIT_CPU: 3600,
}

_libc = ctypes.CDLL(None, use_errno=True)


def command(module: str, work: Path, *, network: bool = True) -> list[str]:
    """How a module of this package is started so that `confine` can do its work.

    It ends when the agent ends, however that ends. `work` is there for who reads the list of processes. Without
    `network` it has none, where this is root.
    """
    start = [sys.executable, "-m", module, str(work)]
    if os.geteuid() == 0:
        alone = [] if network else ["--net"]
        start = ["unshare", "--mount", "--pid", *alone, "--fork", "--kill-child", *start]
    return ["setpriv", "--pdeathsig", "KILL", *start]


def confine(uid: int, work: Path, shared: Path | None) -> Path:
    """Give up every right for good. Returns where `work` is from now on; `shared` is then at its `shared`."""
    inside = work
    if os.geteuid() == 0:
        if shared:
            _bind(shared, work / "shared")
        _bind(work, _INSIDE)
        _become(uid)
        inside = _INSIDE
    elif shared:
        (work / "shared").rmdir()
        (work / "shared").symlink_to(shared)
    for limit, wanted in _LIMITS.items():
        hard = resource.getrlimit(limit)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))
    os.umask(0o022)
    os.chdir(inside)
    return inside


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SystemCallError("prctl", ctypes.get_errno())


def _bind(source: Path, target: Path) -> None:
    """Bind with what is mounted below (MS_REC), so that the order of calls does not matter."""
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND | 0x4000, None) != 0:
        raise SystemCallError("mount", ctypes.get_errno(), str(target))
