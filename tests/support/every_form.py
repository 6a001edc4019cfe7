"""A process that builds an app and writes every form of it: `python -m support.every_form APP STATE OUT ARCH FORM…`.

What is around it (user, clock, place, locale) is the business of whoever starts it. Prints the digests as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from whit.base.settings import Settings
from whit.cli.commands.building import chosen, for_machines, write
from whit.control.images import settle_images
from whit.image.store.images import ImageStore
from whit.tools import process


def digest_of(path: Path) -> str:
    """Of a file, or of a directory's files with their paths."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    rows = [(str(file.relative_to(path)), digest_of(file)) for file in files]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


FALSE_CLOCK = ("LD_PRELOAD", "FAKETIME", "NO_FAKE_STAT")


async def every_form(app: Path, state: Path, output: Path, architecture: str, forms: Sequence[str]) -> dict[str, str]:
    """Digests of the forms."""
    store = ImageStore(Settings(id="forms", run_root=state / "run", state_root=state))
    spec = for_machines(chosen(app, []), architecture)
    images = await settle_images(spec, store, lambda _: None)
    ((name, image),) = images.items()
    found = {}
    for form in forms:
        written = await write(store, form, name, spec.services[name], image, output / form, lambda _: None)
        found[form] = digest_of(written.path)
    return found


if __name__ == "__main__":
    # The programs that Whit starts get an environment of their own: the false clock has to be put into it.
    process.CLEAN_ENVIRONMENT.update((name, os.environ[name]) for name in FALSE_CLOCK if name in os.environ)
    app, state, output, architecture, *forms = sys.argv[1:]
    print(json.dumps(asyncio.run(every_form(Path(app), Path(state), Path(output), architecture, forms))))
