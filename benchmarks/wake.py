"""Measures how long a request waits for an instance that sleeps: from connect() to the first byte, frozen,
created, stopped and, of a microVM, in a file, interleaved with one that is awake and with a bare start of the same
container.

`PYTHONPATH=src:tests python benchmarks/wake.py [--rounds N] [--isolations container,sandbox,microvm]` as root brings up
an agent of its own, prints a table in Markdown and writes results/wake-<time>.json. The server is a small program
that listens at once (tests/conformance/responder.c), so what is measured is the waking. At the end all sleep for
`--idle` seconds, and it is told how much of a core each takes meanwhile. The bare start is the runtime's
own `run` of the same bundle, in a network of its own, from the spawn to the moment at which the program listens. Each
begins when all that are to sleep do.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import RESULTS, end_in_order, keep, median, table
from support.warm import ask_port, build_server
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.cli.connection.client import Client
from whit.kernel import cgroup, cgroup_usage
from whit.kernel.network import sockets

LEVELS = ("frozen", "created", "stopped")
AFTER = "300ms"
HEALTH = 'healthcheck: {test: [CMD, /late, "0"], interval: 60s, start_interval: 200ms, start_period: 90s}'
SERVICE = """
  {name}:
    build: {{parts: [./server]}}
    command: [/responder, 8080/tcp]
    environment: {{NAME: here}}
    isolation: {isolation}
    ports: ["{port}:8080"]
    {more}
"""
PATIENCE = 60.0
REST = 0.1


def app_text(isolations: list[str], ports: dict[str, int]) -> str:
    """A service that is awake and one for each level that the isolation has."""
    text = "name: wake\nservices:"
    for isolation in isolations:
        health = HEALTH if isolation != "container" else ""
        for level in ("awake", *levels_of(isolation)):
            name = f"{isolation}-{level}"
            ports[name] = free_port()
            scale = "" if level == "awake" else f"scale: {{min: 0, idle: {level}, after: {AFTER}}}"
            more = "\n    ".join(line for line in (scale, health) if line)
            text += SERVICE.format(name=name, isolation=isolation, port=ports[name], more=more)
    return text


def levels_of(isolation: str) -> tuple[str, ...]:
    return (*LEVELS, "snapshot") if isolation == "microvm" else LEVELS


@contextmanager
def brought_up(isolations: list[str]) -> Iterator[tuple[Whit, dict[str, int]]]:
    with tempfile.TemporaryDirectory(prefix="whit-wake-") as directory:
        where, ports = Path(directory), dict[str, int]()
        build_server(where / "server")
        (where / "whit.yaml").write_text(app_text(isolations, ports))
        whit = Whit(Settings(id=f"b{secrets.token_hex(3)}", state_root=where / "state"))
        try:
            whit("up", str(where), timeout=300)
            for name, port in ports.items():
                if name.endswith("-awake"):
                    wait_for_listener(port)
            yield whit, ports
        finally:
            whit("down", "wake", check=False)
            whit.clean()
            shutil.rmtree(whit.settings.run_dir, ignore_errors=True)


def wait_for_listener(port: int) -> None:
    """Who sleeps has listened before; who never does may still be on its way there."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            ask_port(port, timeout=PATIENCE)
            return
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def wait_for_rest(client: Client, names: list[str]) -> None:
    """Until all sleep that are to, each as its name says, and for a moment more: what is measured is not to share the
    processors with another that falls asleep."""
    wanted = {f"wake-{name}-1": name.rpartition("-")[2] for name in names if not name.endswith("-awake")}
    until = time.monotonic() + PATIENCE
    while True:
        seen = {one.name: one.state for one in client.instances()}
        if not (up := [name for name, state in wanted.items() if seen[name] != state]):
            break
        if time.monotonic() > until:
            raise SystemExit(f"{', '.join(up)} did not fall asleep within {PATIENCE:g} s")
        time.sleep(0.03)
    time.sleep(REST)


def bare_start(whit: Whit, runtime: list[str], directory: Path) -> float:
    """Seconds from the runtime's spawn until its container listens."""
    name = f"bare{secrets.token_hex(3)}"
    bundle = directory / name
    bundle.mkdir()
    of = whit.settings.instances_dir / "wake-container-awake-1"
    config = json.loads((of / "config.json").read_text())
    config["linux"]["cgroupsPath"] = f"{whit.settings.cgroup}-{name}"
    kinds = [one["type"] for one in config["linux"]["namespaces"]]
    config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
    config["root"]["path"] = str(of / "rootfs")
    (bundle / "config.json").write_text(json.dumps(config))
    argv = [*runtime, "run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), name]
    try:
        began = time.monotonic()
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=30)
        pid = int((bundle / "pid").read_text())
        while not sockets.listening(Path(f"/proc/{pid}/ns/net")):
            time.sleep(0.0005)
        return time.monotonic() - began
    finally:
        subprocess.run([*runtime, "delete", "--force", name], check=False, capture_output=True, timeout=30)


def measures(whit: Whit, ports: dict[str, int], directory: Path) -> dict[str, Callable[[], float]]:
    """What is measured once a round, by name."""
    client, names = Client(whit.settings), list(ports)

    def asked(name: str, port: int) -> Callable[[], float]:
        def ask() -> float:
            wait_for_rest(client, names)
            try:
                return ask_port(port, timeout=PATIENCE)
            except OSError as error:
                raise SystemExit(f"{name}: {error}") from error

        return ask

    found = {name: asked(name, port) for name, port in ports.items()}
    kind = client.agent().runtime.split()[0]
    if kind in ("runc", "crun") and "container-awake" in ports:
        runtime = [shutil.which(kind) or kind]
        runtime += ["--root", str(directory / "runtime")]

        def bare() -> float:
            wait_for_rest(client, names)
            return bare_start(whit, runtime, directory)

        found[f"bare {kind} run"] = bare
    return found


def idle(whit: Whit, names: list[str], seconds: float) -> dict[str, float]:
    """Hundredths of a core that each takes while it waits; those without a process are left out."""
    client, hierarchies = Client(whit.settings), cgroup.find()
    wait_for_rest(client, names)

    def used() -> dict[str, float]:
        groups = {name: f"{whit.settings.cgroup}/wake-{name}-1" for name in names}
        found = {name: cgroup_usage.usage(hierarchies, group).cpu for name, group in groups.items()}
        return {name: value for name, value in found.items() if value is not None}

    before = used()
    time.sleep(seconds)
    after = used()
    return {name: 100 * (after[name] - before[name]) / seconds for name in before if name in after}


def last(values: list[float]) -> float:
    """The 99th percentile; of less than a hundred values the largest."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


def main() -> None:
    end_in_order()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--isolations", default="container,sandbox,microvm")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds for which it is looked what sleepers take")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    took: dict[str, list[float]] = {}
    with brought_up(given.isolations.split(",")) as (whit, ports), tempfile.TemporaryDirectory() as directory:
        asked = measures(whit, ports, Path(directory))
        for _ in range(given.rounds):
            for name, measure in asked.items():
                took.setdefault(name, []).append(measure() * 1e3)
        taken = idle(whit, list(ports), given.idle)
    lines = [
        (name, median(values).text(1), f"{last(values):.1f}", f"{taken[name]:.2f}" if name in taken else "")
        for name, values in took.items()
    ]
    print(table(("", "p50 ms (95 %)", "p99 ms", "% of a core, idle"), lines))
    document = {"rounds": given.rounds, "milliseconds": took, "idle": taken}
    print(f"\n{keep('wake', document, given.results)}")


if __name__ == "__main__":
    main()
