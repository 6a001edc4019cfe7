"""Settles which image each service of an app runs, all at once, because most of the time goes into waiting; and holds
the images of instances for as long as they are there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from whit.base.errors import WhitError
from whit.model.app import AppSpec
from whit.model.build import BuildSpec
from whit.model.image import Image, Images, Leases
from whit.model.lock import Lock, read
from whit.model.progress import Progress, Report
from whit.model.service import ServiceSpec


@dataclass(frozen=True)
class HoldImage:
    """The layers under a running instance are nobody's garbage."""

    leases: Leases
    holder: str
    image: Image

    def describe(self) -> str:
        return f"hold image {self.image.name} for {self.holder}"

    async def do(self) -> None:
        await asyncio.to_thread(self.leases.hold, self.holder, self.image)

    async def undo(self) -> None:
        await asyncio.to_thread(self.leases.release, self.holder)


@dataclass(frozen=True)
class ReleaseImage:
    """Comes last: nothing is mounted from the layers any more. It cannot be undone, only done again."""

    leases: Leases
    holder: str

    def describe(self) -> str:
        return f"release the image of {self.holder}"

    async def do(self) -> None:
        await asyncio.to_thread(self.leases.release, self.holder)

    async def undo(self) -> None:
        return


@dataclass(frozen=True)
class How:
    """How images are settled: looked up anew, by what lock file, and whether anything may be fetched."""

    refresh: bool = False
    lock: Lock | None = None
    fetch: bool = True
    observe: bool = False


async def settle_images(spec: AppSpec, images: Images, report: Report, how: How | None = None) -> dict[str, Image]:
    """The image of each service by the service's name, built or fetched if it has to be.

    Unless `how` says otherwise, by the lock file beside the app file, if there is one.

    Raises:
        WhitError: of the first service that failed; the others were stopped.
    """
    how = how or How(lock=await asyncio.to_thread(read, spec.directory))
    tasks: dict[str, asyncio.Task[Image]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for name, service in spec.services.items():
                if service.is_elsewhere:
                    continue
                tasks[name] = group.create_task(_settle(spec.name, name, service, images, report, how))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}


async def settled_images(spec: AppSpec, images: Images, report: Report) -> dict[str, Image] | None:
    """What settle_images would find with nothing to build, fetch or unpack; None if there is, or if it would fail."""
    lock = await asyncio.to_thread(read, spec.directory)
    found: dict[str, Image] = {}
    for name, service in spec.services.items():
        if service.is_elsewhere:
            continue
        try:
            if service.build is not None:
                image = await images.built(_title(spec.name, name, service.build), service.build, lock)
            else:
                image = await images.obtained(service.image or "")
        except WhitError:
            return None
        if image is None:
            return None
        found[name] = image
    for name in found:
        report(_unchanged(name))
    return found


def _title(app: str, service: str, build: BuildSpec) -> str:
    return "-".join(part for part in (app, service, build.architecture) if part)


def _unchanged(service: str) -> Progress:
    return Progress(subject=service, step="image unchanged", done=True)


async def _settle(app: str, name: str, service: ServiceSpec, images: Images, report: Report, how: How) -> Image:
    try:
        if service.build is not None:
            options: dict[str, Any] = {"refresh": how.refresh, "lock": how.lock, "fetch": how.fetch}
            kernel_asks = service.build.kernel == "specialised" and bool(service.build.check)
            options["observe"] = how.observe and (service.build.closed or kernel_asks)
            image = await images.build(_title(app, name, service.build), service.build, report, **options)
        else:
            image = await images.obtain(service.image or "", report, fetch=how.fetch)
    except WhitError:
        report(Progress(subject=name, step="no image", failed=True))
        raise
    made = Progress(subject=name, step=f"image {image.digest[7:19]}", done=True)
    report(_unchanged(name) if image.cached else made)
    return image
