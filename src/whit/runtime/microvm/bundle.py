"""The bundle of the container in which a virtual machine runs. Pure.

QEMU and virtiofsd are the attack surface that a guest sees, so they get less than an instance would: the node's
programs read-only, the instance's own network namespace, no device but a tap and, if there is one, /dev/kvm. virtiofsd
serves the instance's root, and nothing else is there; QEMU has no capability and a user of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whit.kernel.network.instance_link import InstanceLink
from whit.model.instance import InstanceSpec
from whit.runtime.bundle import oci_config, seccomp
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.tools import qemu, virtiofsd
from whit.tools.qemu import Accelerator

TAP = "tap0"
DISK = "root"
"""The serial number of the disk that is a guest's own root."""
SHARE = "/share"
MEMORY = 256 << 20
"""Bytes of a guest whose service sets no limit."""
OVERHEAD = 256 << 20
"""Bytes that QEMU and virtiofsd may use beside the guest's memory; mostly code that TCG translated."""
FIRST_USER = 0x70000000
"""The user of a machine is this plus the instance's number: nobody else on a node has such a number."""
CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"),
    *("CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT", "CAP_SETPCAP"),
)
"""virtiofsd acts in the name of the guest's users, and gives up the others itself. None of them are QEMU's."""

# Kernel messages below "error" would fill the instance's log; a panic ends the machine at once.
# A timer that comes late, as on a busy machine without KVM, is no broken timer: without no_timer_check that panics.
APPEND = "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on no_timer_check"

_CLONE_FS = 0x200
_TERMINALS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
_PORT = 3
_CONSOLE = 4
_CONTROL = 5
"""Descriptors that init/host/machine.c gives to QEMU."""
_SHARE_SOCKET = Path("/run/root.sock")
_KVM = {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o666}
_TUN = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}


@dataclass(frozen=True)
class Guest:
    """What every microVM boots: a kernel, and a first root with its modules and `guest` of init/."""

    release: str
    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Facts:
    """What the bundle must know of this machine's QEMU."""

    machine: Path
    """The program of init/ that runs in the container."""
    accelerator: Accelerator
    version: tuple[int, int]


def user_of(spec: InstanceSpec) -> int:
    return FIRST_USER + spec.network.number


How = Literal["run", "wait", "resume"]
"""What init/host/machine.c does with the guest: all, all but starting the instance's process, or nothing."""


def machine_of(spec: InstanceSpec, link: InstanceLink, how: How) -> qemu.Machine:
    """The machine, as it is seen inside of the container."""
    return qemu.Machine(
        kernel=Path("/guest/kernel"),
        initrd=Path("/guest/initrd"),
        append=APPEND,
        console=_CONSOLE,
        memory=(spec.limits.memory or MEMORY) >> 20,
        cpus=math.ceil(spec.limits.cpus or 1),
        ports=(qemu.Port("whit", _PORT),),
        shares=() if spec.detached else (qemu.Share("root", _SHARE_SOCKET),),
        disks=(qemu.Disk(Path("/guest/disk"), DISK),) if spec.detached else (),
        qmp=_CONTROL,
        incoming=how == "resume",
        tap=qemu.Tap(TAP, link.inner.mac),
        name=spec.name,
    )


def configuration(
    spec: InstanceSpec,
    layout: Layout,
    host: HostFacts,
    facts: Facts,
    guest: Guest,
    link: InstanceLink,
    mounts: Sequence[Mapping[str, Any]],
    *,
    how: How = "run",
) -> dict[str, Any]:
    """The whole `config.json`. `mounts` are those of the instance."""
    devices = [_TUN, *([_KVM] if facts.accelerator == "kvm" else [])]
    server = [] if spec.detached else virtiofsd.command(virtiofsd.binary(), _SHARE_SOCKET, Path(SHARE))
    machine = qemu.command(machine_of(spec, link, how), facts.accelerator, facts.version)
    qemu_ = [f"/usr/bin/{machine[0]}", *machine[1:]]
    root = _own_root(layout) if spec.detached else _shared(layout, mounts)
    words = ["/machine", how, str(user_of(spec)), "/guest/setup", "/guest/process", *server, "--", *qemu_]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(layout.bundle / "machine"), "readonly": True},
        "hostname": spec.hostname,
        "process": process(host, words),
        # What is the machine's own comes last, over whatever the instance's volumes may have led to.
        "mounts": [*root, *_own_mounts(layout, facts, guest)],
        "linux": {
            "namespaces": oci_config.namespaces(layout, host),
            "cgroupsPath": layout.cgroup,
            "devices": devices,
            "resources": _resources(spec, host, devices),
            "seccomp": _system_calls(host),
            "maskedPaths": list(oci_config.MASKED),
            "readonlyPaths": list(oci_config.READ_ONLY),
        },
    }


def process(
    host: HostFacts, words: Sequence[str], *, env: Sequence[str] = (), terminal: bool = False
) -> dict[str, Any]:
    """A process in the container: the machine itself, or one that talks to the guest."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0, "additionalGids": []},
        "args": list(words),
        "env": [f"PATH={oci_config.DEFAULT_PATH}", *env],
        "cwd": "/",
        "capabilities": oci_config.capability_sets(CAPABILITIES, root=True),
        "rlimits": oci_config.rlimits(host),
        "noNewPrivileges": True,
    }


def _resources(spec: InstanceSpec, host: HostFacts, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    limits = spec.limits.model_copy(update={"memory": (spec.limits.memory or MEMORY) + OVERHEAD, "pids": None})
    found = oci_config.resources(limits, host)
    numbers = [{key: one[key] for key in ("type", "major", "minor")} for one in devices]
    allowed = [{"allow": True, "access": "rw", **number} for number in numbers]
    return found | {"devices": [*found["devices"], *allowed]}


def _system_calls(host: HostFacts) -> dict[str, Any]:
    """As for every instance. Each thread of virtiofsd wants a working directory of its own: unshare(CLONE_FS) alone."""
    own_directory = {"index": 0, "value": _CLONE_FS, "op": "SCMP_CMP_EQ"}
    profile = seccomp.profile(CAPABILITIES, host.machine)
    rule = {"names": ["unshare"], "action": "SCMP_ACT_ALLOW", "args": [own_directory]}
    return profile | {"syscalls": [*profile["syscalls"], rule]}


def _own_mounts(layout: Layout, facts: Facts, guest: Guest) -> list[dict[str, Any]]:
    everywhere = ["nosuid", "noexec", "nodev"]
    given = {
        "/usr": Path("/usr"),
        "/etc/ld.so.cache": Path("/etc/ld.so.cache"),
        "/machine": facts.machine,
        "/guest/kernel": guest.kernel,
        "/guest/initrd": guest.initrd,
        "/guest/setup": layout.bundle / "guest.setup",
        "/guest/process": layout.bundle / "guest.process",
    }
    told = _bind(str(layout.guest_memory), "/guest/memory", ["bind", "rw"])
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": everywhere},
        _memory("/dev", "65536k", ["nosuid", "strictatime"]),
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": _TERMINALS},
        _memory("/run", "1024k", everywhere),
        _memory("/tmp", "1024k", everywhere),  # noqa: S108  the container's own
        *(_bind(str(source), target, ["bind", "ro"]) for target, source in given.items()),
        told,
    ]


def _memory(place: str, size: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": [*options, "mode=755", f"size={size}"]}


def _shared(layout: Layout, mounts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The instance's root with all that is mounted into it, below one directory."""
    binds = [mount for mount in mounts if mount["type"] == "bind"]
    return [
        _bind(str(layout.rootfs), SHARE, ["rbind", "rw"]),
        *({**mount, "destination": SHARE + mount["destination"]} for mount in binds),
    ]


def _own_root(layout: Layout) -> list[dict[str, Any]]:
    return [_bind(str(layout.root_disk), "/guest/disk", ["bind", "rw"])]


def _bind(source: str, target: str, options: Sequence[str]) -> dict[str, Any]:
    return {
        "destination": target,
        "type": "bind",
        "source": source,
        "options": [*options, "rprivate", "nosuid", "nodev"],
    }
