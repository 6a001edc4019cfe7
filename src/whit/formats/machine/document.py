"""Machine files: LinuxKit's YAML as it is, read into a MachineSpec. Every mistake is told at once, as InvalidApp.

Owns the top level, the merging of several files, and what is checked across keys. Nothing is looked up: whether an
image is there is found out when the machine is linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from whit.base.errors import InputError, Place
from whit.formats import catalog, shapes
from whit.formats.app.naming import valid_name
from whit.formats.app.unsupported import refuse
from whit.formats.machine.container import read_container
from whit.formats.machine.files import check_volumes, read_file, read_volume
from whit.formats.machine.image import DHCP, read_image, repository, stands_for
from whit.formats.machine.keys import UNSUPPORTED, Key, between, coded, fault, read_keys
from whit.formats.nodes import Entry, Listing, Scalar, Table, Value, parse
from whit.formats.problems import Problems, make, near
from whit.model.machine import ContainerSpec, FileSpec, ImageSource, KernelSpec, MachineSpec, Stage, VolumeSpec

T = TypeVar("T")

KEYS = {
    "kernel": "The kernel and its command line.",
    "init": "Images whose files are laid over the root, one after the other.",
    "onboot": "Containers that run one after the other before the services; the first that fails stops the boot.",
    "onshutdown": "Containers that run one after the other when the machine powers off.",
    "services": "Containers that run as long as the machine does.",
    "files": "Files, directories and links of the root.",
    "volumes": "Directories that containers share by name.",
    "network": "`dhcp`: init asks for an address before anything runs. Not in LinuxKit, which has a container for it.",
    "first_boot": "`nocloud`: a disk labelled cidata has to say more, or nothing is started. Not in LinuxKit.",
    "rest": "A port at which init tells status and logs over HTTP, to whoever reaches it. Not in LinuxKit.",
}
KERNEL_KEYS: dict[str, Key] = {
    "image": Key("image", "`debian`, `debian:backports`, `specialised` or an image", lambda value: value),
    "cmdline": Key("cmdline", "text", shapes.text),
    "binary": Key("binary", "file in the image", shapes.text),
    "tar": Key("tar", "file in the image, or `none`", shapes.text_or_empty),
    "ucode": Key("ucode", "file in the image", shapes.text_or_empty),
    "modules": Key("modules", "list of modules", lambda value: tuple(map(_module, shapes.items(value)))),
}
_DEBIAN = {"debian": "stable", "debian:stable": "stable", "debian:backports": "backports", "specialised": "specialised"}
_CGROUP_V1 = "linuxkit.unified_cgroup_hierarchy=0"
_OWN = {"kernel", "onboot", "onshutdown", "init"}


@dataclass
class _Draft:
    """The lists so far, with the place of each container."""

    directory: Path
    problems: Problems
    kernel: dict[str, Any] = field(default_factory=dict)
    kernel_place: Place | None = None
    network: str = "none"
    first_boot: str = ""
    rest: int = 0
    init: list[ImageSource] = field(default_factory=list)
    stages: dict[Stage, list[tuple[ContainerSpec, Place]]] = field(
        default_factory=lambda: {"onboot": [], "onshutdown": [], "services": []}
    )
    files: list[FileSpec] = field(default_factory=list)
    volumes: list[tuple[VolumeSpec, Place]] = field(default_factory=list)


def load_machine(*paths: Path) -> MachineSpec:
    """The machine of a file. Of several, lists follow one another, and the last that names a key of the kernel wins.

    Raises:
        InputError: there is no such file.
        InvalidApp: its content is wrong; all that is.
    """
    problems = Problems()
    paths = tuple(catalog.resolve(path) for path in paths)
    first = paths[0]
    draft = _Draft(first.parent.resolve(), problems)
    texts = [_text(path) for path in paths]
    for path, text in zip(paths, texts, strict=True):
        draft.directory = path.parent.resolve()
        with problems.guard():
            value = parse(text, str(path), lambda found, _: found, problems)
            _read_top(shapes.table(value), draft)
    kernel = _kernel(draft)
    _check(draft)
    problems.check()
    fields: dict[str, Any] = {
        "name": valid_name(first.stem),
        "directory": first.parent.resolve(),
        "text": "---\n".join(texts),
        "kernel": kernel,
        "network": draft.network,
        "first_boot": draft.first_boot,
        "rest": draft.rest,
        "init": tuple(draft.init),
        "files": tuple(draft.files),
        "volumes": tuple(volume for volume, _ in draft.volumes),
        **{stage: tuple(one for one, _ in found) for stage, found in draft.stages.items()},
    }
    return make(MachineSpec, Place(str(first)), {}, fields)


def is_machine_file(path: Path) -> bool:
    """Whether a YAML file is a machine's, not an app's: its services are a list, or it has what only machines have."""
    path = catalog.resolve(path)
    if not path.is_file() or path.suffix not in (".yml", ".yaml"):
        return False
    try:
        value = parse(_text(path), str(path), lambda found, _: found, Problems())
    except InputError:
        return False
    if not isinstance(value, Table):
        return False
    services = value.entries.get("services")
    return bool(_OWN & value.entries.keys()) or (services is not None and isinstance(services.value, Listing))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fault("unreadable", f"cannot be read: {error}", place=Place(str(path)), hint="name a file") from error


def _read_top(top: Table, draft: _Draft) -> None:
    refuse(top, "", KEYS, draft.problems, UNSUPPORTED)
    entries = top.entries
    if "kernel" in entries:
        with coded("kernel", draft.problems):
            _read_kernel(entries["kernel"], draft)
    _read_own(entries, draft)
    stages: tuple[Stage, ...] = ("onboot", "onshutdown", "services")
    for item in _items(entries.get("init"), draft):
        with coded("init", draft.problems):
            if not (isinstance(item, Scalar) and stands_for(item.text, item.place)):
                draft.init.append(read_image(item, draft.directory))
    for stage in stages:
        for item in _items(entries.get(stage), draft):
            with draft.problems.guard():
                _add_container(item, stage, draft)
    _each(
        entries.get("volumes"),
        draft,
        lambda item: draft.volumes.append((read_volume(item, draft.directory), item.place)),
    )
    _each(entries.get("files"), draft, lambda item: draft.files.append(read_file(item, draft.directory)))


def _read_own(entries: Mapping[str, Entry], draft: _Draft) -> None:
    """What our init does beside LinuxKit's keys."""
    readers: dict[str, Callable[[Value], Any]] = {
        "network": lambda value: shapes.one_of(value, ("none", "dhcp")),
        "first_boot": lambda value: shapes.one_of(value, ("nocloud",)),
        "rest": between(1, 65535),
    }
    for name in readers.keys() & entries.keys():
        with coded(name, draft.problems):
            setattr(draft, name, readers[name](entries[name].value))


def _add_container(item: Value, stage: Stage, draft: _Draft) -> None:
    image = item.entries.get("image") if isinstance(item, Table) else None
    if image and isinstance(image.value, Scalar) and stands_for(shapes.text(image.value), image.value.place):
        draft.network = "dhcp" if repository(image.value.text) == DHCP else draft.network
        return
    draft.stages[stage].append((read_container(item, stage, draft.directory, draft.problems), item.place))


def _items(entry: Entry | None, draft: _Draft) -> Sequence[Value]:
    found: Sequence[Value] = ()
    if entry is not None:
        with coded(entry.key, draft.problems):
            found = shapes.items(entry.value)
    return found


def _each(entry: Entry | None, draft: _Draft, read: Callable[[Value], None]) -> None:
    for item in _items(entry, draft):
        with draft.problems.guard():
            read(item)


# ---- kernel ----


def _read_kernel(entry: Entry, draft: _Draft) -> None:
    table = shapes.table(entry.value)
    fields, places = read_keys(table, "kernel", KERNEL_KEYS, draft.problems)
    if _CGROUP_V1 in fields.get("cmdline", "").split():
        hint = "leave it out: a machine has cgroup v2 only"
        raise fault("cgroup-v1", f"{_CGROUP_V1} is not honoured", place=places["cmdline"], hint=hint)
    if image := fields.pop("image", None):
        fields |= _kernel_image(image, draft.directory)
    draft.kernel |= fields
    draft.kernel_place = entry.place


def _module(value: Value) -> str:
    found = shapes.text(value)
    if not re.fullmatch("[A-Za-z0-9_-]+", found):
        raise InputError(f"{found!r} is no module's name", place=value.place, hint="as wireguard")
    return found


def _kernel_image(value: Value, directory: Path) -> dict[str, Any]:
    text = shapes.text(value)
    if text in _DEBIAN:
        return {"debian": _DEBIAN[text], "image": None}
    if repository(text) == "linuxkit/kernel":
        from whit.formats.machine.image import log

        log.warning("%s: %s is not linked: Debian's cloud kernel stands for it", value.place, text)
        return {"debian": "backports", "image": None}
    return {"debian": "", "image": read_image(value, directory)}


def _kernel(draft: _Draft) -> KernelSpec | None:
    fields, place = draft.kernel, draft.kernel_place
    if place is None:
        return None
    with draft.problems.guard():
        _check_kernel(fields, place)
    return make(KernelSpec, place, {}, fields)


def _check_kernel(fields: dict[str, Any], place: Place) -> None:
    if not fields.get("debian") and not fields.get("image"):
        raise fault("no-kernel-image", "has no image", place=place, hint="add image: debian")
    if fields.get("debian") and (given := {"binary", "tar", "ucode"} & fields.keys()):
        hint = "leave it out, or name an image that holds it"
        raise fault("kernel-part", f"Debian's kernel has no {sorted(given)[0]} to choose", place=place, hint=hint)


# ---- what is checked across keys ----


def _check(draft: _Draft) -> None:
    services = draft.stages["services"]
    names = [service.name for service, _ in services]
    for number, (service, place) in enumerate(services):
        with draft.problems.guard():
            if service.name in names[:number]:
                raise fault(
                    "service-twice",
                    f"the service {service.name} is there twice",
                    place=place,
                    hint="name one otherwise",
                )
            _check_order(service, names[:number], names, place)
    for number, (volume, place) in enumerate(draft.volumes):
        with draft.problems.guard():
            if volume.name in [other.name for other, _ in draft.volumes[:number]]:
                raise fault(
                    "volume-twice", f"the volume {volume.name} is there twice", place=place, hint="name one otherwise"
                )
    everything = [one for found in draft.stages.values() for one in found]
    check_volumes([volume for volume, _ in draft.volumes], everything, draft.problems)
    for container, place in everything:
        with draft.problems.guard():
            _check_owners(container, [other.name for other, _ in everything], place)


def _check_order(service: ContainerSpec, before: Sequence[str], names: Sequence[str], place: Place) -> None:
    for other in service.after:
        if other not in names:
            raise fault("after-unknown", f"there is no service {other}", place=place, hint=near(other, names))
        if other not in before:
            hint = "write it further down: services start in the order of the file"
            raise fault("after-later", f"{other} comes after {service.name}", place=place, hint=hint)


def _check_owners(container: ContainerSpec, known: Sequence[str], place: Place) -> None:
    for owner in (container.uid, container.gid, *(container.additional_gids or ())):
        if isinstance(owner, str) and owner not in known:
            hint = near(owner, known)
            raise fault("no-such-owner", f"{owner!r} is no container whose user could be meant", place=place, hint=hint)
