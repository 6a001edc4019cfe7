"""What a specialised kernel does against the faults of processors is what Debian's does, as the guest itself tells.

QEMU plays processors that have the faults. What is built in, tests/image/ holds; here, that it is at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.booted import PATIENCE
from support.guests import HAS_QEMU
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.control.machines import booting
from whit.runtime import programs
from whit.tools import kbuild, qemu

pytestmark = [
    pytest.mark.network,
    pytest.mark.full,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

APP = """
services:
  seen:
    build: {parts: ["debian:busybox-static", ./site]}
    command: [busybox, httpd, -f, -p, "8080", -h, /srv]
"""
ANSWER = """#!/bin/busybox sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
cd /sys/devices/system/cpu/vulnerabilities
busybox grep . *
"""


@dataclass(frozen=True)
class Processor:
    model: str
    says: dict[str, str]
    """Of a guest's /sys/devices/system/cpu/vulnerabilities."""
    prints: tuple[str, ...]
    """At boot."""


PROCESSORS = {
    "amd64": (
        Processor(
            "Skylake-Client-v1",
            {
                "meltdown": "Mitigation: PTI",
                "indirect_target_selection": "Mitigation: Aligned branch/return thunks",
                "l1tf": "Mitigation: PTE Inversion",
            },
            ("Kernel/User page tables isolation: enabled", "Spectre V2 : Mitigation: Retpolines", "stack:all(zero)"),
        ),
        Processor(
            "EPYC-v1",
            {
                "retbleed": "Mitigation: untrained return thunk; SMT disabled",
                "spec_rstack_overflow": "Mitigation: safe RET, no microcode",
            },
            ("Spectre V2 : Mitigation: Retpolines", "heap alloc:on"),
        ),
    ),
    "arm64": (
        Processor(
            "cortex-a57",
            {},
            (
                "KASLR enabled",
                "detected: Kernel page table isolation (KPTI)",
                "detected: ARM erratum 832075",
                "detected: ARM errata 1165522, 1319367, or 1530923",
            ),
        ),
        Processor(
            "neoverse-n1",
            {"spectre_v2": "Mitigation: CSV2, BHB"},
            (
                "detected: Kernel page table isolation (KPTI)",
                "detected: Privileged Access Never",
                "detected: Broken broadcast TLBI completion",
                "stack:all(zero), heap alloc:on",
            ),
        ),
        Processor(
            "max,pauth-impdef=on",
            {},
            (
                "detected: Address authentication",
                "detected: Branch Target Identification",
                "detected: E0PD",
                "detected: Privileged Access Never",
            ),
        ),
    ),
}
HOSTS_ONLY = {"itlb_multihit"}
"""Said of what hosts of virtual machines do."""
NOT_DETECTED = {
    "32-bit EL1 Support",
    "ARM erratum 834220",
    "ARM erratum 1742098",
    "Data cache clean to Point of Persistence",
    "Data cache clean to Point of Deep Persistence",
}
"""What needs another part of Linux: hosts, 32-bit programs, persistent memory."""


@dataclass(frozen=True)
class Seen:
    vulnerabilities: dict[str, str]
    printed: str

    @property
    def detected(self) -> set[str]:
        return set(re.findall(r"CPU features: detected: (.*?)\r?$", self.printed, re.MULTILINE))


def seen_by(directory: Path, model: str, tmp_path: Path) -> Seen:
    """Boots a machine on a processor of this model, with all that the kernel prints."""
    log, port = tmp_path / "console.log", free_port()
    wishes = booting.Wishes(forwards=(qemu.Forward("127.0.0.1", port, 8080),))
    machine = booting.machine(directory, wishes, tmp_path)
    machine = replace(machine, console=log, append=machine.append.replace(" quiet loglevel=3", ""))
    argv = qemu.command(machine, "tcg", asyncio.run(qemu.version()))
    argv[argv.index("-cpu") + 1] = model
    log.unlink(missing_ok=True)
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        answer = _answer(f"http://127.0.0.1:{port}/cgi-bin/seen", log)
    finally:
        process.kill()
        process.wait()
    lines = (line.partition(":") for line in answer.splitlines())
    return Seen({name: text for name, _, text in lines}, log.read_text(errors="replace"))


def _answer(url: str, log: Path) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
        time.sleep(0.2)
    raise AssertionError(f"no answer; the machine printed:\n{log.read_text(errors='replace')}")


@pytest.mark.parametrize("architecture", kbuild.ARCHITECTURES)
def test_a_specialised_kernel_does_what_debians_does(
    architecture: str, settings: Settings, tmp_path: Path, record_number: Callable[[str, object], None]
) -> None:
    if packages := kbuild.missing(architecture):
        pytest.skip(f"what builds kernels for {architecture} is not installed: {', '.join(packages)}")
    if architecture == "arm64" and not shutil.which("qemu-system-aarch64"):
        pytest.skip("qemu-system-arm is not installed")
    programs.build()
    script = tmp_path / "app/site/srv/cgi-bin/seen"
    script.parent.mkdir(parents=True)
    script.write_text(ANSWER)
    script.chmod(0o755)
    (tmp_path / "app/whit.yaml").write_text(APP)
    words = ["build", str(tmp_path / "app"), "--target", "microvm", "--arch", architecture]
    debians, own = tmp_path / "debian", tmp_path / "own"
    Whit(settings)(*words, "--output", str(debians), timeout=600)
    Whit(settings)(*words, "--kernel", "specialised", "--output", str(own), timeout=5000)
    for processor in PROCESSORS[architecture]:
        seen, before = (seen_by(one, processor.model, tmp_path) for one in (own, debians))
        assert processor.says.items() <= seen.vulnerabilities.items()
        assert [line for line in processor.prints if line not in seen.printed] == []
        differ = {name for name, text in before.vulnerabilities.items() if seen.vulnerabilities.get(name) != text}
        assert differ <= HOSTS_ONLY
        assert before.detected - seen.detected <= NOT_DETECTED
        mitigated = [name for name, text in seen.vulnerabilities.items() if text.startswith("Mitigation")]
        record_number(f"mitigations at work, {architecture}, {processor.model}", len(mitigated))
