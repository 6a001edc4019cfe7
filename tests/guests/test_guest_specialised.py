"""A specialised kernel: built from Debian's source, once; small; and what boots on it answers as ever."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.booted import booted
from support.guests import HAS_QEMU
from support.whit import ROOT, Whit

from whit.base.settings import Settings
from whit.runtime import programs
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
    programs.build()
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
    bill = json.loads(whit(*words, str(again), "--sbom", "-", timeout=600).stdout)
    assert [one["purl"].partition("@")[0] for one in bill["components"] if one["name"].startswith("linux-")] == [
        "pkg:deb/debian/linux-source-6.1"
    ]


@pytest.mark.skipif(bool(kbuild.missing("arm64")), reason="what builds kernels for arm64 is not installed")
@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="qemu-system-arm is not installed")
def test_it_is_built_and_boots_for_arm64(
    settings: Settings, tmp_path: Path, record_number: Callable[[str, object], None]
) -> None:
    """By a compiler for it. There kernels do not unpack themselves, so it is small only where that is asked for."""
    programs.build()
    whit = Whit(settings)
    words = ["build", str(ROOT / "examples/hello"), "--target", "microvm", "--kernel", "specialised", "--arch", "arm64"]
    for name, more in (("plain", []), ("small", ["--small"])):
        machine = tmp_path / name
        whit(*words, *more, "--output", str(machine), timeout=5000)
        record_number(f"specialised kernel for arm64, {name}, bytes", (machine / "kernel").stat().st_size)
        with booted(whit, str(machine), tmp_path) as guest:
            assert guest.get()
    assert (tmp_path / "small" / "kernel").stat().st_size <= LARGEST
    assert gzip.decompress((tmp_path / "small/kernel").read_bytes()) == (tmp_path / "plain/kernel").read_bytes()


def test_a_machine_whose_service_calls_what_it_lacks_is_refused(settings: Settings, tmp_path: Path) -> None:
    """As below, for a machine file: the service and the onboot step are named, and what is locked counts too."""
    for name, call in (("init", "getpid()"), ("tool", "syscall(444, 0, 0, 1)")):
        (tmp_path / name).mkdir()
        source = f"#include <unistd.h>\nint main(void) {{ {call}; return 0; }}"
        output = tmp_path / name / name
        subprocess.run(["cc", "-static", "-w", "-x", "c", "-", "-o", output], input=source.encode(), check=True)
    entry = "{{name: {0}, command: [/{0}], build: {{parts: [./{0}], check: [{{run: [/{0}]}}]}}}}"
    document = f"onboot: [{entry.format('init')}]\nservices: [{entry.format('tool')}]\n"
    (tmp_path / "machine.yml").write_text("kernel: {image: specialised}\n" + document)
    words, whit = ["build", str(tmp_path / "machine.yml")], Whit(settings)
    refused = whit(*words, "--observe", check=False, timeout=5000)
    assert refused.returncode
    lacks = "landlock_create_ruleset (CONFIG_SECURITY_LANDLOCK) of service tool"
    assert f"no specialised kernel has what was seen: {lacks}\n" in refused.stderr
    lock = {"version": 1, "entries": {"observed run of machine-init": {"calls": ["landlock_create_ruleset"]}}}
    (tmp_path / "whit.lock").write_text(json.dumps(lock))
    by_lock = whit(*words, check=False, timeout=5000)
    assert f"{lacks.replace('service tool', 'onboot init')}\n" in by_lock.stderr


def test_an_application_whose_call_no_set_brings_is_refused(settings: Settings, tmp_path: Path) -> None:
    """The lock is what an observed run wrote: this one calls what only Debian's kernel has."""
    root = tmp_path / "root"
    root.mkdir()
    source = "#include <unistd.h>\nint main(void) { syscall(444, 0, 0, 1); return 0; }"  # landlock_create_ruleset
    subprocess.run(["cc", "-static", "-w", "-x", "c", "-", "-o", root / "tool"], input=source.encode(), check=True)
    build = "{parts: [./root], check: [{run: [/tool]}], kernel: specialised}"
    (tmp_path / "whit.yaml").write_text(f"services: {{tool: {{command: [/tool], build: {build}}}}}\n")
    words = ["build", str(tmp_path), "--target", "microvm", "--output", str(tmp_path / "tool.vm")]
    whit = Whit(settings)
    refused = whit(*words, "--observe", check=False, timeout=5000)
    assert refused.returncode
    assert "landlock_create_ruleset (CONFIG_SECURITY_LANDLOCK)" in refused.stderr
    assert not (tmp_path / "tool.vm").exists()
    lock = tmp_path / "whit.lock"
    document = json.loads(lock.read_text())
    for entry in document["entries"].values():
        entry["calls"].remove("landlock_create_ruleset")
    lock.write_text(json.dumps(document))
    whit(*words, timeout=5000)
