"""What all benchmarks share: the machine's description, the statistics of rounds, and where results are kept."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Median:
    """Of rounds. With 95 % confidence the true median lies between `low` and `high`."""

    value: float
    low: float
    high: float
    rounds: int

    def text(self, digits: int = 0) -> str:
        return f"{self.value:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


def median(values: Sequence[float]) -> Median:
    """With an interval by order statistics, which supposes nothing of how the values are spread (Conover, Practical
    Nonparametric Statistics, 3.2). Of fewer than six values it is all of them, and holds with less confidence."""
    ordered = sorted(values)
    half = _NORMAL_95 * math.sqrt(len(ordered)) / 2
    low = max(math.floor(len(ordered) / 2 - half), 0)
    high = min(math.ceil(len(ordered) / 2 + half), len(ordered) - 1)
    return Median(statistics.median(ordered), ordered[low], ordered[high], len(ordered))


def end_in_order() -> None:
    """Let what SIGTERM ends (`timeout`, a supervisor) take away its namespaces and programs, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def machine() -> dict[str, Any]:
    """What figures mean nothing without."""
    return {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "processor": _line("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory_kib": int(_line("/proc/meminfo", "MemTotal").split()[0]),
        "load": round(os.getloadavg()[0], 2),
    }


def _line(path: str, name: str) -> str:
    """The value of the first line `name: value`."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0 unknown"


def keep(name: str, document: dict[str, Any], directory: Path = RESULTS, *, before: Path | None = None) -> Path:
    """A file of its own for each run: NAME-<time>.json, the machine's description in it. `before`: what an earlier call
    of this run wrote, to be written anew with what has come since."""
    now = datetime.now(UTC)
    path = before or directory / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    directory.mkdir(exist_ok=True)
    head = {"time": now.isoformat(timespec="seconds"), "machine": machine()}
    path.write_text(json.dumps(head | document, indent=2) + "\n")
    return path


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
