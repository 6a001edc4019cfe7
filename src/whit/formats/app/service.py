"""Service: one table from each honoured key to its reader, and the ServiceSpec that comes of it.

What needs the other services to be known is checked in checks.py; what is not honoured stands in unsupported.py.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import get_args

from whit.base.errors import InputError
from whit.formats import catalog, shapes
from whit.formats.app.balance import read_balance, read_endpoints, read_scale
from whit.formats.app.capabilities import capability
from whit.formats.app.draft import Draft, Placed, Source
from whit.formats.app.environment import read_env_files, read_environment
from whit.formats.app.health import read_healthcheck
from whit.formats.app.interpolate import interpolate
from whit.formats.app.limits import read_cpus, read_deploy, read_egress, read_memory, read_pids
from whit.formats.app.mounts import read_mount, read_tmpfs
from whit.formats.app.networks import read_memberships
from whit.formats.app.parts import read_build
from whit.formats.app.ports import read_port
from whit.formats.app.unsupported import refuse
from whit.formats.app.uses import read_use
from whit.formats.nodes import Entry, Expand, Table
from whit.formats.paths import absolute
from whit.formats.policy.ports import read_exposed
from whit.formats.problems import make
from whit.formats.quantities import duration
from whit.model.build import RunSpec
from whit.model.service import (
    DependencySpec,
    ExposedPort,
    Isolation,
    LimitsSpec,
    MountSpec,
    RestartSpec,
    ServiceSpec,
)

SCRATCH = ("/tmp", "/run", "/var/tmp")  # noqa: S108  the instance's own
"""A declared service has a read-only root, and a tmpfs here unless it mounts these, or what is above them, itself.

An explicit `read_only: false` gives it a root that can be written, and none of the tmpfs.
"""
_ISOLATIONS = get_args(Isolation)
_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")
_RESTARTS = ("no", "always", "on-failure", "unless-stopped")


@dataclass(frozen=True)
class Key:
    """A honoured key. `field` and `accepts` are for the reference: the field of ServiceSpec, and the forms it takes."""

    read: Callable[[Entry, Draft], None]
    field: str
    accepts: str


def read_service(entry: Entry, source: Source) -> Draft:
    """All that can be read of a service; what cannot is among the problems."""
    draft = Draft(entry.key, entry.place, source)
    with source.problems.guard():
        table = catalog.extended(shapes.table(entry.value), _expander(source), source.problems)
        refuse(table, "services.*", KEYS, source.problems)
        for found in table.entries.values():
            if found.key in KEYS:
                with source.problems.guard():
                    KEYS[found.key].read(found, draft)
        elsewhere = table.entries.keys() & {"external_name", "endpoints"}
        if not elsewhere and "image" not in table.entries and "build" not in table.entries:
            raise InputError(
                "has neither image nor build", place=entry.place, hint="add one of them", code="service-no-image"
            )
        if "image" in table.entries and "build" in table.entries:
            draft.fields.pop("image", None)
            hint = "leave image out; what is built is named for its service"
            raise InputError(
                "has both image and build",
                place=table.entries["image"].place,
                hint=hint,
                code="service-image-and-build",
            )
    return draft


def _expander(source: Source) -> Expand:
    """For an entry of the catalogue: its variables have defaults, so none is missing."""
    return lambda text, place: interpolate(text, source.environment, place, lambda _: "")


def finish(draft: Draft) -> ServiceSpec:
    """The noun. Raises InputError, also where a mistake in the file was a problem before."""
    if not draft.fields.keys() & {"image", "build", "external_name", "endpoints"}:
        # That is a problem already; the other fields are to be looked at all the same.
        draft.fields["image"] = "missing"
    declared = draft.source.mode == "declared"
    read_only = draft.fields.get("read_only", declared)
    if declared and read_only and not draft.fields.keys() & {"external_name", "endpoints"}:
        draft.mounts.extend(Placed(mount, draft.place) for mount in scratch(draft.mounts))
    fields = {
        **draft.fields,
        "read_only": read_only,
        "environment": draft.environment,
        "ports": tuple(port.value for port in draft.ports),
        "mounts": tuple(mount.value for mount in draft.mounts),
        "uses": tuple(use.value for use in draft.uses),
        "networks": tuple(dict.fromkeys(one.value for one in draft.networks)),
        "depends_on": {name: found.value for name, found in draft.depends_on.items()},
        "healthcheck": draft.healthcheck,
        "limits": _limits(draft),
    }
    return _running(make(ServiceSpec, draft.place, draft.places, fields))


def _running(service: ServiceSpec) -> ServiceSpec:
    """With what linking has to know of how the image is run; where all of it comes in, that changes nothing."""
    build = service.build
    if build is None or not (build.closed or build.check):
        return service
    command = (*(service.entrypoint or ()), *(service.command or ()))
    tests = service.healthcheck.test if service.healthcheck else ()
    run = RunSpec(
        commands=tuple(found for found in (command, tests) if found),
        user=service.user or "",
        environment=service.environment,
        working_dir=service.working_dir or "",
        memory=tuple(mount.target for mount in service.mounts if mount.kind == "tmpfs"),
    )
    return service.model_copy(update={"build": build.model_copy(update={"run": run})})


def _limits(draft: Draft) -> LimitsSpec:
    places = {key: limit.place for key, limit in draft.limits.items()}
    try:
        return make(LimitsSpec, draft.place, places, {key: limit.value for key, limit in draft.limits.items()})
    except InputError as error:
        draft.source.problems.add(error)
        return LimitsSpec()


def scratch(mounts: Iterable[Placed[MountSpec]]) -> list[MountSpec]:
    """The tmpfs mounts at SCRATCH that these mounts leave room for."""
    taken = {PurePosixPath(mount.value.target) for mount in mounts}
    free = [path for path in SCRATCH if not taken & {PurePosixPath(path), *PurePosixPath(path).parents}]
    return [MountSpec(kind="tmpfs", target=path, mode=0o1777) for path in free]


def _image(entry: Entry, draft: Draft) -> None:
    reference = shapes.text(entry.value)
    for kind in ("oci:", "oci-archive:"):
        if reference.startswith(kind):
            path, colon, name = reference.removeprefix(kind).partition(":")
            reference = f"{kind}{absolute(path, entry.value.place, draft.source.directory)}{colon}{name}"
    draft.set("image", reference, entry.value.place)


def _build(entry: Entry, draft: Draft) -> None:
    draft.set("build", read_build(entry.value, draft.source.directory, draft.source.problems), entry.value.place)


def _words(entry: Entry, draft: Draft) -> None:
    draft.set(entry.key, shapes.words(entry.value), entry.value.place)


def _text(entry: Entry, draft: Draft) -> None:
    draft.set(entry.key, shapes.text(entry.value), entry.value.place)


def _truth(entry: Entry, draft: Draft) -> None:
    draft.set(entry.key, shapes.truth(entry.value), entry.value.place)


def _labels(entry: Entry, draft: Draft) -> None:
    labels = {key: value or "" for key, (value, _) in shapes.assignments(entry.value).items()}
    draft.set("labels", labels, entry.value.place)


def _ports(entry: Entry, draft: Draft) -> None:
    for item in shapes.items(entry.value):
        with draft.source.problems.guard():
            draft.ports.extend(Placed(port, item.place) for port in read_port(item, draft.source.problems))


def _expose(entry: Entry, draft: Draft) -> None:
    found: list[ExposedPort] = []
    for item in shapes.items(entry.value):
        with draft.source.problems.guard():
            found += read_exposed(item, draft.source.problems)
    draft.set("expose", tuple(found), entry.value.place)


def _volumes(entry: Entry, draft: Draft) -> None:
    for item in shapes.items(entry.value):
        with draft.source.problems.guard():
            mount = read_mount(item, draft.source.directory, draft.source.problems)
            draft.mounts.append(Placed(mount, item.place))


def _tmpfs(entry: Entry, draft: Draft) -> None:
    for item in shapes.one_or_more(entry.value):
        with draft.source.problems.guard():
            draft.mounts.append(Placed(read_tmpfs(item), item.place))


def _uses(entry: Entry, draft: Draft) -> None:
    for item in shapes.items(entry.value):
        with draft.source.problems.guard():
            draft.uses.append(Placed(read_use(item, draft.source.problems), item.place))


def _depends_on(entry: Entry, draft: Draft) -> None:
    value = entry.value
    if not isinstance(value, Table):
        draft.depends_on = {shapes.text(item): Placed(DependencySpec(), item.place) for item in shapes.items(value)}
        return
    for found in shapes.table(value).entries.values():
        with draft.source.problems.guard():
            draft.depends_on[found.key] = Placed(_dependency(found, draft), found.place)


def _dependency(entry: Entry, draft: Draft) -> DependencySpec:
    table = shapes.table(entry.value)
    refuse(table, "services.*.depends_on.*", ("condition", "required"), draft.source.problems)
    if (required := table.entries.get("required")) and not shapes.truth(required.value):
        hint = "every service of the app is started; leave it out"
        raise InputError("required: false is not honoured", place=required.place, hint=hint)
    if "condition" not in table.entries:
        return DependencySpec()
    condition = shapes.one_of(table.entries["condition"].value, _CONDITIONS)
    return DependencySpec.model_validate({"condition": condition})


def _restart(entry: Entry, draft: Draft) -> None:
    policy, colon, attempts = shapes.text(entry.value).partition(":")
    if policy not in _RESTARTS or (colon and not (policy == "on-failure" and re.fullmatch("[0-9]{1,6}", attempts))):
        hint = 'use "no", always, on-failure, on-failure:3 or unless-stopped'
        raise InputError(f"{shapes.text(entry.value)!r} is not known", place=entry.value.place, hint=hint)
    fields = {"policy": policy, "max_attempts": int(attempts or 0)}
    draft.set("restart", RestartSpec.model_validate(fields), entry.value.place)


def _capabilities(entry: Entry, draft: Draft) -> None:
    found = tuple(shapes.parsed(item, capability) for item in shapes.items(entry.value))
    draft.set(entry.key, found, entry.value.place)


def _stop_signal(entry: Entry, draft: Draft) -> None:
    draft.set("stop_signal", shapes.parsed(entry.value, _signal_name), entry.value.place)


def _signal_name(text: str) -> str:
    by_number = {str(known.value): known.name for known in signal.Signals}
    name = by_number.get(text, "SIG" + text.upper().removeprefix("SIG"))
    if name not in signal.Signals.__members__:
        raise ValueError(f"{text!r} is not honoured as a signal; signal(7) lists the standard ones")
    return name


def _seconds(entry: Entry, draft: Draft) -> None:
    draft.set(entry.key, shapes.parsed(entry.value, duration), entry.value.place)


def _balance(entry: Entry, draft: Draft) -> None:
    draft.set("balance", read_balance(entry.value, draft.source.problems), entry.value.place)


def _scale(entry: Entry, draft: Draft) -> None:
    draft.set("scale", read_scale(entry.value, draft.source.problems), entry.value.place)


def _endpoints(entry: Entry, draft: Draft) -> None:
    draft.set("endpoints", read_endpoints(entry.value, draft.source.problems), entry.value.place)


def _isolation(entry: Entry, draft: Draft) -> None:
    found = shapes.text(entry.value)
    if found not in _ISOLATIONS:
        hint = f"available: {', '.join(_ISOLATIONS)}"
        raise InputError(f"{found!r} is not available", place=entry.value.place, hint=hint)
    draft.set("isolation", found, entry.value.place)


_TEXT_OR_LIST = "text, split as a shell does, or a list"
_MAP_OR_LIST = "a table, or a list of `KEY=value`"

KEYS: dict[str, Key] = {
    "image": Key(_image, "image", "text"),
    "build": Key(_build, "build", "a directory, or a table with `parts` or `context`"),
    "command": Key(_words, "command", _TEXT_OR_LIST),
    "entrypoint": Key(_words, "entrypoint", _TEXT_OR_LIST),
    "environment": Key(read_environment, "environment", _MAP_OR_LIST),
    "env_file": Key(read_env_files, "environment", "a path, a list of paths or of `{path, required}`"),
    "ports": Key(_ports, "ports", "`[IP:]PUBLISHED:TARGET[/udp]`, also ranges, or a table"),
    "expose": Key(_expose, "expose", "a list of `80`, `53/udp`, `8000-8010`, or `{name: http, port: 80}`"),
    "volumes": Key(_volumes, "mounts", "`SOURCE:TARGET[:ro]`, or a table"),
    "tmpfs": Key(_tmpfs, "mounts", "`TARGET[:size=64m,mode=1777,ro]`, or a list of them"),
    "depends_on": Key(_depends_on, "depends_on", "a list, or a table with `condition`"),
    "healthcheck": Key(read_healthcheck, "healthcheck", "a table, also `{disable: true}`"),
    "restart": Key(_restart, "restart", '`"no"`, `always`, `on-failure[:N]`, `unless-stopped`'),
    "deploy": Key(
        read_deploy, "replicas", "`replicas`, and `resources.limits` with `memory`, `cpus`, `pids`, `egress`"
    ),
    "mem_limit": Key(read_memory, "limits.memory", "a size, as `512m`"),
    "cpus": Key(read_cpus, "limits.cpus", "a number, as `0.5`"),
    "egress_limit": Key(read_egress, "limits.egress", "bits a second, as `10mbit`"),
    "pids_limit": Key(read_pids, "limits.pids", "a number"),
    "user": Key(_text, "user", "`USER[:GROUP]`"),
    "working_dir": Key(_text, "working_dir", "an absolute path"),
    "read_only": Key(_truth, "read_only", "`true` or `false`"),
    "cap_add": Key(_capabilities, "cap_add", "a list"),
    "cap_drop": Key(_capabilities, "cap_drop", "a list"),
    "labels": Key(_labels, "labels", _MAP_OR_LIST),
    "stop_signal": Key(_stop_signal, "stop_signal", "a name, as `SIGINT`, or a number"),
    "stop_grace_period": Key(_seconds, "stop_grace_period", "a duration, as `1m30s`"),
    "uses": Key(_uses, "uses", "a list of service names, `world`, `host`, or tables"),
    "networks": Key(read_memberships, "networks", "a list of names, or a table of them"),
    "balance": Key(_balance, "balance", "`random`, `maglev`, or a table"),
    "scale": Key(_scale, "scale", "a table"),
    "drain": Key(_seconds, "drain", "a duration, as `30s`"),
    "headless": Key(_truth, "headless", "`true` or `false`"),
    "external_name": Key(_text, "external_name", "a name, as `db.example.com`"),
    "endpoints": Key(_endpoints, "endpoints", "a list of `ADDRESS:PORT`, or of tables"),
    "isolation": Key(_isolation, "isolation", ", ".join(f"`{name}`" for name in _ISOLATIONS)),
}
