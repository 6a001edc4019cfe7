"""A specialised kernel: built from Debian's source, once; small; and what boots on it answers as ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.booted import booted
from support.guests import HAS_QEMU
from support.whit import ROOT, Whit

from whit.base.settings import Settings
from whit.runtime.microvm import build
from whit.tools import kbuild

LARGEST = 3_500_000
"""Bytes of the kernel."""

pytestmark = [
    pytest.mark.network,
    pytest.mark.full,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(bool(kbuild.missing("amd64")), reason="what builds kernels is not installed"),
]


def test_what_boots_on_debians_kernel_boots_on_it(
    settings: Settings, tmp_path: Path, record_number: Callable[[str, object], None]
) -> None:
    build.build()
    whit = Whit(settings)
    machine, again = tmp_path / "hello.vm", tmp_path / "again.vm"
    words = ["build", str(ROOT / "examples/hello"), "--target", "microvm", "--kernel", "specialised", "--output"]
    for name, target in (("first", machine), ("second", again)):
        began = time.monotonic()
        whit(*words, str(target), timeout=5000)
        record_number(f"build with a specialised kernel, {name}, s", round(time.monotonic() - began, 1))
    size = (machine / "kernel").stat().st_size
    record_number("specialised kernel, bytes", size)
    assert size <= LARGEST
    assert (machine / "kernel").read_bytes() == (again / "kernel").read_bytes()
    with booted(whit, str(machine), tmp_path) as guest:
        assert guest.get()
