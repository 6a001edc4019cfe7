"""The OCI bundle of an instance: from its spec to `config.json` (runtime-spec 1.0.2). Pure.

Owns what an instance may do and see: namespaces, capabilities, limits, mounts, hidden paths. The system-call filter is
in seccomp.py, users are looked up in users.py, and nothing here reads the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from whit.base.errors import InputError, Place, Unavailable
from whit.model.instance import InstanceSpec, ResolvedMount
from whit.model.service import LimitsSpec
from whit.runtime.bundle import capabilities, seccomp
from whit.runtime.bundle.host import HostFacts
from whit.runtime.bundle.users import Owner
from whit.runtime.layout import Layout

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_PIDS = 2048
"""Processes and threads, if the service sets no limit: far above any server, far below what hurts the node."""
SANDBOX_TASKS = 64
OPEN_FILES = (65536, 1 << 20)
"""Soft and hard limit, clamped to the agent's own."""
CPU_PERIOD = 100_000
SHARED_MEMORY = 64 << 20

MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
# runc leaves the memory file system that holds the v1 hierarchies writable, though the hierarchies are not.
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup")

# Both belong to the network namespace. With them no instance needs root to listen on port 80 or to ping.
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def command_line(
    service: str,
    entrypoint: Sequence[str] | None,
    command: Sequence[str] | None,
    image_entrypoint: Sequence[str],
    image_command: Sequence[str],
) -> tuple[str, ...]:
    """What runs: the service's entrypoint and command, else the image's; a new entrypoint drops the image's command.

    Raises:
        InputError: there is none; names the service.
    """
    if entrypoint is not None:
        words = (*entrypoint, *(command or ()))
    else:
        words = (*image_entrypoint, *(image_command if command is None else command))
    if not words:
        raise InputError(
            "has no command, and neither has its image",
            place=Place(key=f"services.{service}"),
            hint="set `command:`, or a Cmd or Entrypoint in the image",
        )
    return tuple(words)


def configuration(spec: InstanceSpec, layout: Layout, host: HostFacts, owner: Owner) -> dict[str, Any]:
    """The whole `config.json`.

    Raises:
        InputError: a mount's place is not possible.
        Unavailable: the agent itself lacks a capability that the service asks for.
    """
    _must_hold(spec, host)
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(layout.rootfs), "readonly": spec.read_only},
        "hostname": spec.hostname,
        "process": process(spec, host, owner),
        "mounts": mounts(spec, layout),
        "linux": {
            "namespaces": namespaces(layout, host),
            "cgroupsPath": layout.cgroup,
            "resources": resources(spec.limits, host),
            # gVisor answers EPERM whatever errno a filter names.
            "seccomp": seccomp.profile(spec.capabilities, host.machine, errnos=host.runtime.kind != "runsc"),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            "sysctl": SYSCTLS,
        },
    }


def process(
    spec: InstanceSpec, host: HostFacts, owner: Owner, *, args: Sequence[str] | None = None, terminal: bool = False
) -> dict[str, Any]:
    """The `process` object: of the instance, or of one that is added to it."""
    env = environment(spec.env, owner)
    if terminal:
        env.setdefault("TERM", "xterm")
    return {
        "terminal": terminal,
        "user": {"uid": owner.uid, "gid": owner.gid, "additionalGids": list(owner.groups)},
        "args": list(args or spec.args),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": spec.working_dir,
        "capabilities": capability_sets(spec.capabilities, root=owner.uid == 0),
        "rlimits": rlimits(host),
        "noNewPrivileges": True,
    }


def environment(env: Mapping[str, str], owner: Owner) -> dict[str, str]:
    """The instance's, with PATH and HOME as every program expects them."""
    return {"PATH": DEFAULT_PATH, "HOME": owner.home, **env}


def _must_hold(spec: InstanceSpec, host: HostFacts) -> None:
    if missing := [name for name in spec.capabilities if name not in host.capabilities]:
        raise Unavailable(
            f"services.{spec.service}: this agent does not hold {', '.join(missing)}, so it cannot give it on",
            hint="leave it out of cap_add, or give it to the agent (CapabilityBoundingSet= of its unit)",
        )


def capability_sets(names: Sequence[str], *, root: bool) -> dict[str, list[str]]:
    """Root gets the whole set. Another user keeps over `execve` only what is ambient (capabilities(7)): those are the
    ones that somebody added to the default set on purpose."""
    ambient = [] if root else [name for name in names if name not in capabilities.DEFAULT]
    whole = list(names)
    return {
        "bounding": whole,
        "effective": whole if root else ambient,
        "permitted": whole if root else ambient,
        "inheritable": ambient,
        "ambient": ambient,
    }


def rlimits(host: HostFacts) -> list[dict[str, Any]]:
    hard = min(OPEN_FILES[1], host.open_files)
    return [{"type": "RLIMIT_NOFILE", "soft": min(OPEN_FILES[0], hard), "hard": hard}]


def namespaces(layout: Layout, host: HostFacts) -> list[dict[str, str]]:
    own = ["pid", "ipc", "uts", "mount", *(() if host.cgroups == "v1" else ("cgroup",))]
    return [*({"type": kind} for kind in own), {"type": "network", "path": str(layout.netns)}]


def resources(limits: LimitsSpec, host: HostFacts) -> dict[str, Any]:
    """Limits as the runtime writes them to cgroup v1 or v2. A memory limit counts swap too, so nothing is swapped."""
    found: dict[str, Any] = {
        "devices": [{"allow": False, "access": "rwm"}],
        "pids": {"limit": _tasks(limits.pids or DEFAULT_PIDS, host)},
    }
    if limits.memory is not None:
        swap = {"swap": limits.memory} if host.swap_accounting else {}
        found["memory"] = {"limit": limits.memory, **swap}
    if limits.cpus is not None:
        found["cpu"] = {"quota": max(1000, round(limits.cpus * CPU_PERIOD)), "period": CPU_PERIOD}
    return found


def _tasks(processes: int, host: HostFacts) -> int:
    """What stands on the machine for so many processes and threads. gVisor's kernel has threads of its own, and up to
    three tasks for each thread inside (measured: 2.1); if it cannot have them, it ends."""
    return SANDBOX_TASKS + 3 * processes if host.runtime.kind == "runsc" else processes


def mounts(spec: InstanceSpec, layout: Layout) -> list[dict[str, Any]]:
    """What every program expects, the three network files, then the service's own, parents before what lies in them."""
    wanted = {_target(mount, spec) for mount in spec.mounts}
    files = {
        "/etc/hosts": layout.hosts,
        "/etc/resolv.conf": layout.resolv_conf,
        "/etc/hostname": layout.hostname,
    }
    ours = [_bind(str(source), target, read_only=False) for target, source in files.items() if target not in wanted]
    theirs = sorted(spec.mounts, key=lambda mount: len(PurePosixPath(mount.target).parts))
    return [*_system_mounts(wanted), *ours, *(_mount(mount) for mount in theirs)]


def _system_mounts(wanted: set[str]) -> list[dict[str, Any]]:
    everywhere = ["nosuid", "noexec", "nodev"]
    table: list[tuple[str, str, list[str]]] = [
        ("/proc", "proc", everywhere),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", [*everywhere, "mode=1777", f"size={SHARED_MEMORY}"]),  # noqa: S108  the instance's
        ("/sys", "sysfs", [*everywhere, "ro"]),
        ("/sys/fs/cgroup", "cgroup", [*everywhere, "relatime", "ro"]),
    ]
    return [
        {"destination": target, "type": kind, "source": PurePosixPath(target).name, "options": options}
        for target, kind, options in table
        if target not in wanted
    ]


def _target(mount: ResolvedMount, spec: InstanceSpec) -> str:
    """The mount's place without trailing slashes. Raises InputError where a mount would take the ground away."""
    path = PurePosixPath(mount.target)
    top = path.parts[1] if len(path.parts) > 1 else ""
    if ".." in path.parts or not top or top in ("proc", "sys") or str(path) in ("/dev", "/dev/pts"):
        raise InputError(
            f"nothing can be mounted at {mount.target}",
            place=Place(key=f"services.{spec.service}.mounts"),
            hint="choose an absolute path without `..`, other than /, /dev and those in /proc and /sys",
        )
    return str(path)


def _mount(mount: ResolvedMount) -> dict[str, Any]:
    if mount.kind == "bind":
        return _bind(str(mount.source), mount.target, read_only=mount.read_only)
    size = [f"size={mount.size}"] if mount.size is not None else []
    mode = f"mode={0o1777 if mount.mode is None else mount.mode:o}"
    access = ["ro"] if mount.read_only else []
    return {
        "destination": mount.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", mode, *size, *access],
    }


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    # A read-only bind is not recursive: file systems mounted below the source would stay writable.
    access = ["bind", "ro"] if read_only else ["rbind", "rw"]
    return {
        "destination": target,
        "type": "bind",
        "source": source,
        "options": [*access, "rprivate", "nosuid", "nodev"],
    }
