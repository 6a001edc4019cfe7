"""Resources, mounts, devices and `runtime` of a machine's container, as runtime-spec 1.0 has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.machine.keys import Key, absolute, absolutes, between, needed, read_keys, strings
from whit.formats.nodes import Value
from whit.formats.problems import Problems, near
from whit.model.machine_container import (
    NAMESPACES,
    ContainerMount,
    DeviceSpec,
    IdMapping,
    InterfaceSpec,
    Limit,
    RuntimeSpec,
)

Reader = Callable[[Value], Any]

_LARGE = 2**63 - 1
_NUMBER = between(0, _LARGE)
_LIMITS = (
    *("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK"),
    *("RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO"),
    *("RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK"),
)
_PAGE_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


def rlimits(value: Value) -> tuple[Limit, ...]:
    """`nofile,1024,4096` or `RLIMIT_NOFILE,1024,unlimited`."""
    return tuple(shapes.parsed(item, _limit) for item in shapes.items(value))


def _limit(text: str) -> Limit:
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3:
        raise ValueError(f"{text!r} is not NAME,SOFT,HARD, as nofile,1024,4096")
    name = f"RLIMIT_{words[0].upper().removeprefix('RLIMIT_')}"
    if name not in _LIMITS:
        raise ValueError(f"{words[0]!r} is no limit; {near(name, _LIMITS)}")
    soft, hard = (_amount(word) for word in words[1:])
    if hard is not None and (soft is None or soft > hard):
        raise ValueError(f"the soft limit of {text!r} is above the hard one")
    return Limit(name=name, soft=soft, hard=hard)


def _amount(word: str) -> int | None:
    if word in ("unlimited", "-1"):
        return None
    if not word.isdecimal():
        raise ValueError(f"{word!r} is neither a whole number nor unlimited")
    return int(word)


def mappings(value: Value) -> tuple[IdMapping, ...]:
    """`[{containerID: 0, hostID: 1000, size: 1}]`"""
    keys = {
        "containerID": Key("container_id", "number", _NUMBER),
        "hostID": Key("host_id", "number", _NUMBER),
        "size": Key("size", "number", between(1, 2**32)),
    }
    return tuple(IdMapping(**_all_of(item, "container.idMappings[]", keys)) for item in shapes.items(value))


_USUAL = {
    "proc": "/proc",
    "sysfs": "/sys",
    "cgroup": "/sys/fs/cgroup",
    "devpts": "/dev/pts",
    "mqueue": "/dev/mqueue",
}
"""Where file systems that have one place are mounted, as LinuxKit has it."""


def mounts(value: Value, place: Callable[[Value], str] = absolute) -> tuple[ContainerMount, ...]:
    keys = {
        "destination": Key("destination", "path", place),
        "type": Key("type", "text", shapes.text),
        "source": Key("source", "text", shapes.text),
        "options": Key("options", "list", strings),
    }
    return tuple(
        ContainerMount(**_completed(item, _all_of(item, "container.mounts[]", keys, ())))
        for item in shapes.items(value)
    )


def _below(value: Value) -> str:
    """A path from the root, or from the container's directory in the machine."""
    found = shapes.text(value)
    if found.startswith("/"):
        return absolute(value)
    if not all(part not in ("", ".", "..") for part in found.split("/")):
        raise InputError(f"{found!r} is no path below a directory", place=value.place, hint="without . and ..")
    return found


def _completed(item: Value, fields: dict[str, Any]) -> dict[str, Any]:
    """What the file system of a mount goes without saying: its type by its source, its place by its type."""
    if "type" not in fields and fields.get("source") in _USUAL:
        fields["type"] = fields["source"]
    if "destination" not in fields and fields.get("type") in _USUAL:
        fields["destination"] = _USUAL[fields["type"]]
    if "destination" not in fields:
        needed(shapes.table(item), "destination")
    return fields


def devices(value: Value) -> tuple[DeviceSpec, ...]:
    keys = {
        "path": Key("path", "path or all", _device_path),
        "type": Key("type", "b, c, u or p", lambda found: shapes.one_of(found, ("b", "c", "u", "p"))),
        "major": Key("major", "number", _NUMBER),
        "minor": Key("minor", "number", _NUMBER),
        "mode": Key("mode", "octal", lambda found: shapes.parsed(found, octal)),
    }
    wanted = ("path", "type")
    return tuple(DeviceSpec(**_all_of(item, "container.devices[]", keys, wanted)) for item in shapes.items(value))


def _device_path(value: Value) -> str:
    return "all" if shapes.text(value) == "all" else absolute(value)


def octal(text: str) -> int:
    """Raises ValueError."""
    digits = text.removeprefix("0o")
    if not digits or len(digits) > 5 or set(digits) - set("01234567") or int(digits, 8) > 0o7777:
        raise ValueError(f"{text!r} is not a mode; write it in octal, as 0644")
    return int(digits, 8)


def runtime(value: Value) -> dict[str, Any]:
    """The fields of RuntimeSpec, and `restart` if noRestart is true."""
    keys = {
        "cgroups": Key("cgroups", "list of paths", strings),
        "mounts": Key("mounts", "list of mounts", lambda found: mounts(found, _below)),
        "mkdir": Key("mkdir", "list of paths", absolutes),
        "interfaces": Key("interfaces", "list of interfaces", interfaces),
        "bindNS": Key("bind_ns", "paths by namespace", bind_namespaces),
        "noRestart": Key("no_restart", "truth", shapes.truth),
    }
    return _all_of(value, "container.runtime", keys, ())


def runtime_spec(value: Value) -> RuntimeSpec:
    return RuntimeSpec(**{name: found for name, found in runtime(value).items() if name != "no_restart"})


def no_restart(value: Value) -> bool:
    """Whether `runtime` says that its service stays ended."""
    entry = shapes.table(value).entries.get("noRestart")
    return entry is not None and shapes.truth(entry.value)


def interfaces(value: Value) -> tuple[InterfaceSpec, ...]:
    keys = {
        "name": Key("name", "text", _link_name),
        "add": Key("add", "kind of link", lambda found: shapes.one_of(found, ("veth", "dummy", "wireguard"))),
        "peer": Key("peer", "text", _link_name),
        "createInRoot": Key("create_in_root", "truth", shapes.truth),
    }
    return tuple(_interface(item, keys) for item in shapes.items(value))


def _interface(item: Value, keys: Mapping[str, Key]) -> InterfaceSpec:
    fields = _all_of(item, "container.runtime.interfaces[]", keys, ("name",))
    if fields.get("peer"):
        fields.setdefault("add", "veth")
    found = InterfaceSpec(**fields)
    if (found.add == "veth") != bool(found.peer):
        hint = "add: veth goes with peer: NAME"
        raise InputError("a veth has two ends, and nothing else has", place=item.place, hint=hint)
    return found


def _link_name(value: Value) -> str:
    name = shapes.text(value)
    if len(name) > 15 or set(name) & set("/: \t"):
        raise InputError(
            f"{name!r} is no link's name", place=value.place, hint="at most 15 characters, without / and :"
        )
    return name


def bind_namespaces(value: Value) -> dict[str, str]:
    return _all_of(value, "container.runtime.bindNS", {name: Key(name, "path", absolute) for name in NAMESPACES}, ())


# ---- resources ----


def resources(value: Value) -> dict[str, Any]:
    """linux.resources of runtime-spec."""
    keys = {
        "devices": Key("devices", "list of rules", _device_rules),
        "memory": Key("memory", "limits", _numbers("container.resources.memory", ("limit", "reservation", "swap"))),
        "cpu": Key("cpu", "limits", _cpu),
        "pids": Key("pids", "limits", _numbers("container.resources.pids", ("limit",))),
        "blockio": Key("blockIO", "limits", _block_io),
        "hugepageLimits": Key("hugepageLimits", "list of limits", _huge_pages),
    }
    return _all_of(value, "container.resources", keys, ())


def _device_rules(value: Value) -> list[dict[str, Any]]:
    keys = {
        "allow": Key("allow", "truth", shapes.truth),
        "type": Key("type", "a, b or c", lambda found: shapes.one_of(found, ("a", "b", "c"))),
        "major": Key("major", "number", _NUMBER),
        "minor": Key("minor", "number", _NUMBER),
        "access": Key("access", "of r, w and m", _access),
    }
    return [_all_of(item, "container.resources.devices[]", keys, ("allow",)) for item in shapes.items(value)]


def _access(value: Value) -> str:
    found = shapes.text(value)
    if set(found) - set("rwm"):
        raise InputError(f"{found!r} has more than r, w and m", place=value.place)
    return found


def _cpu(value: Value) -> dict[str, Any]:
    numbers = {name: Key(name, "number", _NUMBER) for name in ("shares", "quota", "period")}
    texts = {name: Key(name, "as 0-3,5", _cpu_set) for name in ("cpus", "mems")}
    return _all_of(value, "container.resources.cpu", {**numbers, **texts}, ())


def _cpu_set(value: Value) -> str:
    found = shapes.text(value)
    if set(found) - set("0123456789,-"):
        raise InputError(f"{found!r} is no set of numbers", place=value.place, hint="write it as 0-3,5")
    return found


def _block_io(value: Value) -> dict[str, Any]:
    parent = "container.resources.blockio"
    rates = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
    keys = {
        "weight": Key("weight", "10 to 1000", between(10, 1000)),
        "weightDevice": Key("weightDevice", "list", _each(f"{parent}.weightDevice[]", ("major", "minor", "weight"))),
        **{name: Key(name, "list", _each(f"{parent}.{name}[]", ("major", "minor", "rate"))) for name in rates},
    }
    return _all_of(value, parent, keys, ())


def _huge_pages(value: Value) -> list[dict[str, Any]]:
    found = _each("container.resources.hugepageLimits[]", ("pageSize", "limit"))(value)
    return [{"pageSize": _page_size(one["pageSize"]), "limit": one["limit"]} for one in found]


def _page_size(size: int) -> str:
    """`2MB` of 2097152, as runtime-spec names them."""
    unit, name = next(((unit, name) for unit, name in _PAGE_UNITS if size >= unit), (1, "B"))
    return f"{size // unit}{name}"


def _numbers(parent: str, names: tuple[str, ...]) -> Reader:
    keys = {name: Key(name, "number", between(-1, _LARGE)) for name in names}
    return lambda value: _all_of(value, parent, keys, ())


def _each(parent: str, names: tuple[str, ...]) -> Callable[[Value], list[dict[str, Any]]]:
    keys = {name: Key(name, "number", _NUMBER) for name in names}
    return lambda value: [_all_of(item, parent, keys, names) for item in shapes.items(value)]


def _all_of(
    value: Value, parent: str, keys: Mapping[str, Key], wanted: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """What a table has, all of `keys` unless `wanted` names those it needs. Raises InvalidApp with all mistakes."""
    table = shapes.table(value)
    problems = Problems()
    fields, _ = read_keys(table, parent, keys, problems)
    with problems.guard():
        needed(table, *(keys if wanted is None else wanted))
    problems.check()
    return fields
