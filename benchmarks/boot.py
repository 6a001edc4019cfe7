"""Measures machines from the start of QEMU to the first answer over HTTP, beside a bare kernel that powers off at once.

`PYTHONPATH=src python benchmarks/boot.py [--rounds N] [--quick] [--results DIR]` prints tables in Markdown and writes
results/boot-<time>.json. Rounds are interleaved, each in another order, under the accelerator that works here. Also
the bytes of each form of the same app.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import measure

from whit.base.settings import Settings
from whit.cli.commands.building import for_machines
from whit.control.images import settle_images
from whit.control.machines import appliances, booting
from whit.control.machines.booting import Wishes
from whit.control.machines.guests import KERNELS
from whit.formats.app.appfile import load_app
from whit.image.oci import manifest
from whit.image.rootfs import cpio
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import kernel
from whit.image.store.images import ImageStore
from whit.model.build import KernelChoice
from whit.runtime import programs
from whit.runtime.microvm import boot
from whit.tools import process, qemu

HERE = Path(__file__).resolve().parent
FLOOR = "bare kernel, to power off"
APPS = {
    "static C server": ("parts: [{root}]", "[/hello]"),
    "busybox httpd": ("parts: ['debian:busybox-static', {root}]", "[busybox, httpd, -f, -p, '8080', -h, /srv]"),
    "CPython http.server": (
        "parts: ['debian:python3-minimal', 'debian:libpython3-stdlib', {root}]",
        "[python3, -m, http.server, '8080', -d, /srv]",
    ),
}
FORMS = ("microvm", "disk", "iso")
PROFILES: tuple[tuple[str, KernelChoice, bool], ...] = (
    ("fast boot", "debian", True),
    ("specialised", "specialised", False),
    ("specialised, fast boot", "specialised", True),
)
TOO_LARGE = ("CPython http.server", "iso")
PATIENCE = 60.0


@dataclass(frozen=True)
class Way:
    """Something that boots, and how to run it once: seconds."""

    name: str
    once: Callable[[], Awaitable[float]]


async def main() -> None:
    options = _options()
    measure.end_in_order()
    programs.build()
    with tempfile.TemporaryDirectory(prefix="whit-boot-", dir="/var/tmp") as scratch:
        ways, sizes = await prepared(Path(scratch), options.quick)
        seconds: dict[str, list[float]] = {way.name: [] for way in ways}
        for number in range(options.rounds):
            for way in random.Random(number).sample(ways, len(ways)):
                seconds[way.name].append(await way.once())
    rows = {name: measure.median(values) for name, values in seconds.items()}
    floor = rows[FLOOR].value
    print(f"Accelerator: {await qemu.accelerator()}, {options.rounds} rounds\n")
    lines = [(name, one.text(2), f"{one.value / floor:.2f}") for name, one in rows.items()]
    print(measure.table(("machine", "seconds, median (95 %)", "ratio to the floor"), lines))
    print(measure.table(("app", "form", "MB"), [(app, form, f"{size / 1e6:.2f}") for app, form, size in sizes]))
    document = {"accelerator": await qemu.accelerator(), "rows": {name: asdict(one) for name, one in rows.items()}}
    measure.keep("boot", document | {"sizes": sizes}, options.results)


async def prepared(scratch: Path, quick: bool) -> tuple[list[Way], list[tuple[str, str, int]]]:
    """Everything is built before anything is measured."""
    root = scratch / "root"
    (root / "srv").mkdir(parents=True)
    (root / "srv/index.html").write_text("hello\n")
    await process.run(["clang", "-static", "-O2", "-s", "-o", str(root / "hello"), str(HERE / "hello.c")])
    store = ImageStore(Settings(id="bench", state_root=scratch / "state"))
    ways = [Way(FLOOR, await floor(scratch, root / "hello"))]
    sizes: list[tuple[str, str, int]] = []
    for app, (parts, words) in list(APPS.items())[: 1 if quick else None]:
        name = app.split()[0].lower()
        file = scratch / name / "whit.yaml"
        file.parent.mkdir()
        parts = parts.format(root=root)
        file.write_text(f"services: {{{name}: {{build: {{{parts}}}, command: {words}}}}}\n")
        for form in FORMS[:1] if quick else FORMS:
            if (app, form) == TOO_LARGE:
                continue
            output = scratch / f"{name}.{form}"
            await exported(store, file, form, output)
            ways.append(Way(f"{app}, {form}", to_first_answer(output, scratch)))
            sizes += measured(app, form, output)
        for title, kernel_, fast in PROFILES:
            output = scratch / f"{name}.{kernel_}.{fast}"
            await exported(store, file, "microvm", output, kernel_, fast=fast)
            ways.append(Way(f"{app}, microvm, {title}", to_first_answer(output, scratch)))
            sizes += measured(app, f"microvm, {title}", output)
    return ways, sizes


async def exported(
    store: ImageStore, file: Path, form: str, output: Path, kernel_: KernelChoice = "debian", *, fast: bool = False
) -> None:
    """The first time with a specialised kernel takes as long as that takes to build."""
    spec = for_machines(load_app(file), "", kernel_)
    images = await settle_images(spec, store, lambda _: None)
    (name, service), (_, image) = next(iter(spec.services.items())), next(iter(images.items()))
    await appliances.write(store, form, name, service, image, output, fast=fast, say=print)


def measured(app: str, form: str, output: Path) -> list[tuple[str, str, int]]:
    """Bytes on disk: holes of a disk are none."""
    if output.is_dir():
        return [(app, f"{form}: {part.name}", part.stat().st_size) for part in sorted(output.iterdir())]
    return [(app, form, output.stat().st_blocks * 512)]


async def floor(scratch: Path, program: Path) -> Callable[[], Awaitable[float]]:
    """Debian's kernel, packed as it comes and with no time saved, with a first process that powers off."""
    linux = await kernel.obtain(KERNELS, manifest.architecture())
    tree = Tree()
    tree.add(Entry("init", mode=0o755, content=program.read_bytes()))
    plain, packed = scratch / "floor.cpio", scratch / "floor"
    with plain.open("wb") as output:
        cpio.write(tree, output)
    await cpio.compress(plain, packed)
    append = appliances.APPEND.format(appliances.CONSOLES[manifest.architecture()])
    machine = qemu.Machine(linux.image, packed, append, Path("/dev/null"), forwards=())

    command = qemu.command(machine, await qemu.accelerator(), await qemu.version())
    argv = [word.removesuffix(qemu.SPARED) for word in command]

    async def once() -> float:
        begin = time.monotonic()
        await process.run(argv, timeout=PATIENCE)
        return time.monotonic() - begin

    return once


def to_first_answer(machine_path: Path, scratch: Path) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        port = free_port()
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            wishes = Wishes(forwards=(qemu.Forward("127.0.0.1", port, 8080),), discard=True)
            machine = booting.machine(machine_path, wishes, Path(own))
            return await _answered(replace(machine, name="bench"), port)

    return once


async def _answered(machine: qemu.Machine, port: int) -> float:
    stop = asyncio.Event()
    printed: list[bytes] = []
    begin = time.monotonic()
    running = asyncio.create_task(boot.run(machine, printed.append, stop, timeout=PATIENCE))
    while not await _asked(port):
        if running.done():
            raise RuntimeError(b"".join(printed).decode(errors="replace"))
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - begin
    stop.set()
    await running
    return seconds


async def _asked(port: int) -> bool:
    """QEMU accepts before the guest listens, so only an answer counts."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return bool(await reader.read(1))
            finally:
                writer.close()
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="the smallest app as a microVM only")
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
