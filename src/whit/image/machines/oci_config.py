"""config.json of a machine's container (runtime-spec 1.0.2), with LinuxKit's defaults. Pure.

Those are: no capability, the machine's own network, IPC and host name, a process tree of its own, and of /dev only what
runtime-spec has. What a runtime cannot do is refused here, when the machine is linked, not when it boots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from whit.base.errors import InputError, Place
from whit.image.machines.parts import Root
from whit.model.machine import ContainerSpec, Stage
from whit.model.machine_container import ContainerMount, DeviceSpec, IdMapping, Limit, Namespace

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VOLUMES = "/containers/volumes"
FIRST_ID = 100
"""The user and group of the first container, for those who name it; the others follow."""

_UNLIMITED = 2**64 - 1
_BIND = ("rw", "rbind", "rshared")
_NAMESPACES = {"net": "network", "pid": "pid", "ipc": "ipc", "uts": "uts", "userns": "user"}
_OWN = {"pid": "new"}
"""Namespaces that are a container's own unless it says otherwise."""


def configuration(spec: ContainerSpec, stage: Stage, root: Root, ids: Mapping[str, int]) -> dict[str, Any]:
    """The whole document. `spec` is merged with what the image says of itself. `ids` are users by container.

    Raises:
        InputError: it contradicts itself, or has no command.
    """
    uid, gid = owner(spec, root, ids)
    linux: dict[str, Any] = {
        "namespaces": namespaces(spec),
        "cgroupsPath": spec.cgroups_path or f"/{stage}/{spec.name}",
        "resources": resources(spec),
        "devices": [_device(device) for device in spec.devices or () if device.path != "all"],
        "maskedPaths": list(spec.masked_paths or ()),
        "readonlyPaths": list(spec.readonly_paths or ()),
        "sysctl": {name: value for name, value in (spec.sysctl or {}).items() if in_own_namespace(spec, name)},
        "uidMappings": [_mapping(one) for one in spec.uid_mappings or ()],
        "gidMappings": [_mapping(one) for one in spec.gid_mappings or ()],
        "rootfsPropagation": spec.rootfs_propagation,
    }
    document = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": bool(spec.readonly)},
        "hostname": _hostname(spec),
        "process": process(spec, root, uid, gid, ids),
        "mounts": mounts(spec),
        "annotations": spec.annotations,
        "linux": {key: value for key, value in linux.items() if value},
    }
    return {key: value for key, value in document.items() if value}


def process(spec: ContainerSpec, root: Root, uid: int, gid: int, ids: Mapping[str, int]) -> dict[str, Any]:
    env = list(spec.env) if spec.env is not None else [f"{key}={value}" for key, value in root.config.env.items()]
    if not any(one.startswith("PATH=") for one in env):
        env.insert(0, PATH)
    names, ambient = list(spec.capabilities or ()), list(spec.ambient or ())
    whole = list(dict.fromkeys((*names, *ambient)))
    groups = [_number(one, ids) for one in spec.additional_gids or ()]
    found: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups},
        "args": list(_command(spec, root)),
        "env": env,
        "cwd": spec.cwd or root.config.working_dir,
        "capabilities": {
            **dict.fromkeys(("bounding", "effective", "inheritable", "permitted"), whole),
            "ambient": ambient,
        },
        "rlimits": [_limit(one) for one in spec.rlimits or ()],
        "noNewPrivileges": bool(spec.no_new_privileges),
    }
    return found | ({} if spec.oom_score_adj is None else {"oomScoreAdj": spec.oom_score_adj})


def owner(spec: ContainerSpec, root: Root, ids: Mapping[str, int]) -> tuple[int, int]:
    """What the container says, else what its image does."""
    uid, gid = root.owner() if spec.uid is None else (_number(spec.uid, ids), 0)
    return uid, gid if spec.gid is None else _number(spec.gid, ids)


def namespaces(spec: ContainerSpec) -> list[dict[str, str]]:
    """Mounts and control groups are always a container's own; the rest as it says."""
    found = [{"type": "mount"}, {"type": "cgroup"}]
    for name, kind in _NAMESPACES.items():
        wanted: Namespace = getattr(spec, name) or _OWN.get(name, "host")
        if wanted.startswith("/"):
            found.append({"type": kind, "path": wanted})
        elif wanted != "host":
            found.append({"type": kind})
    if spec.userns == "new" and not (spec.uid_mappings and spec.gid_mappings):
        raise _contradiction(spec, "userns", "its users are nobody's", "add uidMappings and gidMappings")
    if (spec.uid_mappings or spec.gid_mappings) and (spec.userns or "host") == "host":
        raise _contradiction(spec, "mappings", "users are mapped in a namespace of their own only", "add userns: new")
    return found


def in_own_namespace(spec: ContainerSpec, setting: str) -> bool:
    """Whether a kernel setting is that of the container's namespaces; every other is the machine's, and set there."""
    if setting.startswith("net."):
        return (spec.net or "host") != "host"
    if setting.startswith(("fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")):
        return (spec.ipc or "host") != "host"
    return setting in ("kernel.domainname", "kernel.hostname") and (spec.uts or "host") != "host"


def mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    """What every program expects, then the container's own, of which the last at a place wins; sorted by place."""
    everywhere = ["nosuid", "noexec", "nodev"]
    table = [
        _mount("/proc", "proc", "proc", [*everywhere, "relatime"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _system(spec, everywhere),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*everywhere, "relatime", "ro"]),
        *(_tmpfs(text) for text in spec.tmpfs or ()),
        *(_bind(text) for text in spec.binds or ()),
        *(_listed(mount) for mount in spec.mounts or ()),
    ]
    by_place = {mount["destination"]: mount for mount in table}
    return [by_place[place] for place in sorted(by_place, key=lambda place: PurePosixPath(place).parts)]


def resources(spec: ContainerSpec) -> dict[str, Any]:
    """All devices are denied but those that runtime-spec has and that are named."""
    given = dict(spec.resources or {})
    allowed = [_rule(device) for device in spec.devices or ()]
    rules = [{"allow": False, "access": "rwm"}, *allowed, *given.pop("devices", ())]
    return {"devices": rules, **given}


def _command(spec: ContainerSpec, root: Root) -> tuple[str, ...]:
    own = (*root.config.entrypoint, *root.config.command)
    if not (found := own if spec.command is None else spec.command):
        raise _contradiction(spec, "no-command", "it has no command, and neither has its image", "add command:")
    return found


def _hostname(spec: ContainerSpec) -> str:
    if spec.hostname and (spec.uts or "host") != "new":
        raise _contradiction(spec, "hostname", "a host name of its own needs a namespace of its own", "add uts: new")
    return spec.hostname or ""


def _number(owner: int | str, ids: Mapping[str, int]) -> int:
    return owner if isinstance(owner, int) else ids[owner]


def _limit(limit: Limit) -> dict[str, Any]:
    soft, hard = (_UNLIMITED if one is None else one for one in (limit.soft, limit.hard))
    return {"type": limit.name, "soft": soft, "hard": hard}


def _mapping(one: IdMapping) -> dict[str, int]:
    return {"containerID": one.container_id, "hostID": one.host_id, "size": one.size}


def _device(device: DeviceSpec) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
    }


def _rule(device: DeviceSpec) -> dict[str, Any]:
    numbers = {} if device.path == "all" else {"major": device.major, "minor": device.minor}
    return {"allow": True, "type": "b" if device.type == "b" else "c", **numbers, "access": "rwm"}


def _mount(place: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": place, "type": kind, "source": source, "options": list(options)}


def _system(spec: ContainerSpec, options: Sequence[str]) -> dict[str, Any]:
    """/sys. Users of a namespace may mount one only with a network of their own (sysfs_init_fs_context)."""
    if (spec.userns or "host") != "host" and (spec.net or "host") == "host":
        return _mount("/sys", "bind", "/sys", ["rbind", "ro", *options])
    return _mount("/sys", "sysfs", "sysfs", options)


def _tmpfs(text: str) -> dict[str, Any]:
    place, _, options = text.partition(":")
    given = options.split(",") if options else ["nosuid", "nodev", "noexec", "relatime"]
    return _mount(place, "tmpfs", "tmpfs", given)


def _bind(text: str) -> dict[str, Any]:
    source, place, *options = text.split(":")
    given = [*filter(None, options[0].split(",")), "rbind"] if options else list(_BIND)
    where = source if source.startswith("/") else f"{VOLUMES}/{source}/merged"
    return _mount(place, "bind", where, list(dict.fromkeys(given)))


def _listed(mount: ContainerMount) -> dict[str, Any]:
    return _mount(mount.destination, mount.type or "bind", mount.source or mount.type, mount.options)


def _contradiction(spec: ContainerSpec, code: str, message: str, hint: str) -> InputError:
    error = InputError(f"{spec.name}: {message}", place=Place(spec.source.place), hint=hint)
    error.code = f"machine-{code}"
    return error
