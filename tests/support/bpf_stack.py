"""How much of the 512 bytes of stack the programs of an object may take together with all that they call.

Old kernels, 6.1 among them, round each function's part up to 32 bytes (check_max_stack_depth in kernel/bpf/verifier.c),
new ones to 16 where the program becomes machine code: what loads on one need not load on the other.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from whit.datapath.elf import Elf, Section

_INSTRUCTION = struct.Struct("<BBhi")
_RELOCATION = struct.Struct("<QQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_REL, _FUNCTION = 9, 2
_FRAME, _PSEUDO_CALL = 10, 1
_CALL, _MOVE, _ADD, _WIDE = 0x85, 0xBF, 0x07, 0x18


@dataclass
class Function:
    """`depth` is the farthest byte of its own frame that it names, `calls` are the others that it calls."""

    name: str
    section: str
    depth: int = 0
    calls: set[str] = field(default_factory=set)


def deepest(path: Path, program: str, rounding: int = 32) -> tuple[int, list[tuple[str, int]]]:
    """Bytes of the deepest chain of calls that begins at a program, and the chain with the bytes of each function."""
    functions = read(path)

    def chain(name: str) -> list[tuple[str, int]]:
        function = functions[name]
        least = 1 if rounding == 32 else 0  # the new kernels let a function without a frame take nothing
        own = (name, max(-(-function.depth // rounding), least) * rounding)
        return [own, *max((chain(called) for called in function.calls), key=_total, default=[])]

    found = chain(program)
    return _total(found), found


def programs_of(path: Path) -> list[str]:
    """The names of the functions that the kernel calls: those that are not in .text."""
    return [name for name, function in read(path).items() if function.section != ".text"]


def _total(chain: list[tuple[str, int]]) -> int:
    return sum(size for _, size in chain)


def read(path: Path) -> dict[str, Function]:
    """All functions of an object by name."""
    elf = Elf(path.read_bytes(), str(path))
    places = _functions(elf)
    found: dict[str, Function] = {}
    for section in elf.sections:
        starts = sorted(start for name, start in places if name == section.name)
        targets = dict(_relocated_calls(elf, section))
        for number, start in enumerate(starts):
            end = starts[number + 1] if number + 1 < len(starts) else len(section.data)
            function = Function(places[section.name, start], section.name)
            found[function.name] = function
            function.depth = _depth(section.data[start:end])
            for called in _calls(section, start, end, targets):
                within = sorted(offset for name, offset in places if name == called[0])
                function.calls.add(places[called[0], within[bisect_right(within, called[1]) - 1]])
    return found


def _functions(elf: Elf) -> dict[tuple[str, int], str]:
    """Names by section and offset."""
    found = {}
    for _, name, info, section, value in _symbols(elf):
        if info & 0xF == _FUNCTION:
            found[section, value] = name
    return found


def _symbols(elf: Elf) -> Iterator[tuple[int, str, int, str, int]]:
    table = elf.section(".symtab")
    names = elf.sections[table.link].data
    for number, (name, info, _, section, value, _) in enumerate(_SYMBOL.iter_unpack(table.data)):
        if section < len(elf.sections):
            text = names[name : names.index(0, name)].decode()
            yield number, text, info, elf.sections[section].name, value


def _relocated_calls(elf: Elf, section: Section) -> Iterator[tuple[int, tuple[str, int]]]:
    """Offset of an instruction, and the section and offset that its target counts from."""
    symbols = {number: (name, value) for number, _, _, name, value in _symbols(elf)}
    for table in elf.sections:
        if table.kind == _SHT_REL and table.name == f".rel{section.name}":
            for offset, info in _RELOCATION.iter_unpack(table.data):
                if info >> 32 in symbols:
                    yield offset, symbols[info >> 32]


def _calls(section: Section, start: int, end: int, relocated: dict[int, tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for offset in range(start, end, _INSTRUCTION.size):
        code, registers, _, immediate = _INSTRUCTION.unpack_from(section.data, offset)
        if code != _CALL or registers >> 4 != _PSEUDO_CALL:
            continue
        if offset in relocated:
            name, base = relocated[offset]
            yield name, base + (immediate + 1) * _INSTRUCTION.size
        else:
            yield section.name, offset + (immediate + 1) * _INSTRUCTION.size


def _depth(code: bytes) -> int:
    """By the constants that are added to the frame's register, which the compiler does just before it uses the sum."""
    lowest = 0
    places = {_FRAME: 0}
    skip = False
    for operation, registers, offset, immediate in _INSTRUCTION.iter_unpack(code):
        target, source, kind = registers & 0xF, registers >> 4, operation & 7
        if skip:
            skip = False
        elif operation == _WIDE:
            skip = True
            places.pop(target, None)
        elif kind in (1, 2, 3):
            base = source if kind == 1 else target
            lowest = min(lowest, places.get(base, 0) + offset if base in places else 0)
            if kind == 1 and target != _FRAME:
                places.pop(target, None)
        elif operation == _MOVE and source in places:
            places[target] = places[source]
        elif operation == _ADD and target in places:
            places[target] += immediate
            lowest = min(lowest, places[target])
        elif kind in (4, 7) and target != _FRAME:
            places.pop(target, None)
    return -lowest
