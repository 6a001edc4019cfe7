"""Settles which image each service of an app runs, all at once, because most of the time goes into waiting; and holds
the images of instances for as long as they are there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from whit.base.errors import WhitError
from whit.model.app import AppSpec
from whit.model.image import Image, Images, Leases
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


async def settle_images(spec: AppSpec, images: Images, report: Report, *, refresh: bool = False) -> dict[str, Image]:
    """The image of each service by the service's name, built or fetched if it has to be.

    Raises:
        WhitError: of the first service that failed; the others were stopped.
    """
    tasks: dict[str, asyncio.Task[Image]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for name, service in spec.services.items():
                tasks[name] = group.create_task(_settle(spec.name, name, service, images, report, refresh=refresh))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}


async def _settle(app: str, name: str, service: ServiceSpec, images: Images, report: Report, *, refresh: bool) -> Image:
    try:
        if service.build is not None:
            image = await images.build(f"{app}-{name}", service.build, report, refresh=refresh)
        else:
            image = await images.obtain(service.image or "", report)
    except WhitError:
        report(Progress(subject=name, step="no image", failed=True))
        raise
    report(Progress(subject=name, step="image unchanged" if image.cached else f"image {image.digest[7:19]}", done=True))
    return image
