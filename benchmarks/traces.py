"""What a trace alone would miss: files that the applications of benchmarks/images open, seen by fanotify.

`PYTHONPATH=src python benchmarks/traces.py [SERVICE…]` runs the checks of each in the whole image twice: the first
alone, as somebody traces who asks a server once, and all of them. What only the others open is missing from an image
that is made of the first trace. It prints a table in Markdown and writes results/traces-<time>.json. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from image_sizes import ROOT, linked, quiet
from measure import keep

from whit.base.settings import Settings
from whit.formats.app.appfile import load_app
from whit.image.linking.prove import prove
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec
from whit.model.image import Image


@dataclass(frozen=True)
class Row:
    """Files that are opened by the first check and by all; what the closure has and lacks of the latter; examples."""

    service: str
    first: int
    every: int
    missed: int
    missed_bytes: int
    closure: int
    not_in_closure: int
    examples: tuple[str, ...]


async def measure(store: ImageStore, name: str, spec: BuildSpec, scratch: Path) -> Row:
    whole = await store.build(f"{name}-whole", linked(spec, "whole"), quiet)
    sizes = {file.path: file.size for file in store.bill(f"{name}-whole").files if file.kind == "file"}
    first = await opened(whole, spec.model_copy(update={"check": spec.check[:1]}), scratch / f"{name}-1")
    every = await opened(whole, spec, scratch / f"{name}-2")
    await store.build(name, spec, quiet)
    kept = {file.path for file in store.bill(name).files}
    missed = sorted((every - first) & sizes.keys(), key=lambda path: (-sizes[path], path))
    first, every = first & sizes.keys(), every & sizes.keys()
    counts = len(first), len(every), len(missed), sum(sizes[path] for path in missed)
    return Row(name, *counts, len(kept & sizes.keys()), len(every - kept), tuple(missed[:3]))


async def opened(image: Image, spec: BuildSpec, scratch: Path) -> set[str]:
    scratch.mkdir()
    return set((await prove(image, spec, scratch, lambda text: None, observe=True)).opened)


def line(row: Row) -> str:
    missed = f"{row.missed} ({row.missed_bytes / 1e6:.1f} MB)"
    names = ", ".join(f"`{Path(path).name}`" for path in row.examples)
    return f"| {row.service} | {row.first} | {row.every} | {missed} | {row.not_in_closure} | {names} |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("services", nargs="*")
    given = parser.parse_args()
    rows = []
    print("| image | files of the first check | of all checks | missed by the first | by the closure | as |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - builds run as users of their own
        store = ImageStore(Settings(id="bench", run_root=Path(directory) / "run", state_root=Path(directory)))
        for name, service in load_app(ROOT / "images", environment={}).services.items():
            if service.build and (not given.services or name in given.services):
                rows.append(await measure(store, name, service.build, Path(directory)))
                print(line(rows[-1]), flush=True)
    keep("traces", {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    asyncio.run(main())
