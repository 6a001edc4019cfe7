"""The variants of a BPF object: what its load-time constants (bpf/include/config.h) switch on and off.

A variant is the bytes of .rodata, so that whoever loads it need not know the constants by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from whit.datapath.elf import Elf
from whit.datapath.objects import RODATA

SWITCHES: dict[str, tuple[str, ...]] = {
    "peer": ("redirect_peer",),
    "pool": ("pool", "pool_mask"),
    "pool6": ("pool6", "pool6_mask"),
    "mark": ("mark", "mark_mask"),
    "cookie": ("netns_cookie",),
}
"""Constants that open or close branches, by what they are for; each is off (0) or on."""
AMOUNTS = "_ns"
"""How the names of the others end: times, which are compared and decide no branch."""


def unknown(constants: list[str]) -> list[str]:
    """Constants of which the tables above say nothing."""
    known = {name for names in SWITCHES.values() for name in names}
    return [name for name in constants if name not in known and not name.endswith(AMOUNTS)]


def chosen(*, all_of_them: bool) -> list[frozenset[str]]:
    """Which switches are on in each variant: as the agent sets them, one less, none; or every combination."""
    everything = frozenset(SWITCHES)
    if all_of_them:
        sizes = range(len(everything), -1, -1)
        return [frozenset(on) for size in sizes for on in itertools.combinations(sorted(everything), size)]
    return [everything, *(everything - {name} for name in sorted(SWITCHES)), frozenset()]


def name_of(on: frozenset[str]) -> str:
    off = sorted(SWITCHES.keys() - on)
    return "no-" + "-".join(off) if off else "all"


def write(object_: Path, directory: Path, *, all_of_them: bool = False) -> list[str]:
    """A file for each variant; returns their names."""
    directory.mkdir(parents=True)
    names = []
    for name, data in _contents(Elf(object_.read_bytes(), str(object_)), all_of_them=all_of_them):
        (directory / name).write_bytes(data)
        names.append(name)
    return names


def _contents(elf: Elf, *, all_of_them: bool) -> Iterator[tuple[str, bytes]]:
    symbols = {symbol.name: symbol for symbol in elf.symbols if symbol.section == RODATA}
    for on in chosen(all_of_them=all_of_them):
        data = bytearray(elf.section(RODATA).data)
        for switch, constants in SWITCHES.items():
            for symbol in (symbols[name] for name in constants):
                value = int(switch in on).to_bytes(symbol.size, "little")
                data[symbol.offset : symbol.offset + symbol.size] = value
        yield name_of(on), bytes(data)
