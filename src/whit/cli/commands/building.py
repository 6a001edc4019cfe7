"""whit build: links the images of an app, in this process, and tells what is in them and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from whit.base.errors import InputError, NotLocked
from whit.cli.commands import bills
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.image.store.export import Exported, Target
    from whit.image.store.images import ImageStore
    from whit.model.app import AppSpec
    from whit.model.image import Image
    from whit.model.lock import Lock
    from whit.model.progress import Report
    from whit.model.service import ServiceSpec

TARGETS = ("oci", "oci-archive", "rootfs", "microvm", "microvm-archive", "disk", "disk-qcow2", "iso")
DEFAULT_TARGET = "oci-archive"


_Path = Annotated[Path, typer.Argument(metavar="PATH", help="App or machine file, a directory with one, or a project.")]
_Services = Annotated[
    list[str] | None, typer.Option("--service", "-s", metavar="SERVICE", help="Only this service; may be repeated.")
]
_Refresh = Annotated[bool, typer.Option("--refresh", help="Build anew, also where nothing changed.")]
_Lock = Annotated[bool, typer.Option("--lock", help="Look everything up anew, and write what it was to whit.lock.")]
_Locked = Annotated[bool, typer.Option("--locked", help="Fetch nothing: take what whit.lock says, from what is here.")]
_Observe = Annotated[
    bool, typer.Option("--observe", help="Keep in closures what the checks open too, and in whit.lock. Needs root.")
]
_Explain = Annotated[
    str | None, typer.Option("--explain", metavar="[FILE]", help="Say why a file is in the image, or each part.")
]
_Graph = Annotated[
    Path | None, typer.Option("--graph", metavar="FILE", help="Draw needs to parts, as .dot or .svg; - is DOT.")
]
_Sbom = Annotated[
    Path | None, typer.Option("--sbom", metavar="FILE", help="Write what it is made of, as CycloneDX; - prints it.")
]
_Target = Annotated[str, typer.Option("--target", metavar="FORM", help=f"With --output: {', '.join(TARGETS)}.")]
_Arch = Annotated[str, typer.Option("--arch", metavar="ARCH", help="amd64 or arm64; this machine's if left out.")]
_FastBoot = Annotated[bool, typer.Option("--fast-boot", help="Let the kernel skip its self-tests and signature keys.")]
_Small = Annotated[
    bool, typer.Option("--small", help="Compress what a machine boots from better, in ten times as long.")
]
_Kernel = Annotated[
    str, typer.Option("--kernel", metavar="KERNEL", help="debian, or specialised: built for the image, once.")
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="PATH", help="Write the image of the one service there.")
]


def add(app: typer.Typer) -> None:
    command(app)(build)


def with_defaults(given: Sequence[str]) -> list[str]:
    """The command line with the value that `--explain` has where none is given: the parser knows no such options."""
    words = list(given)
    if "build" in words and "--explain" in words:
        index = words.index("--explain")
        if index + 1 == len(words) or words[index + 1].startswith("-"):
            words[index] = f"--explain={bills.EVERYTHING}"
    return words


def build(
    run: Invocation,
    path: _Path = Path(),
    service: _Services = None,
    refresh: _Refresh = False,
    lock: _Lock = False,
    locked: _Locked = False,
    observe: _Observe = False,
    explain: _Explain = None,
    graph: _Graph = None,
    sbom: _Sbom = None,
    target: _Target = DEFAULT_TARGET,
    arch: _Arch = "",
    fast_boot: _FastBoot = False,
    small: _Small = False,
    kernel: _Kernel = "",
    output: _Output = None,
) -> None:
    """Link the images of an app and start nothing.

    Needs no agent, no root and no container engine.

    \b
    Example:
      whit build examples/shop
      whit build examples/shop --service web --explain /usr/sbin/nginx
      whit build examples/shop --service web --graph web.svg
      whit build examples/shop --lock && whit build examples/shop --locked
      whit build examples/shop --service web --target rootfs -o web.tar
      whit build examples/hello --target microvm --arch arm64 -o hello
      whit build examples/machine/minimal.yml -o minimal
    """
    from whit.cli.commands import machines

    questions = bills.Questions(explain, graph, sbom)
    manner = Manner(refresh, lock, locked, observe, fast_boot, small)
    _refuse_lock_in_catalogue(path, manner)
    about_machines = {"arch": arch, "kernel": kernel, "fast-boot": fast_boot, "small": small}
    if machines.is_machine(path):
        machines.refuse(service=service, **{name: one for name, one in about_machines.items() if name != "arch"})
        chosen_form = None if target == DEFAULT_TARGET else target
        _build_machine(run, path, chosen_form, output, manner, questions, foreign(arch))
        return
    form = chosen_target(target)
    _refuse_contradictions(form, about_machines, manner)
    spec = chosen(path, service or [])
    _refuse_several(spec, bool(questions) or output is not None)
    spec = for_machines(spec, arch, kernel)
    _build_app(run, spec, form, output, manner, questions, whole=not service)


@dataclass(frozen=True)
class Manner:
    """How it is built, as the options say."""

    refresh: bool
    lock: bool
    locked: bool
    observe: bool
    fast_boot: bool
    small: bool


def _build_machine(
    run: Invocation,
    path: Path,
    form: str | None,
    output: Path | None,
    manner: Manner,
    questions: bills.Questions,
    architecture: str,
) -> None:
    from whit.cli.commands import machines

    _refuse_lock_and_locked(manner)
    options = {"refresh": manner.refresh, "lock": manner.lock, "locked": manner.locked, "observe": manner.observe}
    machine, made_of = machines.build(
        run, path, form, output, **options, asked=bool(questions), architecture=architecture
    )
    bills.answer(run, machine, made_of, questions, kind="operating-system")


def _build_app(
    run: Invocation,
    spec: AppSpec,
    form: str,
    output: Path | None,
    manner: Manner,
    questions: bills.Questions,
    *,
    whole: bool,
) -> None:
    """`whole`: all services of the app are meant, so that a lock of others is of no use any more."""
    from whit.cli import local
    from whit.cli.display import progress
    from whit.control.machines import appliances

    store = local.store(run.settings)

    async def work(report: Report) -> dict[str, Any]:
        images = await _linked(spec, store, report, manner, whole=whole)
        kept = {"name", "digest", "size", "cached"}
        result: dict[str, Any] = {"images": {name: one.model_dump(include=kept) for name, one in images.items()}}
        if output is not None:
            name, image = next(iter(images.items()))
            options = {"fast": manner.fast_boot, "small": manner.small}
            exported = await write(store, form, name, spec.services[name], image, output, report, **options)
            result["exported"] = {"path": str(exported.path), "digest": exported.digest, "size": exported.size}
        return result

    items = local.stream(work)
    if not questions:
        _print_images(run, progress.follow(items, run.output))
        return
    image = next(iter(progress.last(items)["images"].values()))
    bill = store.bill(image["name"])
    if form in appliances.TARGETS:
        bill = appliances.bill_of(bill, next(iter(spec.services.values())))
    kind = "operating-system" if form in appliances.TARGETS else "container"
    bills.answer(run, image["name"], bill, questions, digest=image["digest"], kind=kind)


async def _linked(spec: AppSpec, store: ImageStore, report: Report, manner: Manner, *, whole: bool) -> dict[str, Image]:
    """The images of the app's services. Writes the lock if that is wanted. Raises NotLocked."""
    import asyncio

    from whit.control.images import How, settle_images
    from whit.model.lock import FILE, read

    known = None if manner.lock else await asyncio.to_thread(read, spec.directory)
    if manner.locked and known is None:
        raise NotLocked(f"there is no {FILE} in {spec.directory}", hint="make it with: whit build --lock")
    how = How(refresh=manner.refresh or manner.lock, lock=known, fetch=not manner.locked, observe=manner.observe)
    images = await settle_images(spec, store, report, how)
    if manner.lock or manner.observe:
        await asyncio.to_thread(_write_lock, spec, store, images, known, manner.lock and whole)
    return images


def _refuse_contradictions(form: str, about_machines: Mapping[str, object], manner: Manner) -> None:
    """Raises InputError for options of an app that exclude one another, or that the form has no use for."""
    _refuse_lock_and_locked(manner)
    if form in ("oci", DEFAULT_TARGET, "rootfs"):
        for name, value in about_machines.items():
            if value and name != "arch":
                raise InputError(f"--{name} is about machines", hint="add --target microvm, disk or iso")


def _refuse_lock_in_catalogue(path: Path, manner: Manner) -> None:
    from whit.formats.catalog import is_named

    if (manner.lock or manner.observe) and is_named(str(path)):
        hint = "write an app file that extends it, or copy the machine file; whit.lock stands beside that"
        raise InputError("the catalogue is part of Whit: nothing is written there", hint=hint)


def _refuse_lock_and_locked(manner: Manner) -> None:
    if manner.lock and manner.locked:
        raise InputError(
            "--lock fetches, and --locked fetches nothing", hint="give one of them", code="lock-and-locked"
        )


def chosen(path: Path, services: Sequence[str]) -> AppSpec:
    """The app with these services only. A directory without an app file is an app of one service. Raises InputError."""
    from whit.formats.app.appfile import find_app_file, load_app, project_app

    spec = project_app(path) if path.is_dir() and not find_app_file(path) else load_app(path)
    for name in services:
        if name not in spec.services:
            raise InputError(
                f"{spec.name} has no service {name}",
                hint=f"it has: {', '.join(sorted(spec.services))}",
                code="no-such-service",
            )
    wanted = {name: one for name, one in spec.services.items() if not services or name in services}
    return spec.model_copy(update={"services": {name: one for name, one in wanted.items() if one.build or services}})


def foreign(architecture: str) -> str:
    """The same, or nothing if it is this machine's. Raises InputError: nothing is built for it."""
    from whit.image.oci import manifest

    if architecture not in ("", "amd64", "arm64"):
        raise InputError(
            f"{architecture!r} is no architecture that is built for", hint="amd64 or arm64", code="no-such-architecture"
        )
    return "" if architecture == manifest.architecture() else architecture


def for_machines(spec: AppSpec, architecture: str, kernel: str = "") -> AppSpec:
    """The app, built for machines of an architecture, with a kernel of this kind; as always where nothing is given.

    Raises:
        InputError: nothing is built for such machines.
    """
    from typing import get_args

    from whit.model.build import KernelChoice

    if kernel not in ("", *get_args(KernelChoice)):
        raise InputError(f"{kernel!r} is no kernel", hint=" or ".join(get_args(KernelChoice)))
    update = {"kernel": kernel} if kernel else {}
    if foreign(architecture):
        update["architecture"] = architecture
    if not update:
        return spec
    services = {
        name: one.model_copy(update={"build": one.build.model_copy(update=update)})
        for name, one in spec.services.items()
        if one.build
    }
    if not services:
        raise InputError(
            f"{spec.name} builds nothing",
            hint="an image that is pulled is for this machine's architecture",
            code="nothing-built",
        )
    return spec.model_copy(update={"services": services})


def _write_lock(spec: AppSpec, store: ImageStore, images: dict[str, Image], used: Lock | None, anew: bool) -> None:
    """What was linked, by the lock that was `used`; unless `anew`, into what the file has of other services."""
    from whit.model import lock

    before = None if anew else lock.read(spec.directory)
    entries = dict(before.entries) if before else {}
    for name, one in spec.services.items():
        if one.build:
            entries |= store.locked(one.build, used).entries
            entries |= store.observed(images[name].name).entries
    path = spec.directory / lock.FILE
    path.with_suffix(".new").write_text(lock.Lock(entries).encode())
    path.with_suffix(".new").rename(path)


def chosen_target(text: str) -> str:
    """Raises InputError."""
    if text not in TARGETS:
        raise InputError(f"{text!r} is no target", hint=f"known: {', '.join(TARGETS)}", code="no-such-form")
    return text


async def write(
    store: ImageStore,
    target: str,
    name: str,
    service: ServiceSpec,
    image: Image,
    output: Path,
    report: Report,
    *,
    fast: bool = False,
    small: bool = False,
) -> Exported:
    """The image of a service in a form: files for others, or a machine that boots."""
    import asyncio

    from whit.control.machines import appliances
    from whit.model.progress import Progress

    def say(step: str) -> None:
        report(Progress(subject=name, step=step))

    if target in appliances.TARGETS:
        return await appliances.write(store, target, name, service, image, output, fast=fast, small=small, say=say)
    return await asyncio.to_thread(store.export, image.name, cast("Target", target), output)


async def settled(
    run: Invocation, store: ImageStore, path: Path, service: str, report: Report, architecture: str = ""
) -> tuple[str, ServiceSpec, Image]:
    """The one service of an app, or the one named, with its image, built or found. Raises InputError, Untrusted."""
    from whit.control import trust
    from whit.control.images import settle_images

    spec = for_machines(chosen(path, [service] if service else []), architecture)
    _refuse_several(spec, about_one=True)
    images = await settle_images(spec, store, report)
    trust.require(store, images.values(), trust.rules(run.settings, spec.trust))
    name = next(iter(spec.services))
    return name, spec.services[name], images[name]


def _refuse_several(spec: AppSpec, about_one: bool) -> None:
    if about_one and len(spec.services) != 1:
        raise InputError(
            "that is about one image", hint=f"add --service with one of: {', '.join(spec.services)}", code="one-service"
        )


def _print_images(run: Invocation, result: dict[str, Any]) -> None:
    from whit.cli.commands.inspection import short_digest, size_text

    if run.json:
        return
    if "exported" in result:
        run.output.line("{path} {digest}".format(**result["exported"]))
        return
    rows = [
        (name, image["name"], short_digest(image["digest"]), size_text(image["size"]), "" if image["cached"] else "new")
        for name, image in sorted(result["images"].items())
    ]
    run.output.table(("SERVICE", "IMAGE", "DIGEST", "SIZE", ""), rows)
