"""Measures what an idle agent costs: share of a processor, memory, wake-ups a second.

`PYTHONPATH=src python benchmarks/agent.py [--id ID] [--seconds N]` as root, with `whit up examples/shop` done and
nobody asking anything, prints a table in Markdown and adds the run to results/agent.json. Health checks and monitors
are processes of their own and are counted apart, as are the resolver and the instances.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from whit.base.settings import Settings
from whit.control.resolver import running

RESULTS = Path(__file__).resolve().parent.parent / "results" / "agent.json"
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
        "agent_rss_mb": round(status(pid, "VmRSS") / 1000, 1),
        "agent_rss_peak_mb": round(status(pid, "VmHWM") / 1000, 1),
        "resolver_rss_mb": round(status(resolver, "VmRSS") / 1000, 1) if resolver else 0,
    }


def keep(numbers: dict[str, float | int]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    machine = {"kernel": os.uname().release, "cpus": os.cpu_count()}
    runs.append({"time": datetime.now(UTC).isoformat(), "machine": machine, "numbers": numbers})
    RESULTS.write_text(json.dumps(runs, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--id", help="the agent's id (default: $WHIT_ID, or whit)")
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    if arguments.id:
        settings = replace(settings, id=arguments.id)
    numbers = measure(settings, arguments.seconds)
    print("| what | measured |\n|---|---|")
    for name, value in numbers.items():
        print(f"| {name.replace('_', ' ')} | {value} |")
    keep(numbers)


if __name__ == "__main__":
    main()
