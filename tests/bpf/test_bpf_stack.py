"""Whether the programs fit onto the stack of the oldest kernel that Whit is for, which counts it more strictly."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bpf_stack import deepest, programs_of

from whit.datapath import build

LIMIT = 512
"""MAX_BPF_STACK of <linux/filter.h>."""
TWO_DEEP = """
static __attribute__((noinline)) int inner(char *outer)
{
	volatile char own[70] = {};
	return outer[3] + own[5];
}
__attribute__((section("tc"), used)) int program(void *ctx)
{
	char room[200];
	((long (*)(char *, int, void *))4)(room, sizeof(room), ctx);
	return inner(room);
}
"""


def test_every_chain_of_calls_fits(record_number: Callable[[str, object], None]) -> None:
    path = build.object_path("datapath")
    found = {name: deepest(path, name) for name in programs_of(path)}
    assert {"from_instance", "to_instance", "from_uplink", "to_uplink"} <= found.keys()
    for name, (depth, chain) in found.items():
        if depth > 300:
            record_number(f"bpf: bytes of stack of {name} and what it calls, of {LIMIT} on Linux 6.1", depth)
        assert depth <= LIMIT, f"Linux 6.1 would not load {name}: {chain}"


@pytest.mark.parametrize(("rounding", "expected"), [(32, 224 + 96), (16, 208 + 80)])
def test_frames_are_added_up(tmp_path: Path, rounding: int, expected: int) -> None:
    (tmp_path / "two.c").write_text(TWO_DEEP)
    argv = ["clang", "-O2", "-target", "bpf", "-mcpu=v3", "-c", "two.c", "-o", "two.o"]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=60)
    depth, chain = deepest(tmp_path / "two.o", "program", rounding)
    assert (depth, [name for name, _ in chain]) == (expected, ["program", "inner"])
