"""Measures what an idle agent costs: share of a processor, memory, wake-ups a second.

`PYTHONPATH=src python benchmarks/agent.py [--id ID] [--seconds N]` as root, with `whit up examples/shop` done and
nobody asking anything, prints a table in Markdown and adds the run to results/agent.json. Health checks and monitors
are processes of their own and are counted apart, as are the resolver and the instances.

With `--services 10000 [--backends 5]` it first brings up an agent of its own with a hundred apps of so many services
that have backends elsewhere, measures it, starts it once more to measure it as it is after a restart, and removes it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from whit.base.settings import Settings
from whit.control.resolver import running

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "results" / "agent.json"
APPS = 100
FIRST = IPv4Address("100.64.0.1")
"""Of the backends: shared address space (RFC 6598), to which nothing is ever sent here."""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """User and system time of a process; with `children`, that of those it has waited for instead."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first = 13 if children else 11
    return (int(fields[first]) + int(fields[first + 1])) / TICKS


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status, of all threads together where it is counted for each."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
        value = int(line.split()[1])
        total = value if name.startswith("Vm") else total + value
    return total


def measure(settings: Settings, seconds: float) -> dict[str, float | int]:
    pid = int((settings.run_dir / "agent.lock").read_text())
    resolver = running(settings)
    before = cpu_seconds(pid), cpu_seconds(pid, children=True), status(pid, "voluntary_ctxt_switches"), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - before[3]
    return {
        "seconds": round(passed, 1),
        "agent_cpu_percent": round(100 * (cpu_seconds(pid) - before[0]) / passed, 2),
        "children_cpu_percent": round(100 * (cpu_seconds(pid, children=True) - before[1]) / passed, 2),
        "wakeups_per_second": round((status(pid, "voluntary_ctxt_switches") - before[2]) / passed, 1),
        "agent_rss_mb": round(status(pid, "VmRSS") * 1024 / 1e6, 1),
        "agent_rss_peak_mb": round(status(pid, "VmHWM") * 1024 / 1e6, 1),
        "resolver_rss_mb": round(status(resolver, "VmRSS") * 1024 / 1e6, 1) if resolver else 0,
    }


def show(numbers: dict[str, float | int]) -> None:
    print("| what | measured |\n|---|---|")
    for name, value in numbers.items():
        print(f"| {name.replace('_', ' ')} | {value} |")
    keep(numbers)


def keep(numbers: dict[str, float | int]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    machine = {"kernel": os.uname().release, "cpus": os.cpu_count()}
    runs.append({"time": datetime.now(UTC).isoformat(), "machine": machine, "numbers": numbers})
    RESULTS.write_text(json.dumps(runs, indent=2) + "\n")


def app_files(directory: Path, services: int, backends: int) -> Iterator[Path]:
    """App files of so many services in all, each with so many backends."""
    following = iter(range(int(FIRST), int(FIRST) + services * backends))
    for app in range(APPS):
        path = directory / f"app{app}" / "whit.yaml"
        path.parent.mkdir()
        text = f"name: app{app}\nservices:\n"
        for service in range(services // APPS):
            endpoints = ", ".join(f"'{IPv4Address(next(following))}:8080'" for _ in range(backends))
            text += f"  s{service}:\n    endpoints: [{endpoints}]\n"
        path.write_text(text)
        yield path.parent


def measure_many(services: int, backends: int, seconds: float) -> Iterator[dict[str, float | int]]:
    """An agent that was told of the apps one after the other, then one that finds them in its store."""
    with tempfile.TemporaryDirectory() as directory:
        settings = replace(Settings.from_environment(), id=f"b{secrets.token_hex(3)}", state_root=Path(directory))
        environment = os.environ | {"WHIT_ID": settings.id, "WHIT_STATE_ROOT": directory}

        def whit(*words: str) -> None:
            command = [sys.executable, "-m", "whit.cli", *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=TOP)

        try:
            apps = list(app_files(Path(directory), services, backends))
            for app in apps:
                whit("up", str(app))
            yield {"services": services, "backends": services * backends, **measure(settings, seconds)}
            os.kill(int((settings.run_dir / "agent.lock").read_text()), signal.SIGKILL)
            whit("up", str(apps[0]))
            time.sleep(5)
            yield {"services": services, "backends": services * backends, "restarted": 1, **measure(settings, seconds)}
        finally:
            whit("doctor", "--clean", "--yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--id", help="the agent's id (default: $WHIT_ID, or whit)")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--services", type=int, default=0, help="measure an agent with so many instead")
    parser.add_argument("--backends", type=int, default=5, help="of each of these services")
    arguments = parser.parse_args()
    if arguments.services:
        for numbers in measure_many(arguments.services, arguments.backends, arguments.seconds):
            show(numbers)
        return
    settings = Settings.from_environment()
    if arguments.id:
        settings = replace(settings, id=arguments.id)
    show(measure(settings, arguments.seconds))


if __name__ == "__main__":
    main()
