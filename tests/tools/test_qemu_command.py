"""The command line of a machine, and the choice of processor and accelerator."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from whit.tools import qemu

PLAIN = qemu.Machine(Path("/k"), None, "quiet", Path("/log"))
FULL = qemu.Machine(
    Path("/k"),
    Path("/i"),
    "quiet",
    Path("/log,1"),
    memory=64,
    ports=(qemu.Port("a", Path("/a")), qemu.Port("b", Path("/b,c"))),
    disks=(qemu.Disk(Path("/disk"), "root", read_only=True),),
    shares=(qemu.Share("data", Path("/share")),),
    tap=qemu.Tap("tap0", "02:00:00:00:00:01"),
    qmp=Path("/qmp"),
)


def test_the_processor() -> None:
    assert qemu.cpu("tcg", (7, 2)) == "max,erms=off,fsrm=off,cx16=off"
    assert qemu.cpu("tcg", (10, 0)) == "max,erms=off,fsrm=off"
    assert qemu.cpu("kvm", (7, 2)) == "host"


def test_nothing_that_was_not_asked_for() -> None:
    words = qemu.command(PLAIN, "tcg", (7, 2))
    assert {"-nodefaults", "-no-user-config", "-sandbox"} <= set(words)
    assert [word for word in words if "virtio" in word] == ["virtio-rng-pci"]
    assert not {"-netdev", "-qmp", "-initrd", "-object"} & set(words)


def test_what_was_asked_for() -> None:
    words = qemu.command(FULL, "tcg", (7, 2))
    line = " ".join(words)
    assert "path=/log,,1" in line
    assert "path=/b,,c,server=on" in line, "a comma in a path is doubled"
    assert line.count("virtserialport") == 2
    assert "file=/disk,format=raw,readonly=on" in line
    assert "memory-backend-memfd,id=memory,size=64M,share=on" in line
    assert "tap,id=net,ifname=tap0,script=no,downscript=no" in line


def test_controllers_that_nothing_hangs_at_are_left_out() -> None:
    medium = replace(PLAIN, disks=(qemu.Disk(Path("/medium"), "medium", optical=True),))
    assert "sata=off" in " ".join(qemu.command(PLAIN, "tcg", (7, 2)))
    assert "sata=off" not in " ".join(qemu.command(medium, "tcg", (7, 2)))
    assert "sata=off" not in " ".join(qemu.command(replace(PLAIN, architecture="arm64"), "tcg", (7, 2)))


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed")
async def test_the_accelerator_is_one_that_runs() -> None:
    assert await qemu.accelerator() in ("kvm", "tcg")
    assert await qemu.version() >= (7, 2)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed")
async def test_that_kvm_fails_is_found_out_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By all processes: where a guest hangs, each would wait two seconds."""
    noted = tmp_path / "run/failed"
    monkeypatch.setattr(qemu, "_FAILED", noted)
    took = []
    while len(took) < 2 or (took[-1] > 1 and len(took) < 5):
        monkeypatch.setattr(qemu, "_found", [])
        began = time.monotonic()
        found = await qemu.accelerator()
        took.append(time.monotonic() - began)
    assert noted.exists() == (found == "tcg" and os.access("/dev/kvm", os.R_OK | os.W_OK))
    assert found == "kvm" or took[-1] < 1
    if noted.exists():
        noted.write_text("another QEMU")
        monkeypatch.setattr(qemu, "_found", [])
        assert await qemu.accelerator() == "tcg"
        assert noted.read_text() != "another QEMU"
