"""How many instructions the verifier of each kernel walks in each program and variant: counted, compared, written down.

    PYTHONPATH=src:tests python -m support.instruction_counts

writes bpf/instructions.json anew, with the host's kernel and those of Debian 12 and its backports as guests. The file
is the measure: who makes a program much larger sees it in the diff, long before a kernel refuses it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from support import variants
from support.guests import QUIET, compiled, debian_kernel, first_root, program
from whit.datapath import build
from whit.image.rootfs.tree import Entry
from whit.image.sources.kernel import Series
from whit.tools import qemu

LOADER = Path(__file__).resolve().parent.parent / "guests" / "load.c"
COUNTS = build.SOURCES / "instructions.json"
LIBRARIES = ("-lbpf", "-lelf", "-lz")
MEMORY = 512
TIMEOUT = 300.0
GROWTH = 1.25
SMALL = 1000
"""Growth by fewer instructions is of no account, however small the program was."""

_LOADED = re.compile(r"^loaded (\S+) (\S+) (\d+)\r?$", re.MULTILINE)
_REFUSED = re.compile(r"^refused (\S+) (\S+)\r?$", re.MULTILINE)
_END = re.compile(r"^end (\d+)\r?$", re.MULTILINE)

Table = dict[str, dict[str, int]]


@dataclass
class Counted:
    """What one kernel made of all variants: instructions by variant and program, and what it refused."""

    kernel: str
    table: Table = field(default_factory=lambda: defaultdict(dict))
    refused: list[str] = field(default_factory=list)
    output: str = ""

    @property
    def largest(self) -> int:
        return max(count for programs in self.table.values() for count in programs.values())

    def grown(self, before: Table) -> list[str]:
        """What is more than a quarter larger than it was, in words."""
        return [
            f"{name} of variant {variant}: {count} instructions on Linux {self.kernel}, {old} before"
            for variant, programs in self.table.items()
            for name, count in programs.items()
            if count > (old := before.get(variant, {}).get(name, count)) * GROWTH and count - old > SMALL
        ]


def parse(kernel: str, output: str) -> Counted:
    """Raises AssertionError if the loader did not come to its end."""
    assert _END.search(output), f"the loader did not end on Linux {kernel}:\n{output[-3000:]}"
    counted = Counted(kernel, output=output)
    for variant, name, count in _LOADED.findall(output):
        counted.table[variant][name] = int(count)
    counted.refused = [f"{name} of variant {variant}" for variant, name in _REFUSED.findall(output)]
    return counted


def on_the_host(object_: Path, work: Path, count: int) -> Counted:
    variants.write(object_, work / "variants", count)
    return run_loader(object_, work)


def run_loader(object_: Path, work: Path) -> Counted:
    """On the host, with the variants in `work`."""
    loader = compiled(LOADER, work / "load", LIBRARIES)
    argv = [str(loader), str(object_), str(work / "variants")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return parse(_short(os.uname().release), done.stdout)


async def in_a_guest(series: Series, object_: Path, work: Path, count: int) -> Counted:
    linux = await debian_kernel(series)
    names = variants.write(object_, work / "variants", count)
    root = await first_root(
        work / "root",
        program("init", compiled(LOADER, work / "load", LIBRARIES)),
        *(Entry(name, "directory", 0o755) for name in ("dev", "sys")),
        Entry("object", content=object_.read_bytes()),
        *(Entry(f"variants/{name}", content=(work / "variants" / name).read_bytes()) for name in names),
    )
    machine = qemu.Machine(linux.image, root, QUIET, work / "console", memory=MEMORY)
    return parse(_short(linux.release), await qemu.run_to_end(machine, timeout=TIMEOUT))


def _short(release: str) -> str:
    return ".".join(release.split(".")[:2])


def written(kernel: str) -> Table:
    """What bpf/instructions.json says of a kernel; empty if it says nothing."""
    table: dict[str, Table] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    return table.get(kernel, {})


async def _count() -> dict[str, Table]:
    object_ = build.object_path("datapath")
    with tempfile.TemporaryDirectory() as scratch:
        works = [Path(scratch) / name for name in ("host", "stable", "backports")]
        for work in works:
            work.mkdir()
        counted = [on_the_host(object_, works[0], variants.WRITTEN_DOWN)]
        counted.append(await in_a_guest("stable", object_, works[1], variants.WRITTEN_DOWN))
        counted.append(await in_a_guest("backports", object_, works[2], variants.WRITTEN_DOWN))
    for one in counted:
        print(f"Linux {one.kernel}: {len(one.table)} variants, at most {one.largest} instructions", *one.refused)
    return {one.kernel: dict(one.table) for one in counted}


if __name__ == "__main__":
    build.build()
    COUNTS.write_text(json.dumps(asyncio.run(_count()), indent=1, sort_keys=True) + "\n")
