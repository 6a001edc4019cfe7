"""The variants of a BPF object: what its load-time constants (bpf/include/config.h) switch on and off.

A variant is the bytes of .rodata, so that whoever loads it need not know the constants by name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from whit.datapath import build
from whit.datapath.elf import Elf
from whit.datapath.objects import RODATA

SWITCHES: dict[str, tuple[str, ...]] = {
    "peer": ("redirect_peer",),
    "pool": ("pool", "pool_mask"),
    "pool6": ("pool6", "pool6_mask"),
    "mark": ("mark", "mark_mask"),
    "cookie": ("netns_cookie",),
    "http": ("observe_http",),
}
"""Constants that open or close branches, by what they are for; each is off (0) or on."""
AMOUNTS = "_ns"
"""How the names of the others end: times, which are compared and decide no branch."""

_CONSTANT = re.compile(r"^const volatile [\w ]+?(\w+) =", re.MULTILINE)


def unknown() -> list[str]:
    """Constants of which the tables above say nothing."""
    known = {name for names in SWITCHES.values() for name in names}
    constants = _CONSTANT.findall((build.SOURCES / "include/config.h").read_text())
    return [name for name in constants if name not in known and not name.endswith(AMOUNTS)]


def every() -> list[frozenset[str]]:
    """Which switches are on in each variant, the most telling first: all, none, one less, then every combination."""
    all_on = frozenset(SWITCHES)
    first = [all_on, frozenset[str](), *(all_on - {name} for name in SWITCHES)]
    sizes = range(len(all_on), -1, -1)
    combined = [frozenset(on) for size in sizes for on in itertools.combinations(sorted(all_on), size)]
    return list(dict.fromkeys([*first, *combined]))


WRITTEN_DOWN = 2 + len(SWITCHES)
"""How many of them bpf/instructions.json knows."""


def name_of(on: frozenset[str]) -> str:
    off = sorted(SWITCHES.keys() - on)
    return "no-" + "-".join(off) if off else "all"


def write(object_: Path, directory: Path, count: int) -> list[str]:
    """A file for each of the first `count` variants; returns their names."""
    directory.mkdir(parents=True)
    names = []
    for name, data in _contents(Elf(object_.read_bytes(), str(object_)), count):
        (directory / name).write_bytes(data)
        names.append(name)
    return names


def _contents(elf: Elf, count: int) -> Iterator[tuple[str, bytes]]:
    symbols = {symbol.name: symbol for symbol in elf.symbols if symbol.section == RODATA}
    for on in every()[:count]:
        data = bytearray(elf.section(RODATA).data)
        for switch, constants in SWITCHES.items():
            for symbol in (symbols[name] for name in constants):
                value = int(switch in on).to_bytes(symbol.size, "little")
                data[symbol.offset : symbol.offset + symbol.size] = value
        yield name_of(on), bytes(data)
