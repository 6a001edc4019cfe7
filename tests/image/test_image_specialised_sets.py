"""Debian's Linux takes every set of options, alone and with all others, for both architectures, and is hardened so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import hardening

from whit.control.machines.guests import KERNELS
from whit.image.sandbox.workshop import Workshop
from whit.image.sources import calls, kernel, specialised
from whit.tools import kbuild

ARCHITECTURES = ("amd64", "arm64")
CHOICES = [(), *((name,) for name in specialised.SETS), specialised.SETS]

pytestmark = [
    pytest.mark.network,
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(any(map(kbuild.missing, ARCHITECTURES)), reason="what builds kernels is not installed"),
]


def left_out(tree: Path) -> set[str]:
    """System calls that answer ENOSYS where Linux is built without them."""
    text = "".join((tree / name).read_text() for name in ("kernel/sys_ni.c", "kernel/time/posix-stubs.c"))
    return set(re.findall(r"(?:COND_SYSCALL|SYS_NI)\((\w+)\)", text))


async def test_linux_takes_every_set() -> None:
    home = KERNELS / "specialised-stable-amd64"
    home.mkdir(parents=True, exist_ok=True)
    package = await specialised.fetched(home, "stable")
    workshop = Workshop(home / "builds")
    workshop.prepare()
    async with workshop.bench() as bench:
        tree = await specialised.unpacked(bench, package)
        assert set(calls.WATCHED) <= left_out(tree)
        for architecture in ARCHITECTURES:
            for sets in CHOICES:
                options = specialised.configuration(architecture, sets)
                source = await specialised.configure(bench, tree, architecture, options)
                options_on = hardening.on(source.configuration.read_text())
                assert ("MODULES" in options_on) == ("bpf" in sets), (
                    "only BPF's compiler asks for modules to be possible"
                )
                assert hardening.wanted(architecture) - options_on == set()
                assert {"BPF_UNPRIV_DEFAULT_OFF", "STRICT_MODULE_RWX"} <= options_on or "bpf" not in sets
                if not sets:
                    unused = options_on & set(hardening.WITHOUT[architecture])
                    assert not unused, "said to be left out"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_of_each_defence_of_debians_kernel_it_is_said_why_it_is_there_or_not(architecture: str) -> None:
    debian = (await kernel.obtain(KERNELS, architecture)).configuration.read_text()
    told = hardening.wanted(architecture) | set(hardening.WITHOUT[architecture])
    assert hardening.of_interest(debian) - told == set(), "say in support/hardening.py why"
    assert told - hardening.of_interest(debian) == set(), "Debian's does not have it"
