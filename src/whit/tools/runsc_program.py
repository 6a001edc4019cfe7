"""The program runsc: which ones there are on this machine, and what is known of the one that was tried.

Debian's, which is fetched, is runsc_package.py's; trying it is runsc.py's.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from whit.base.settings import Settings
from whit.tools import process


@dataclass(frozen=True)
class Finding:
    """What trying it showed; true until the next boot, or until the program changes."""

    version: str
    boot: str
    changed: int
    mistakes_namespaces: bool
    can_wait: bool
    """It takes the first program, and files for it, by descriptor (since March 2023)."""


def installed(settings: Settings) -> list[Path]:
    """Programs to be tried: the one that settings name and no other, else those that are installed or were fetched."""
    if settings.runsc is not None:
        return [settings.runsc]
    on_path = shutil.which("runsc", path=process.CLEAN_ENVIRONMENT["PATH"])
    fetched = sorted(settings.programs_dir.glob("runsc-*"), reverse=True)
    return [*([Path(on_path)] if on_path else []), *fetched]


def known(memory: Path, program: Path) -> Finding | None:
    """What was found of the program that is in its place; None if nothing is known."""
    try:
        there = Finding(**json.loads(memory.read_text()))
        changed = program.stat().st_mtime_ns
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return there if (there.boot, there.changed) == (_boot(), changed) else None


async def found(program: Path, *, mistakes_namespaces: bool) -> Finding:
    """What there is to know of a program that works here."""
    facts = await _version(program), _boot(), program.stat().st_mtime_ns, mistakes_namespaces
    return Finding(*facts, can_wait=await _takes_descriptors(program))


async def _version(path: Path) -> str:
    """As `20240729.0`; `--version` prints `runsc version 0.0~20240729.0` or `runsc version release-20240729.0`."""
    text = (await process.run([str(path), "--version"], timeout=10)).text
    found = re.search(r"(\d{8}\.\d+)", text)
    return found.group(1) if found else text.split("\n")[0].split()[-1]


async def _takes_descriptors(path: Path) -> bool:
    text = (await process.run([str(path), "help", "run"], timeout=10)).text
    return all(flag in text for flag in ("-exec-fd", "-pass-fd"))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
