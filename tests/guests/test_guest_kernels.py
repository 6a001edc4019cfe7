"""Every program, in every variant, passes the verifier of the kernels that users have; and none grows unnoticed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import instruction_counts, variants
from support.guests import HAS_QEMU
from support.instruction_counts import Counted

from whit.datapath import build
from whit.image.sources.kernel import Series

LIMIT = 500_000
"""Half of what kernels walk at most (BPF_COMPLEXITY_LIMIT_INSNS)."""


def check(counted: Counted, record: Callable[[str, object], None], count: int) -> None:
    assert not counted.refused, f"Linux {counted.kernel} refused {counted.refused}\n{counted.output[-4000:]}"
    assert len(counted.table) == count
    record(f"bpf: largest program on Linux {counted.kernel}, instructions walked", counted.largest)
    assert counted.largest < LIMIT
    grown = counted.grown(instruction_counts.written(counted.kernel))
    assert not grown, "\n".join([*grown, "wanted? then: PYTHONPATH=src:tests python -m support.instruction_counts"])


@pytest.fixture
def count(sample: Callable[[int, int], int]) -> int:
    """How many variants: all switches on, none, and without redirecting to the peer; or all combinations."""
    return sample(3, len(variants.every()))


def test_every_switch_is_known() -> None:
    missing = variants.unknown()
    assert not missing, f"say in support/variants.py what {missing} switch"


@pytest.mark.root
def test_on_this_kernel(tmp_path: Path, count: int, record_number: Callable[[str, object], None]) -> None:
    counted = instruction_counts.on_the_host(build.object_path("datapath"), tmp_path, count)
    check(counted, record_number, count)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed")
@pytest.mark.parametrize("series", ["stable", "backports"])
async def test_on_kernels_of_debian(
    series: Series, tmp_path: Path, count: int, record_number: Callable[[str, object], None]
) -> None:
    object_ = build.object_path("datapath")
    counted = await instruction_counts.in_a_guest(series, object_, tmp_path, count)
    check(counted, record_number, count)


REFUSED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc") int good(struct __sk_buff *skb) { return skb->len; }
SEC("tc") int bad(struct __sk_buff *skb) { return *(int *)(long)skb->data; }
"""


@pytest.mark.root
def test_the_loader_says_what_the_kernel_refuses(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text(REFUSED)
    include = f"-idirafter/usr/include/{os.uname().machine}-linux-gnu"
    argv = ["clang", "-O2", "-g", "-target", "bpf", include, "-c", "bad.c", "-o", "bad.o"]
    subprocess.run(argv, cwd=tmp_path, check=True)
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "only").write_bytes(b"")
    counted = instruction_counts.run_loader(tmp_path / "bad.o", tmp_path)
    assert counted.refused == ["bad of variant only"]
    assert "invalid access to packet" in counted.output
    assert counted.table.keys() == {"only"}


def test_what_is_refused_and_what_grew_is_noticed() -> None:
    output = "loaded all big 50000\r\nloaded all small 90\r\nwhy not\r\nrefused all bad\r\nend 1\r\n"
    counted = instruction_counts.parse("6.1", output)
    assert counted.refused == ["bad of variant all"]
    assert counted.grown({"all": {"big": 39_000, "small": 10}}) == [
        "big of variant all: 50000 instructions on Linux 6.1, 39000 before"
    ]
    assert not counted.grown({"all": {"big": 41_000}})
    with pytest.raises(AssertionError, match="did not end"):
        instruction_counts.parse("6.1", "loaded all big 50000\n")
