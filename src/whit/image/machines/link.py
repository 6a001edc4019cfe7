"""Links a machine: one tree from its parts, laid out as LinuxKit does.

/init                                   our init (init/supervisor/)
/usr/bin/crun, its libraries            runs every container
/modules, /lib/modules/…                drivers, in the order of loading
/containers/plan                        what there is, in order
/containers/onboot/000-NAME/            config.json, runtime, and rootfs, or lower if it may be written to
/containers/services/NAME/, onshutdown/000-NAME/
/containers/volumes/NAME/lower          what is in it at first; seen at `merged`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.image.forms.bootable import Bootable, file
from whit.image.machines import bill, files, oci_config, records
from whit.image.machines.parts import Kernel, Parts, key_of
from whit.image.oci import manifest
from whit.image.provenance.bill import Bill
from whit.image.rootfs.tree import MERGED_USR, Entry, Tree
from whit.model.machine import ContainerSpec, MachineSpec, Stage, VolumeSpec

CONTAINERS = "containers"
RESOLVER = "etc/resolv.conf"
"""Written by init with what DHCP says; there for containers that bind it."""
_STAGES: tuple[Stage, ...] = ("onboot", "services", "onshutdown")
_INTERFACE = "eth0"
_CONSOLES = ("console=ttyS0", "console=ttyAMA0")
"""Of amd64's board, and of arm64's."""
_DIRECTORIES = ("dev", "proc", "run", "sys", "tmp", "var", "usr/lib/modules")
"""The last is bound by containers that would load modules; init has loaded those that the file asks for."""


@dataclass(frozen=True)
class LinkedMachine:
    """All that a form needs: the root's files, kernel, its command line, and our init (init/supervisor/)."""

    name: str
    tree: Tree
    kernel: Kernel
    cmdline: str
    supervisor: Path
    bill: Bill
    architecture: str = ""
    """Empty for this machine's own."""

    def bootable(self) -> Bootable:
        """What every form is made of. Where there is a disk, /var outlives the power."""
        return Bootable(
            name=self.name,
            architecture=self.architecture or manifest.architecture(),
            kernel=file(self.kernel.linux.image),
            init=Entry("init", mode=0o755, content=self.supervisor.read_bytes()),
            append=self.cmdline,
            root=tuple(self.tree),
            system=("keep=/var=var",),
            process=(),
            kept=("/var",),
            drivers=self.kernel.drivers,
            microcode=self.kernel.microcode,
        )

    def summary(self) -> list[tuple[str, int, int]]:
        """What brought how many files of how many bytes, the largest first."""
        sums: dict[str, tuple[int, int]] = {}
        for entry in self.tree:
            if entry.kind == "file":
                files, size = sums.get(entry.origin, (0, 0))
                sums[entry.origin] = files + 1, size + entry.size
        rows = [(origin or "every machine", files, size) for origin, (files, size) in sums.items()]
        return sorted(rows, key=lambda row: (-row[2], row[0]))


def link(spec: MachineSpec, parts: Parts) -> LinkedMachine:
    """The tree of a machine. Its containers are merged with what their images say.

    Raises:
        InputError: it contradicts itself.
    """
    ids = ids_of(spec)
    tree = Tree(MERGED_USR)
    for entry in _system(spec, parts):
        tree.add(entry)
    for volume in spec.volumes:
        _add_all(tree, (replace(entry, origin=f"volume {volume.name}") for entry in _volume(volume, parts)))
    for stage in _STAGES:
        for directory, container in directories(spec, stage):
            added = _container(container, stage, directory, parts, ids)
            _add_all(tree, (replace(entry, origin=f"{stage} {container.name}") for entry in added))
    tree.add(Entry(f"{CONTAINERS}/plan", content=records.encoded(_plan(spec))))
    files.add(tree, spec.files, spec.text, ids)
    assert spec.kernel is not None
    made_of = bill.of_machine(spec, tree, parts)
    cmdline = cmdline_for(spec.kernel.cmdline, spec.architecture or manifest.architecture())
    return LinkedMachine(spec.name, tree, parts.kernel, cmdline, parts.supervisor, made_of, spec.architecture)


def cmdline_for(text: str, architecture: str) -> str:
    """As it is, but that a file for amd64 names a console that boards of arm64 do not have."""
    word, other = _CONSOLES
    return " ".join(other if one == word else one for one in text.split(" ")) if architecture == "arm64" else text


def ids_of(spec: MachineSpec) -> dict[str, int]:
    """User and group of each container, for those that name it. LinuxKit counts them in this order, from 100."""
    names = [container.name for container in (*spec.onboot, *spec.onshutdown, *spec.services)]
    return {name: oci_config.FIRST_ID + number for number, name in enumerate(names)}


def directories(spec: MachineSpec, stage: Stage) -> Iterator[tuple[str, ContainerSpec]]:
    """`000-name` of what runs in order, the name of a service."""
    for number, container in enumerate(spec.stage(stage)):
        yield container.name if stage == "services" else f"{number:03}-{container.name}", container


def _system(spec: MachineSpec, parts: Parts) -> Iterator[Entry]:
    """The root without containers. What init needs to run is there whatever the images of `init` bring."""
    for path, target in MERGED_USR.items():
        yield Entry(path, "symlink", 0o777, target=target)
    for name in _DIRECTORIES:
        yield Entry(name, "directory", 0o755)
    yield from parts.kernel.tree
    yield from parts.runtime.entries
    for source in spec.init:
        for entry in parts.image(source).entries:
            yield replace(entry, origin=f"init {source.title}")
    yield from (replace(entry, origin="crun") for entry in parts.runtime.entries if entry.kind != "directory")
    yield Entry(RESOLVER, origin="network")


def _volume(volume: VolumeSpec, parts: Parts) -> Iterator[Entry]:
    place = f"{CONTAINERS}/volumes/{volume.name}"
    for name in ("lower", "merged"):
        yield Entry(f"{place}/{name}", "directory", 0o755)
    if volume.source is not None:
        whole = volume.format == "oci"
        entries = parts.layouts[key_of(volume.source)] if whole else parts.image(volume.source).entries
        yield from _below(f"{place}/lower", entries)


def _container(
    spec: ContainerSpec, stage: Stage, directory: str, parts: Parts, ids: Mapping[str, int]
) -> Iterator[Entry]:
    place = f"{CONTAINERS}/{stage}/{directory}"
    root = parts.image(spec.source)
    document = oci_config.configuration(spec, stage, root, ids)
    uid, _ = oci_config.owner(spec, root, ids)
    yield Entry(f"{place}/rootfs", "directory", 0o755)
    lower = "rootfs" if spec.readonly else "lower"
    yield Entry(f"{place}/{lower}", "directory", 0o755)
    yield from _below(f"{place}/{lower}", root.entries)
    # A read-only root has nowhere to mount what every container gets.
    for name in ("dev", "proc", "sys", "etc", "run", "tmp"):
        yield Entry(f"{place}/{lower}/{name}", "directory", 0o1777 if name == "tmp" else 0o755)
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False)
    yield Entry(f"{place}/config.json", content=text.encode())
    yield Entry(f"{place}/runtime", content=records.runtime(spec, stage, uid, f"/{place}"))


def _below(place: str, entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries of an image at a place; the same file of the same image is stored once, as a hard link."""
    for entry in entries:
        yield replace(entry, path=f"{place}/{entry.path}")


def _plan(spec: MachineSpec) -> Iterator[tuple[str, str]]:
    if spec.network == "dhcp":
        yield "dhcp", _INTERFACE
    if spec.first_boot:
        yield spec.first_boot, "1"
    if spec.rest:
        yield "rest", str(spec.rest)
    for volume in spec.volumes:
        yield "volume", f"{volume.name}={'1' if volume.readonly else ''}"
    keys = {"onboot": "onboot", "services": "service", "onshutdown": "onshutdown"}
    for stage in _STAGES:
        for directory, _ in directories(spec, stage):
            yield keys[stage], directory


def _add_all(tree: Tree, entries: Iterator[Entry]) -> None:
    """Without what is there, of directories: the image's mode wins over the usual one."""
    for entry in entries:
        if entry.kind != "directory" or entry.path not in tree:
            tree.add(entry)


def no_kernel(spec: MachineSpec) -> InputError:
    """A machine without a kernel is a description that cannot boot."""
    hint = "add kernel: {image: debian}"
    return InputError("has no kernel", place=Place(spec.name), hint=hint, code="machine-no-kernel")
