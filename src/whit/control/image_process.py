"""Settles the images of an app in a process of its own.

What a build reads, lists of packages and of files, takes memory that would stay with the agent, which lives long: 20 MB
after an app of four services. The agent only looks up what is built already.

Both plan what is to be built: that takes 2 ms for four services and 0.1 s for 5,000 files, while the process takes 0.2
to begin. A plan that was handed over would be that much older than the files that are built by it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from whit.base.errors import WhitError, report_of
from whit.base.settings import Settings
from whit.control.images import How, settle_images
from whit.image.sandbox.processes import ask, module_environment
from whit.image.store.images import ImageStore
from whit.model.app import AppSpec
from whit.model.image import Image
from whit.model.lock import read
from whit.model.progress import Progress, Report

_TIMEOUT = 4 * 3600.0
"""Seconds; each worker of a build has a limit of its own, and this one is never the first."""


async def settle(settings: Settings, spec: AppSpec, report: Report, *, refresh: bool = False) -> dict[str, Image]:
    """As images.settle_images, by the lock file beside the app file.

    Raises:
        WhitError: of the first service that failed.
    """
    places = {"id": settings.id, "run_root": str(settings.run_root), "state_root": str(settings.state_root)}
    settled = await ask(
        # A process that was started goes on when the agent is killed; this one has nobody to build for then.
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", __name__],
        {"settings": places, "spec": spec.model_dump(mode="json"), "refresh": refresh},
        lambda step: report(Progress.model_validate(step)),
        env={**os.environ, **module_environment()},
        timeout=_TIMEOUT,
    )
    return {service: Image.model_validate(image) for service, image in settled.items()}


def _say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Standard input has the request, standard output a line for each step and the answer."""
    request = json.load(sys.stdin)
    places = request["settings"]
    settings = Settings(places["id"], Path(places["run_root"]), Path(places["state_root"]))
    spec = AppSpec.model_validate(request["spec"])

    def report(progress: Progress) -> None:
        _say(step=progress.model_dump(mode="json"))

    try:
        how = How(refresh=request["refresh"], lock=read(spec.directory))
        settled = asyncio.run(settle_images(spec, ImageStore(settings), report, how))
    except WhitError as error:
        _say(error=report_of(error))
        return 1
    _say(result={service: image.model_dump(mode="json") for service, image in settled.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
