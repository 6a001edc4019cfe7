"""The bill of a machine: the bills of its images, each below the place where the machine has it, and what is its own.

Packages and parts are of one image each: two containers may have two versions of a package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from whit.image.machines.parts import Kernel, Parts, Root
from whit.image.provenance.bill import Bill, BilledFile, BilledPackage, BilledPart
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import kernel as debian
from whit.image.sources import specialised
from whit.model.machine import ImageSource, MachineSpec, Stage

MACHINE = "machine"
KERNEL = "kernel"
_OURS = {
    MACHINE: "every machine has it",
    KERNEL: "kernel",
    "files": "files",
    "network": "network",
}


@dataclass(frozen=True)
class Section:
    """What one image gave to a machine. `id` is the origin of its files, which lie below `place`."""

    id: str
    place: str
    reason: str
    root: Root

    @property
    def bill(self) -> Bill:
        """Nobody knows what an image is made of that was not built here."""
        return self.root.bill or Bill(())

    def inside(self, name: str) -> str:
        return f"{self.id}/{name}" if name else ""


def of_machine(spec: MachineSpec, tree: Tree, parts: Parts) -> Bill:
    """`tree` is the whole of it, each entry with what brought it as its origin."""
    sections = tuple(_sections(spec, tree, parts))
    files = tuple(_files(tree, sections))
    ours = [BilledPart(name, "machine", reason) for name, reason in _OURS.items()]
    heads = [BilledPart(one.id, "image", one.reason) for one in sections]
    inner = [part for one in sections for part in _parts(one)]
    return Bill((*ours, *heads, *inner), (*_kernel(parts.kernel), *_packages(sections)), files)


def _sections(spec: MachineSpec, tree: Tree, parts: Parts) -> Iterator[Section]:
    yield Section("crun", "", "runs every container", parts.runtime)
    for source in spec.init:
        yield Section(f"init {source.title}", "", _named("init", source), parts.image(source))
    for volume in spec.volumes:
        if volume.source is not None and volume.format != "oci":
            place = f"containers/volumes/{volume.name}/lower/"
            yield Section(f"volume {volume.name}", place, _named("volumes", volume.source), parts.image(volume.source))
    stages: tuple[Stage, ...] = ("onboot", "services", "onshutdown")
    for stage in stages:
        for number, one in enumerate(spec.stage(stage)):
            directory = one.name if stage == "services" else f"{number:03}-{one.name}"
            place = f"containers/{stage}/{directory}"
            lower = "lower" if f"{place}/lower" in tree else "rootfs"
            yield Section(
                f"{stage} {one.name}", f"{place}/{lower}/", _named(stage, one.source), parts.image(one.source)
            )


def _named(key: str, source: ImageSource) -> str:
    return f"{key} ({source.place})" if source.place else key


def _files(tree: Tree, sections: tuple[Section, ...]) -> Iterator[BilledFile]:
    known = {one.id: (one, {file.path: file for file in one.bill.files}) for one in sections}
    for entry in tree:
        size = entry.size if entry.kind == "file" else 0
        if entry.origin not in known:
            part = entry.origin or MACHINE
            yield BilledFile(entry.path, entry.kind, size, part, reason=_OURS.get(part, part))
            continue
        section, files = known[entry.origin]
        yield _file(entry, size, section, files.get(entry.path.removeprefix(section.place)))


def _file(entry: Entry, size: int, section: Section, found: BilledFile | None) -> BilledFile:
    if found is None or not entry.path.startswith(section.place):
        reason = f"made for {section.id}" if section.root.bill else f"in the image {section.root.name}"
        return BilledFile(entry.path, entry.kind, size, section.id, reason=reason)
    part, package = section.inside(found.part) or section.id, section.inside(found.package)
    via = f"{section.place}{found.via}" if found.via else ""
    return BilledFile(entry.path, entry.kind, size, part, package, found.reason, via)


def _parts(section: Section) -> Iterator[BilledPart]:
    for part in section.bill.parts:
        needs = tuple((need, section.inside(by)) for need, by in part.needs)
        yield replace(part, id=section.inside(part.id), needs=needs, inside=section.id)


def _packages(sections: tuple[Section, ...]) -> Iterator[BilledPackage]:
    for section in sections:
        for one in section.bill.packages:
            needs = tuple(map(section.inside, one.package.needs))
            package = replace(one.package, needs=needs, inside=section.id)
            yield BilledPackage(package, section.inside(one.part), section.inside(one.via))


def _kernel(kernel: Kernel) -> Iterator[BilledPackage]:
    if package := debian.package_of(kernel.linux) or specialised.source_of(kernel.linux):
        yield BilledPackage(package, KERNEL)
