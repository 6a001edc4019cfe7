"""Names of capabilities as Compose takes them: in any case, with or without `CAP_`, and ALL. See capabilities(7)."""

from __future__ import annotations

from whit.formats.problems import near

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
KNOWN = frozenset(f"CAP_{name}" for name in _NAMES.split())


def capability(text: str) -> str:
    """`CAP_NET_ADMIN` for `net_admin`; ALL stays. Raises ValueError."""
    name = text.upper().removeprefix("CAP_")
    if name == "ALL":
        return name
    full = f"CAP_{name}"
    if full not in KNOWN:
        raise ValueError(f"{text!r} is no capability: {near(full, KNOWN)}")
    return full
