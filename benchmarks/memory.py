"""Measures what idle instances take of the machine's memory, by isolation, with podman's containers beside them.

`PYTHONPATH=src python benchmarks/memory.py [--count 100] [--kinds container,sandbox,microvm,podman]` as root prints
a table and adds the run to results/; the figures of each kind are printed and written as soon as they are measured,
before its instances are taken away. Every instance is a static busybox that serves HTTP and is asked nothing. Two
figures an instance: the proportional set size of its processes and of those that keep it (monitor, gVisor's sentry and
gofer, QEMU, virtiofsd), and what the machine's available memory fell by, which has the kernel's part in it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from measure import end_in_order, keep, table

from whit.base.settings import Settings
from whit.runtime.programs import build

TOP = Path(__file__).resolve().parent.parent
KINDS = ("container", "sandbox", "microvm", "podman")
SETTLE = 10.0
"""Seconds after the last one is up: gVisor and guests still give memory back."""
APP = """
name: idle
services:
  server:
    isolation: {kind}
    deploy: {{replicas: {count}}}
    build: {{parts: [debian:busybox-static]}}
    command: [busybox, httpd, -f, -p, "80"]
    stop_signal: SIGKILL
    mem_limit: 96m
"""


PODMAN_GROUP = "libpod"
"""In the name of the control groups of its containers and of their monitors."""


def available() -> float:
    """MiB that new work could have."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


def processes(mark: str) -> set[int]:
    """Those that stand in a control group, or were called by words, with this mark in it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (path / "cgroup").read_text() or mark.encode() in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    return found


def proportional(pids: set[int]) -> float:
    """MiB of these processes; a page that many share counts by parts."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@dataclass
class Figures:
    """What was measured so far. Each kind is told and kept before its instances are taken away: that takes a while,
    and a run that is cut short keeps what it has."""

    count: int
    found: dict[str, dict[str, float]] = field(default_factory=dict)
    file: Path | None = None

    def add(self, kind: str, by_processes: float, of_machine: float) -> None:
        """MiB of all instances of this kind."""
        numbers = {"processes": by_processes, "machine": of_machine}
        self.found[kind] = {f"{name}, MiB each": round(each / self.count, 2) for name, each in numbers.items()}
        print(kind, self.found[kind], file=sys.stderr, flush=True)
        self.file = keep("memory", {"count": self.count, "found": self.found}, before=self.file)

    def table(self) -> str:
        lines = [[kind, *(f"{value:.2f}" for value in numbers.values())] for kind, numbers in self.found.items()]
        return table(["isolation", "its processes, MiB", "of the machine, MiB"], lines)


def difference(start: Callable[[], None], mark: str) -> tuple[float, float]:
    """MiB by processes and by the whole machine that `start` led to."""
    before, free = processes(mark), available()
    start()
    time.sleep(SETTLE)
    return proportional(processes(mark) - before), free - available()


@contextmanager
def agent(directory: Path) -> Iterator[tuple[Settings, Callable[..., None]]]:
    settings = replace(Settings.from_environment(), id=f"b{secrets.token_hex(3)}", state_root=directory / "state")
    environment = os.environ | {"WHIT_ID": settings.id, "WHIT_STATE_ROOT": str(settings.state_root)}

    def whit(*words: str) -> None:
        command = [sys.executable, "-m", "whit.cli", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=TOP)

    try:
        yield settings, whit
    finally:
        whit("doctor", "--clean", "--yes")


def of_whit(kind: str, figures: Figures) -> None:
    with tempfile.TemporaryDirectory() as directory, agent(Path(directory)) as (settings, whit):
        file = Path(directory) / "whit.yaml"
        file.write_text(APP.format(kind=kind, count=1))
        # The first one pays for the image, the agent, and the page cache of the programs.
        whit("up", directory)
        file.write_text(APP.format(kind=kind, count=figures.count + 1))
        figures.add(kind, *difference(partial(whit, "up", directory), settings.id))


def of_podman(figures: Figures) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        root = Path(directory) / "root"
        for place in ("bin", "proc", "sys", "dev", "etc", "tmp", "run", "var"):
            (root / place).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        podman = f"podman --root {directory}/store --runroot {directory}/run --cgroup-manager=cgroupfs --runtime=runc"
        options = "-d -q --network=none --memory=96m --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024"
        command = f"{podman} run {options} --log-driver=k8s-file --rootfs {root}:O /bin/busybox httpd -f -p 80"

        def start(number: int) -> None:
            for _ in range(number):
                subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)

        try:
            start(1)
            figures.add("podman", *difference(partial(start, figures.count), PODMAN_GROUP))
        finally:
            subprocess.run(f"{podman} rm -a -f -t 0".split(), check=False, stdout=subprocess.DEVNULL)
            subprocess.run(["umount", "--lazy", f"{os.path.realpath(directory)}/store/overlay"], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--kinds", default=",".join(KINDS))
    chosen = parser.parse_args()
    end_in_order()
    build()
    figures = Figures(chosen.count)
    try:
        for kind in chosen.kinds.split(","):
            of_podman(figures) if kind == "podman" else of_whit(kind, figures)
    finally:
        if figures.file:
            print(figures.table())
            print(f"written to {figures.file}")


if __name__ == "__main__":
    main()
