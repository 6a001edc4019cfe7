"""Settles which image each service of an app runs: all at once, because most of the time goes into waiting."""

from __future__ import annotations

import asyncio

from whit.base.errors import WhitError
from whit.model.app import AppSpec
from whit.model.image import Image, Images
from whit.model.progress import Progress, Report
from whit.model.service import ServiceSpec


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
