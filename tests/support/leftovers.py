"""What an agent id left on the machine, found without Whit's own clean-up code."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from support.slowness import patient
from whit.base.settings import Settings


def leftovers_after(settings: Settings, patience: float = 30.0) -> list[str]:
    """What is left of an agent id after a moment: the kernel removes links of a dead namespace in the background."""
    until = time.monotonic() + patient(patience)
    while (left := leftovers(settings)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def left_by_instances(settings: Settings) -> list[str]:
    """The same without what the agent keeps for itself as long as it lives: its control group, if nothing is in it."""
    kept = {f"cgroup {path}" for path in _own_cgroups(settings) if not any(map(Path.is_dir, path.glob("*")))}
    return [one for one in leftovers(settings) if one not in kept]


def leftovers(settings: Settings) -> list[str]:
    """Found independently of Whit's own clean-up: links, mounts, cgroups, pins, tables and processes of that id."""
    return [
        *_links(settings),
        *_mounts(settings),
        *_cgroups(settings),
        *([str(settings.bpf_dir)] if settings.bpf_dir.exists() else []),
        *_tables(settings),
        *_processes(settings),
    ]


def _links(settings: Settings) -> list[str]:
    return [
        f"link {path.name}" for path in Path("/sys/class/net").iterdir() if path.name.startswith(settings.link_prefix)
    ]


def _mounts(settings: Settings) -> list[str]:
    places = (f"{settings.run_dir}/", f"{settings.state_dir}/")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [f"mount {point}" for point in points if point.startswith(places)]


def _cgroups(settings: Settings) -> list[str]:
    """The agent's, and those beside it of containers that are tried."""
    found = {one for path in _own_cgroups(settings) for one in (path, *path.parent.glob(f"{path.name}-*"))}
    return [f"cgroup {path}" for path in sorted(found) if path.exists()]


def _own_cgroups(settings: Settings) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = ("cgroup", "cgroup2")
    return [Path(f"{fields[4]}{settings.cgroup}") for fields in mounts if fields[fields.index("-") + 1] in kinds]


def _tables(settings: Settings) -> list[str]:
    if shutil.which("nft") is None:
        return []
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if line.split()[-1:] == [settings.nft_table]]


def _processes(settings: Settings) -> list[str]:
    """Those whose command line names the id's directories or whose id is given as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if path.parent.name != str(os.getpid()) and (
            any(f"/{settings.id}/" in word for word in words) or ("--id" in words and settings.id in words)
        ):
            found.append(f"process {path.parent.name}: {' '.join(words)[:120]}")
    return found
