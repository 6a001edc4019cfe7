"""Which of root's powers an instance keeps. See capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whit.base.errors import InputError, Place

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
KNOWN = tuple(f"CAP_{name}" for name in _NAMES.split())
"""In the order of their numbers, linux/capability.h."""

# Docker's 14 without those that an app which declares what it uses does not need: MKNOD (the devices are given),
# NET_RAW (it forges packets; ping works without it), AUDIT_WRITE, SETFCAP and SETPCAP (they hand powers on).
DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
)


def effective_set(cap_add: Sequence[str], cap_drop: Sequence[str]) -> tuple[str, ...]:
    """The default set without what is dropped and with what is added, in the kernel's order.

    As in Compose, `ALL` names every one, the prefix `CAP_` may be left out, and what is added wins over a dropped ALL.

    Raises:
        InputError: a name that the kernel does not have.
    """
    added, dropped = _names(cap_add, "cap_add"), _names(cap_drop, "cap_drop")
    everything = set(KNOWN)
    base = everything if "ALL" in added else set(DEFAULT)
    kept = set() if "ALL" in dropped else base - dropped
    wanted = kept | ((added - dropped) & everything)
    return tuple(name for name in KNOWN if name in wanted)


def _names(names: Iterable[str], key: str) -> set[str]:
    return {_canonical(name, key) for name in names}


def _canonical(name: str, key: str) -> str:
    upper = name.upper()
    if upper in ("ALL", "CAP_ALL"):
        return "ALL"
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in KNOWN:
        raise InputError(f"{name!r} is no capability", place=Place(key=key), hint="capabilities(7) lists them")
    return full
