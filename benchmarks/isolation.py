"""What a start costs: from the call to the first line that the program prints, of each isolation and of other engines.

`PYTHONPATH=src:tests python benchmarks/isolation.py [--rounds N]` as root prints a table in Markdown and writes a file
of its own to results/. Without a mesh: an instance's namespace is there, and empty. The raw runtime gets the very
bundle that Whit wrote, and its output by a pipe; the floor of the virtual machine is Debian's kernel as it comes, in a
control group as Whit's machines are, with a first process that prints a line. podman, docker and containerd get the
same root as an image (engines.py). In each round every way has its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import engines
from measure import RESULTS, end_in_order, keep, median, table
from support.guests import compiled, debian_kernel, first_root, program
from support.instances import AnyDriver, DriverName, Machine, make_rootfs, open_driver

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.kernel import cgroup
from whit.kernel.network import netns
from whit.model.operation import carry_out
from whit.runtime.microvm.bundle import APPEND
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision import logs
from whit.tools import qemu, runsc

READY = "ready"
PROGRAM = ("sh", "-c", f"echo {READY}; exec sleep 1000")
FIRST = """
#include <unistd.h>
int main(void) { write(1, "ready\\n", 6); for (;;) pause(); }
"""
PATIENCE = 60.0
POLL = 0.0005
NAMES: dict[DriverName, str] = {"crun": "container", "runc": "container", "runsc": "sandbox", "qemu": "microvm"}

Way = Callable[[], Awaitable[float]]
"""Starts once, waits for the line, takes everything away; the seconds that the start took."""


async def main() -> None:
    end_in_order()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", nargs="*", default=list(engines.ENGINES), choices=engines.ENGINES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whit-isolation-")))
        rootfs, absent = make_rootfs(place / "rootfs"), dict[str, str]()
        ways = await all_ways(stack, place, rootfs, absent)
        ways |= of_engines(stack, place, rootfs, asked.engines, absent)
        taken = await measured(ways, asked.rounds)
    report({name: seconds[1:] for name, seconds in taken.items()}, absent, asked.results)


async def all_ways(stack: AsyncExitStack, place: Path, rootfs: Path, absent: dict[str, str]) -> dict[str, Way]:
    """Each isolation that works here, with its floor; `absent` gets why another does not."""
    ways = dict[str, Way]()
    for name in NAMES:
        settings = Settings(f"b{secrets.token_hex(3)}", state_root=place / name)
        stack.callback(shutil.rmtree, settings.run_dir, ignore_errors=True)
        try:
            machine = Machine(await ready_driver(settings, name), rootfs, name)
        except Unavailable as error:
            absent[name] = error.message
            continue
        stack.push_async_callback(machine.clean)
        ways[f"{NAMES[name]}, Whit over {name}"] = by_whit(machine)
        ways[f"{NAMES[name]}, {FLOORS[name]}"] = await FLOOR_OF[name](machine, place, stack)
    return ways


def of_engines(
    stack: AsyncExitStack, place: Path, rootfs: Path, wanted: list[str], absent: dict[str, str]
) -> dict[str, Way]:
    image, ways = engines.archive(rootfs, place / "image.tar"), dict[str, Way]()
    for name in wanted:
        own = place / name
        own.mkdir()
        try:
            engine = stack.enter_context(engines.ENGINES[name](own, image))
            ways[f"container, {engine.label}"] = by_engine(engine)
            until_ready(engine.run("first", PROGRAM))
            engine.remove("first")
        except (engines.DoesNotRun, AssertionError) as error:
            absent[name] = str(error)
            ways = {label: way for label, way in ways.items() if name not in label}
    return ways


def by_engine(engine: engines.Engine) -> Way:
    """Its command line in the foreground."""
    names = (f"start-{number}" for number in itertools.count())

    async def start() -> float:
        name = next(names)
        taken = await asyncio.to_thread(until_ready, engine.run(name, PROGRAM))
        await asyncio.to_thread(engine.remove, name)
        return taken

    return start


async def ready_driver(settings: Settings, name: DriverName) -> AnyDriver:
    if name == "runsc":
        for operation in runsc.of(settings).preparation():
            await operation.do()
    return await open_driver(settings, name)


def by_whit(machine: Machine) -> Way:
    """As the agent starts it, network apart."""

    async def start() -> float:
        spec = machine.spec(*PROGRAM)
        machine.network(spec)
        began = time.monotonic()
        await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
        while not any(READY in line.text for line in logs.read(machine.layout(spec))):
            assert time.monotonic() < began + PATIENCE
            await asyncio.sleep(POLL)
        taken = time.monotonic() - began
        await machine.remove(spec.name)
        netns.remove(machine.layout(spec).netns)
        return taken

    return start


async def by_runtime(machine: Machine, place: Path, stack: AsyncExitStack) -> Way:
    """`run` of the runtime alone, with a copy of an instance's bundle."""
    runtime, name = machine.driver.host.runtime, f"{machine.driver.settings.id}-raw"
    bundle = place / f"{machine.name}-bundle"
    bundle.mkdir()
    spec = await machine.start(*PROGRAM, service="kept")
    config = json.loads(machine.layout(spec).config.read_text())
    config["linux"]["cgroupsPath"] = group = f"{machine.driver.settings.cgroup}-raw"
    (bundle / "config.json").write_text(json.dumps(config))
    hide = isinstance(runtime, runsc.Runsc) and (found := runtime.finding()) is not None and found.mistakes_namespaces
    words = ("run", "--bundle", str(bundle), name)
    argv = (
        runtime.starting(name, *words, hide=hide)
        if isinstance(runtime, runsc.Runsc)
        else runtime.arguments(name, *words)
    )

    async def start() -> float:
        taken = await asyncio.to_thread(until_ready, argv)
        await runtime.delete(name)
        await asyncio.to_thread(cgroup.destroy, cgroup.find(), group)
        return taken

    return start


async def by_qemu(machine: Machine, place: Path, stack: AsyncExitStack) -> Way:
    """Debian's kernel, packed as it comes and with no time saved, with one static program."""
    source = place / "first.c"
    source.write_text(FIRST)
    initrd = await first_root(place / "first.cpio.zst", program("init", compiled(source, place / "first")))
    kernel = await debian_kernel("stable")
    console = Path("/dev/stdout")
    bare = qemu.Machine(kernel.image, initrd, APPEND, console)
    group = f"{machine.driver.settings.cgroup}-raw"
    await cgroup.CreateCgroup(group).do()
    directories = " ".join(map(str, cgroup.find().directories(group)))
    join = ("sh", "-c", 'for place in $0; do echo $$ >$place/cgroup.procs; done; exec "$@"', directories)
    command = qemu.command(bare, await qemu.accelerator(), await qemu.version())
    argv = [*join, *(word.removesuffix(qemu.SPARED) for word in command)]
    stack.callback(cgroup.destroy, cgroup.find(), group)

    async def start() -> float:
        return await asyncio.to_thread(until_ready, argv)

    return start


FLOORS: dict[DriverName, str] = {
    "crun": "crun alone",
    "runc": "runc alone",
    "runsc": "runsc alone",
    "qemu": "bare kernel",
}
FLOOR_OF = {"crun": by_runtime, "runc": by_runtime, "runsc": by_runtime, "qemu": by_qemu}


def until_ready(argv: list[str]) -> float:
    """Seconds until it prints the line; it is killed then."""
    began = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        seen = b""
        while READY.encode() not in seen:
            piece = running.stdout.read1(4096)  # type: ignore[attr-defined]
            assert piece, seen.decode(errors="replace")
            seen += piece
        taken = time.monotonic() - began
        running.kill()
    return taken


async def measured(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """In each round every way once, in an order that is drawn; the first one warms."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name in random.sample(sorted(ways), len(ways)):
            taken[name].append(await ways[name]())
    return taken


def report(taken: dict[str, list[float]], absent: dict[str, str], results: Path) -> None:
    found = {name: median([one * 1000 for one in seconds]) for name, seconds in taken.items()}
    print(table(("way", "ms to the first line, median (95 %)"), [(name, one.text()) for name, one in found.items()]))
    rows = [
        {"way": name, "ms": asdict(one), "all_ms": [round(x * 1000, 2) for x in taken[name]]}
        for name, one in found.items()
    ]
    for name, reason in absent.items():
        print(f"without {name}: {reason}")
    print(keep("isolation", {"rows": rows, "absent": absent}, results))


if __name__ == "__main__":
    asyncio.run(main())
