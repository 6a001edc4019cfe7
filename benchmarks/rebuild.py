"""Measures what a person waits for after a change: `whit build` when nothing changed, when one file of the application
did, and when a machine is wanted besides.

`PYTHONPATH=src python benchmarks/rebuild.py [--rounds N] [SERVICE…]` prints a table and writes results/rebuild.json.
Services are those of benchmarks/images: closures with their checks, the most that a build does. Seconds are those of
the whole command, its start too; on a busy machine they say little, so CPU seconds (all its processes that it waited
for) stand beside them. Everything is built in a directory that is removed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import measure

IMAGES = Path(__file__).resolve().parent / "images"
CHANGED = {"fastapi": "fastapi/hello.py", "flask": "flask/hello.py", "http-server": "site/srv/www/index.txt"}
"""A file of the application, by service."""
TARGETS = {"unchanged": 1.0, "changed, OCI": 3.0, "changed, microVM": 5.0}
"""Seconds within which each should be done."""


def timed(argv: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(service: str, number: int, place: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    """In turn, so that a change of the machine's load meets all three."""
    app = place / "app"
    shutil.copytree(IMAGES, app)
    env = {**os.environ, "WHIT_STATE_ROOT": str(place / "state")}
    build = [sys.executable, "-m", "whit.cli", "build", str(app), "--service", service]
    machine = [*build, "--target", "microvm", "-o", str(place / "machine")]
    timed(machine, env)
    for one in range(number):
        yield "unchanged", timed(build, env)
        change(app / CHANGED[service], f"{one}a")
        yield "changed, OCI", timed(build, env)
        change(app / CHANGED[service], f"{one}b")
        yield "changed, microVM", timed(machine, env)


def change(file: Path, word: str) -> None:
    file.write_text(f"{file.read_text()}\n# {word}\n")


def row(service: str, number: int) -> dict[str, Any]:
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="whit-rebuild-", dir="/var/tmp") as place:
        for name, seconds in rounds(service, number, Path(place)):
            found.setdefault(name, []).append(seconds)
    cells = []
    result: dict[str, Any] = {"service": service}
    for name, limit in TARGETS.items():
        wall, cpu = (measure.median([one[index] for one in found[name]]) for index in (0, 1))
        result[name] = {"seconds": wall.value, "cpu": cpu.value, "least": min(found[name])[0], "limit": limit}
        cells.append(f"{wall.text(2)} / {cpu.value:.2f}")
    print(f"| {service} | {' | '.join(cells)} |", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(CHANGED)}; default all")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    measure.end_in_order()
    print("Seconds (95 % interval) / seconds of CPU\n\n| service | " + " | ".join(TARGETS) + " |\n|---|---|---|---|")
    rows = [row(service, given.rounds) for service in given.services or CHANGED]
    measure.keep("rebuild", {"rounds": given.rounds, "rows": rows})


if __name__ == "__main__":
    main()
