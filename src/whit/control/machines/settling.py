"""Settles a machine: its images are built or found, its kernel obtained, what images say of themselves merged, and all
of it linked into one tree. Whatever is written from the tree is an image form's business."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, NotFound, NotLocked, Place
from whit.control.images import How
from whit.control.machines import appliances
from whit.control.machines.guests import KERNELS
from whit.formats.machine.container import LABEL, read_label
from whit.image.machines import kernels, link
from whit.image.machines.link import LinkedMachine
from whit.image.machines.parts import Kernel, Parts, Root, key_of
from whit.image.rootfs.tree import Entry
from whit.image.sources.calls import Seen
from whit.image.store import export
from whit.image.store.export import Exported
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DebianPart, RunSpec
from whit.model.lock import Lock, Locked
from whit.model.machine import ContainerSpec, ImageSource, MachineSpec, Stage
from whit.model.progress import Progress, Report
from whit.runtime import programs

_CRUN = "/usr/bin/crun"
RUNTIME = BuildSpec(
    parts=(DebianPart(name="crun", link="closure"),),
    check=(CheckSpec(run=(_CRUN, "--version")),),
)
"""What runs a machine's containers, with the libraries that it reaches and nothing else."""
_LOADERS = {"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}
_RUNTIME_NAME = "whit-machine-runtime"


async def settle_machine(
    spec: MachineSpec, store: ImageStore, report: Report, scratch: Path, how: How | None = None
) -> LinkedMachine:
    """The linked machine. Contents of images that others packed lie in `scratch`, which has to outlive the result.

    Raises:
        InputError: it has no kernel, an image is not there, or a container contradicts itself.
        WhitError: a build or a download failed.
    """
    if spec.kernel is None:
        raise link.no_kernel(spec)
    how = how or How()
    found = await images(spec, store, report, how)
    runtime = await store.build(_named(_RUNTIME_NAME, spec), _runtime(spec), report, lock=how.lock, fetch=how.fetch)
    roots = {key: await asyncio.to_thread(_root, store, name, scratch) for key, name in found.items()}
    merged = await asyncio.to_thread(_merged, spec, store, found)
    seen = await asyncio.to_thread(calls_of, spec, store, found)
    kernel = await _kernel(
        merged, roots, seen, scratch, how, lambda step: report(Progress(subject=spec.name, step=step))
    )
    system = await asyncio.to_thread(_root, store, runtime.name, scratch)
    layouts = await asyncio.to_thread(_layouts, merged, store, found)
    parts = Parts(kernel, _supervisor(spec), system, roots, layouts)
    linked = await asyncio.to_thread(link.link, merged, parts)
    report(Progress(subject=spec.name, step=f"linked {sum(1 for _ in linked.tree)} files", done=True))
    return linked


def _runtime(spec: MachineSpec) -> BuildSpec:
    """crun starts itself again out of memory, as QEMU's user mode cannot: of a foreign one its libraries are found."""
    if not spec.architecture:
        return RUNTIME
    listed = CheckSpec(run=(_LOADERS[spec.architecture], "--list", _CRUN), contains="libseccomp.so.2 => /")
    update = {"architecture": spec.architecture, "check": (listed,), "run": RunSpec(commands=((_CRUN,),))}
    return RUNTIME.model_copy(update=update)


def _named(name: str, spec: MachineSpec) -> str:
    """What is built for another architecture does not take the place of this one's."""
    return "-".join(part for part in (name, spec.architecture) if part)


def _supervisor(spec: MachineSpec) -> Path:
    return programs.path("supervisor", machine=appliances.MACHINES.get(spec.architecture, ""))


async def write(
    spec: MachineSpec,
    store: ImageStore,
    report: Report,
    target: str,
    output: Path,
    how: How | None = None,
    hear: Callable[[LinkedMachine], None] = lambda _: None,
) -> Exported:
    """Write the machine to `output` in a form of appliances.TARGETS. `hear` gets it before it takes the form.

    Raises:
        InputError: as settle_machine, or machines have no such form.
        Conflict: something else is there.
    """
    if target not in appliances.TARGETS:
        hint = f"known of machines: {', '.join(appliances.TARGETS)}"
        raise InputError(f"a machine does not take the form {target}", hint=hint, code="no-such-form")
    parent = output.absolute().parent
    if not parent.is_dir():
        hint = "make it, or choose another --output"
        raise InputError(f"there is no directory {parent}", hint=hint, code="output-no-place")
    with appliances.told(output), tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as scratch:
        linked = await settle_machine(spec, store, report, Path(scratch), how)
        hear(linked)
        machine = await asyncio.to_thread(linked.bootable)
        return await appliances.write_form(target, machine, linked.kernel.linux, Path(scratch), output)


def sources(spec: MachineSpec) -> Iterator[tuple[str, ImageSource]]:
    """Every image that the machine needs, with what it is for."""
    if spec.kernel and spec.kernel.image:
        yield "kernel", spec.kernel.image
    for number, source in enumerate(spec.init):
        yield f"init-{number}", source
    for container in spec.containers:
        yield container.name, container.source
    for volume in spec.volumes:
        if volume.source:
            yield volume.name, volume.source


async def images(spec: MachineSpec, store: ImageStore, report: Report, how: How) -> dict[str, str]:
    """The name in the store of each image, by its key. One after the other: builds share what they fetch."""
    found: dict[str, str] = {}
    names = built(spec)
    for _, source in sources(spec):
        if key_of(source) not in found:
            wanted = replace(how, observe=how.observe and _observed(spec, source))
            found[key_of(source)] = await _settle(names.get(key_of(source), ""), source, store, report, wanted)
    return found


def built(spec: MachineSpec) -> dict[str, str]:
    """How the images that are built for it are called in the store, by their keys. What is named alike is numbered."""
    found: dict[str, str] = {}
    for name, source in sources(spec):
        if source.build is not None and key_of(source) not in found:
            first = _named(f"{spec.name}-{name}".lower(), spec)
            numbered = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
            found[key_of(source)] = next(one for one in numbered if one not in found.values())
    return found


def _observed(spec: MachineSpec, source: ImageSource) -> bool:
    """The run of its checks decides what is in the image, or in the kernel."""
    asked = spec.kernel is not None and spec.kernel.debian == "specialised"
    return source.build is not None and bool(source.build.check) and (source.build.closed or asked)


async def _settle(name: str, source: ImageSource, store: ImageStore, report: Report, how: How) -> str:
    if source.build is not None:
        options: dict[str, Any] = {"refresh": how.refresh, "lock": how.lock, "fetch": how.fetch}
        image = await store.build(name, source.build, report, **options, observe=how.observe)
        return image.name
    try:
        return (await store.obtain(source.reference, report, fetch=False)).name
    except (NotFound, NotLocked) as error:
        hint = "whit image ls shows what is; name it oci:PATH, or say with build: what it is linked from"
        text = f"the image {source.reference} is not here"
        raise InputError(text, place=Place(source.place), hint=hint, code="machine-no-such-image") from error


def calls_of(spec: MachineSpec, store: ImageStore, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The system calls that each container was seen to make, in an observed run now or in what is locked."""
    stages: Mapping[Stage, str] = {"onboot": "onboot", "services": "service", "onshutdown": "onshutdown"}
    return {
        f"{title} {container.name}": store.bill(names[key_of(container.source)]).calls
        for stage, title in stages.items()
        for container in spec.stage(stage)
        if container.source.build is not None
    }


def _root(store: ImageStore, name: str, scratch: Path) -> Root:
    image = store.image(name)
    try:
        bill = store.bill(name)
    except NotFound:
        bill = None
    return Root(name, image.digest, tuple(store.files(name, scratch)), image.config, bill)


def _layouts(spec: MachineSpec, store: ImageStore, names: dict[str, str]) -> dict[str, tuple[Entry, ...]]:
    """The OCI layouts of the images that volumes hold as such."""
    found = {}
    for volume in spec.volumes:
        if volume.source is not None and volume.format == "oci":
            key = key_of(volume.source)
            descriptor = store.layout.find(names[key])
            assert descriptor is not None
            found[key] = tuple(export.archive(store.layout, names[key], descriptor))
    return found


def _merged(spec: MachineSpec, store: ImageStore, names: dict[str, str]) -> MachineSpec:
    """The machine with what its images say of themselves. Raises InputError."""

    def merge(container: ContainerSpec) -> ContainerSpec:
        name = names[key_of(container.source)]
        label = store.labels(name).get(LABEL)
        return container.merged(read_label(label, name)) if label else container.settled()

    stages: tuple[Stage, ...] = ("onboot", "onshutdown", "services")
    return spec.model_copy(update={stage: tuple(map(merge, spec.stage(stage))) for stage in stages})


async def _kernel(
    spec: MachineSpec, roots: dict[str, Root], seen: Seen, scratch: Path, how: How, say: Callable[[str], None]
) -> Kernel:
    assert spec.kernel is not None
    names = kernels.needed(spec)
    if spec.kernel.image is not None:
        return await kernels.of_image(spec.kernel, roots[key_of(spec.kernel.image)], names, scratch)
    options: dict[str, Any] = {"refresh": how.refresh, "lock": how.lock, "fetch": how.fetch}
    options["architecture"] = spec.architecture
    return await kernels.of_debian(KERNELS, spec.kernel, names, say, seen=seen, **options)


def locked(spec: MachineSpec, store: ImageStore, linked: LinkedMachine, used: Lock | None) -> Lock:
    """What the machine was made of, by the lock that was `used`: its images, what runs them, and the kernel.

    With what was seen of its images in an observed run.
    """
    entries: dict[str, Locked] = {}
    for build_spec in (_runtime(spec), *(source.build for _, source in sources(spec) if source.build)):
        entries |= store.locked(build_spec, used).entries
    for name in built(spec).values():
        entries |= store.observed(name).entries
    if spec.kernel is not None:
        entries |= kernels.locked(spec.kernel, linked.kernel).entries
    return Lock(entries)
