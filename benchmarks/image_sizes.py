"""Measures the images of benchmarks/images: whole, trimmed and closed, and a minbase of Debian with the same packages.

`PYTHONPATH=src python benchmarks/image_sizes.py [--minbase] [SERVICE…]` prints a table in Markdown and writes
results/image-sizes.json. Sizes are bytes of files, hard links once; a minbase is made by mmdebstrap and has no Python
requirements in it, so it stands for the Debian packages alone. The second table is of what boots: the first root of a
microVM, which is all of its user space, as it is compressed; a minbase is compressed alike (zstd -3), but has no
drivers and no init. A static C server is there beside the services. Everything is built in a directory that is removed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from whit.base.settings import Settings
from whit.control.machines import appliances
from whit.formats.app.appfile import load_app
from whit.image.provenance import needs
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart, Link
from whit.model.image import Image
from whit.model.progress import Progress
from whit.model.service import ServiceSpec
from whit.tools import apt_sources, process

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT.parent / "results" / "image-sizes.json"
LINKS: tuple[Link, ...] = ("whole", "trim", "closure")
STATIC = "static C server"
QUICK, SMALL = "compressed", "--small"


@dataclass(frozen=True)
class Row:
    """Megabytes and files by how the image is linked; seconds that the closure took, its checks included."""

    service: str
    megabytes: dict[str, float]
    files: dict[str, int]
    seconds: float
    boots: dict[str, float]
    """Megabytes of the closure as a first root, and of the minbase, compressed."""


async def measure(store: ImageStore, name: str, service: ServiceSpec, spec: BuildSpec, minbase: bool) -> Row:
    megabytes: dict[str, float] = {}
    files: dict[str, int] = {}
    seconds = 0.0
    for link in LINKS:
        start = time.monotonic()
        image = await store.build(f"{name}-{link}", linked(spec, link), quiet)
        seconds = time.monotonic() - start
        exported = store.export(f"{name}-{link}", "rootfs", store.layers_dir.parent / "root.tar").path
        megabytes[link], files[link] = content(exported)
    boots = await first_roots(store, name, service, image)
    if minbase:
        packages = needs.resolve(spec).packages
        megabytes["minbase"], files["minbase"], boots["minbase"] = await asyncio.to_thread(
            debootstrapped, packages, store.layers_dir.parent
        )
    return Row(name, megabytes, files, round(seconds, 1), boots)


async def first_roots(store: ImageStore, name: str, service: ServiceSpec, image: Image) -> dict[str, float]:
    """What the closure boots from: Whit's init, drivers and the image's files; compressed as always and `--small`."""
    sizes = {}
    for title, small in ((QUICK, False), (SMALL, True)):
        output = store.layers_dir.parent / "machine"
        await appliances.write(store, "microvm", name, service, image, output, small=small)
        sizes[title] = megabytes_of(output / "initrd")
    return sizes


def linked(spec: BuildSpec, link: Link) -> BuildSpec:
    """All parts so, but directories, which are the person's own; the checks are those of the closure for every link."""
    parts = tuple(
        part if isinstance(part, DirectoryPart) else part.model_copy(update={"link": link}) for part in spec.parts
    )
    return spec.model_copy(update={"parts": parts, "link": link})


def content(tar: Path) -> tuple[float, int]:
    with tarfile.open(tar) as archive:
        sizes = [member.size for member in archive if not member.isdir()]
    return round(sum(sizes) / 1e6, 1), len(sizes)


def megabytes_of(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


async def static(store: ImageStore, directory: Path) -> Row:
    """The least there is: one program, linked with musl."""
    root = directory / "static"
    root.mkdir()
    argv = ["musl-gcc", "-static", "-Os", "-s", "-o", str(root / "hello"), str(ROOT / "hello.c")]
    await process.run(argv)
    file = directory / "whit.yaml"
    file.write_text("services: {hello: {build: {parts: [./static]}, command: [/hello]}}\n")
    service = load_app(file, environment={}).services["hello"]
    assert service.build
    start = time.monotonic()
    image = await store.build("static", service.build, quiet)
    size = {link: megabytes_of(root / "hello") for link in LINKS}
    boots = await first_roots(store, "hello", service, image)
    return Row(STATIC, size, dict.fromkeys(LINKS, 1), round(time.monotonic() - start, 1), boots)


def debootstrapped(packages: tuple[str, ...], directory: Path) -> tuple[float, int, float]:
    """A minimal Debian as a container image would begin with, and the packages, without Recommends."""
    target = directory / "minbase.tar"
    include = ",".join(sorted({name.partition("=")[0] for name in packages}))
    option = [f"--include={include}"] if include else []
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", *option, "--aptopt=APT::Install-Recommends false"]
    subprocess.run([*argv, apt_sources.release(), str(target)], check=True, capture_output=True)
    compressed = subprocess.run(["zstd", "-q", "-3", "-c", str(target)], check=True, capture_output=True).stdout
    return (*content(target), round(len(compressed) / 1e6, 2))


def quiet(progress: Progress) -> None:
    """Progress is for people who wait; this is a benchmark."""


def table(rows: list[Row]) -> Iterator[str]:
    kinds = [*LINKS, *(["minbase"] if all("minbase" in row.megabytes for row in rows) else [])]
    yield "| image | " + " | ".join(f"{kind}, MB (files)" for kind in kinds) + " | closure built and checked in, s |"
    yield "|---|" + "---|" * (len(kinds) + 1)
    for row in rows:
        cells = (f"{row.megabytes[kind]} ({row.files[kind]})" for kind in kinds)
        yield f"| {row.service} | {' | '.join(cells)} | {row.seconds} |"


def table_of_machines(rows: list[Row]) -> Iterator[str]:
    kinds = [QUICK, SMALL, *(["minbase"] if any("minbase" in row.boots for row in rows) else [])]
    yield "| what boots | " + " | ".join(f"{kind}, MB" for kind in kinds) + " |"
    yield "|---|" + "---|" * len(kinds)
    for row in rows:
        yield f"| {row.service} | {' | '.join(str(row.boots.get(kind, '')) for kind in kinds)} |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("services", nargs="*")
    parser.add_argument("--minbase", action="store_true", help="measure a minbase too; needs mmdebstrap and root")
    given = parser.parse_args()
    app = load_app(ROOT / "images", environment={})
    rows = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - builds run as users of their own
        store = ImageStore(Settings(id="bench", run_root=Path(directory) / "run", state_root=Path(directory)))
        for name, service in app.services.items():
            if service.build and (not given.services or name in given.services):
                rows.append(await measure(store, name, service, service.build, given.minbase))
                print("\n".join(table(rows[-1:])) if len(rows) == 1 else list(table(rows[-1:]))[-1], flush=True)
        print("", *table_of_machines([*rows, await static(store, Path(directory))]), sep="\n")
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"kernel": os.uname().release, "machine": os.uname().machine, "cpus": os.cpu_count()}
    document = {"time": datetime.now(UTC).isoformat(), "machine": machine, "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
