"""Records: what init/ must know of a machine and of its containers beside config.json, as
init/channel/records.h has them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from whit.image.machines.oci_config import in_own_namespace
from whit.model.machine import ContainerSpec, Stage
from whit.model.machine_container import ContainerMount, InterfaceSpec, RuntimeSpec

_UNIT = "\x1f"
_FLAGS = {
    **{"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "remount": 32, "mand": 64, "dirsync": 128},
    **{"noatime": 1 << 10, "nodiratime": 1 << 11, "bind": 1 << 12, "rbind": 1 << 12 | 1 << 14},
    **{"relatime": 1 << 21, "strictatime": 1 << 24},
    **dict.fromkeys(("rw", "suid", "dev", "exec", "async", "atime", "diratime", "defaults"), 0),
}
"""mount(2), linux/mount.h."""
_REC = 1 << 14
_PROPAGATION = {"unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}
_PROPAGATION |= {f"r{name}": flag | _REC for name, flag in _PROPAGATION.items()}


def encoded(pairs: Iterable[tuple[str, str]]) -> bytes:
    """`key=value`, in order, each with a zero byte at its end."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)


def runtime(spec: ContainerSpec, stage: Stage, uid: int, place: str) -> bytes:
    """What is done for the container by the machine, and how long it is waited for. `place` is its directory there."""
    own = _service(spec) if stage == "services" else _once(spec)
    return encoded([*_common(spec, uid), *own, *_machine(spec, place)])


def _common(spec: ContainerSpec, uid: int) -> list[tuple[str, str]]:
    return [("name", spec.name), ("uid", str(uid)), *([("readonly", "1")] if spec.readonly else [])]


def _once(spec: ContainerSpec) -> list[tuple[str, str]]:
    return [("timeout", _milliseconds(spec.timeout))] if spec.timeout else []


def _service(spec: ContainerSpec) -> list[tuple[str, str]]:
    ready = spec.ready
    found = [("restart", spec.restart), ("grace", _milliseconds(spec.stop_grace_period))]
    found += [("after", name) for name in spec.after]
    if ready.tcp or ready.path:
        how = ("ready-tcp", str(ready.tcp)) if ready.tcp else ("ready-path", ready.path)
        found += [how, ("ready-timeout", _milliseconds(ready.timeout))]
    return found


def _machine(spec: ContainerSpec, place: str) -> list[tuple[str, str]]:
    wanted = spec.runtime or RuntimeSpec()
    settings = (item for item in (spec.sysctl or {}).items() if not in_own_namespace(spec, item[0]))
    return [
        *(("cgroup", path) for path in wanted.cgroups),
        *(("mkdir", path) for path in wanted.mkdir),
        *(("mount", mount(one, place)) for one in wanted.mounts),
        *(("sysctl", f"{name}={value}") for name, value in sorted(settings)),
        *(("interface", interface(one)) for one in wanted.interfaces),
        *(("bind-ns", f"{kind}={path}") for kind, path in sorted(wanted.bind_ns.items())),
    ]


def mount(one: ContainerMount, place: str) -> str:
    """TYPE, SOURCE, DESTINATION, FLAGS, PROPAGATION and DATA."""
    flags, propagation, data = _FLAGS["rbind"] if one.type in ("", "bind") else 0, 0, []
    for option in one.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        else:
            data.append(option)
    kind = one.type or "bind"
    return _UNIT.join(
        (
            kind,
            one.source or kind,
            posixpath.join(place, one.destination),
            f"{flags:x}",
            f"{propagation:x}",
            ",".join(data),
        )
    )


def interface(one: InterfaceSpec) -> str:
    return _UNIT.join((one.name, one.add, one.peer, "1" if one.create_in_root else ""))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
