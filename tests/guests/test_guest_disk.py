"""whit build --target disk: a disk that UEFI boots, whose root cannot be changed unseen, and whose state is kept."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from support.booted import FORMS_TOOLS
from support.guests import HAS_QEMU
from support.whit import Whit

from whit.base.settings import Settings
from whit.image.disks import gpt
from whit.kernel import disk_file
from whit.runtime import programs

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(not FORMS_TOOLS, reason="tools of requirements/debian-test.txt are not installed"),
]

COUNTING = """
services:
  tiny:
    build: {parts: [./rootfs]}
    command: [sh, -c, "echo x >> /data/boots; touch /data-not-kept; exit $$(wc -l < /data/boots)"]
    user: app
    read_only: true
    volumes: [kept:/data]
volumes:
  kept:
"""


@pytest.fixture
def whit(settings: Settings) -> Whit:
    programs.build()
    return Whit(settings)


def counting(tiny_root: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    shutil.copytree(tiny_root, directory / "rootfs", symlinks=True)
    (directory / "rootfs" / "data").mkdir()
    (directory / "rootfs" / "data").chmod(0o777)
    (directory / "whit.yaml").write_text(COUNTING)
    return directory


def test_state_is_kept_and_a_changed_root_does_not_boot(whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    disk = tmp_path / "machine.raw"
    whit("build", str(counting(tiny_root, tmp_path / "app")), "--target", "disk", "-o", str(disk))
    for wanted, words in ((1, []), (2, ["--discard"])):
        done = whit("boot", str(disk), "--test", "--timeout", "200", *words, check=False)
        assert done.returncode == wanted, done.stdout + done.stderr
        assert "Read-only file system" in done.stdout
    change_in_root(disk, b"\x7fELF", b"\x7fEVL")
    done = whit("boot", str(disk), "--discard", "--test", "--timeout", "400", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "did not say how" in done.stderr
    assert "dm-verity device corrupted" in done.stdout


def change_in_root(disk: Path, old: bytes, new: bytes) -> None:
    with disk_file.opened(disk, write=True) as blocks:
        root = gpt.read(blocks)["root-a"]
        data = blocks.read(root.offset, root.size)
        assert old in data
        blocks.write(root.offset + data.index(old), new)


@pytest.mark.parametrize("form", ["disk", "disk-qcow2", "iso", "microvm-archive --arch arm64"])
def test_two_builds_are_the_same(form: str, whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    """In another directory, by another store, in another time zone, at another time."""
    one, two = counting(tiny_root, tmp_path / "one"), counting(tiny_root, tmp_path / "far" / "away" / "app")
    other = Whit(Settings(whit.settings.id, whit.settings.run_root, tmp_path / "other"), {"TZ": "Asia/Tokyo"})
    first = whit.json("build", str(one), "--target", *form.split(), "-o", str(tmp_path / "first"))
    second = other.json("build", str(two), "--target", *form.split(), "-o", str(tmp_path / "second"))
    assert first["exported"]["digest"] == second["exported"]["digest"]
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.full
def test_what_is_too_large_for_a_medium_is_refused(whit: Whit, tmp_path: Path) -> None:
    """Its first root cannot be compressed, and firmware boots no more than 31 MiB."""
    app = tmp_path / "large"
    (app / "root").mkdir(parents=True)
    (app / "root" / "file").write_bytes(random.Random(1).randbytes(32 << 20))
    (app / "whit.yaml").write_text("services:\n  large: {build: {parts: [./root]}, command: [/file]}\n")
    done = whit("build", str(app), "--target", "iso", "-o", str(tmp_path / "made"), "--json", check=False)
    said = json.loads(done.stderr.splitlines()[-1])
    assert said["code"] == "iso-too-large"
    assert "--target disk" in said["hint"]
    assert not (tmp_path / "made").exists()


@pytest.mark.full
@pytest.mark.parametrize("form", ["disk", "iso"])
@pytest.mark.skipif(not Path("/usr/share/AAVMF").is_dir(), reason="qemu-efi-aarch64 is not installed")
def test_what_is_made_for_another_architecture_boots(form: str, whit: Whit, tmp_path: Path) -> None:
    """Through UEFI too. The firmware is translated as all else."""
    app = tmp_path / "far"
    app.mkdir()
    busybox = "build: {parts: ['debian:busybox-static']}, command: [busybox, sh, -c, 'busybox uname -m; exit 7']"
    (app / "whit.yaml").write_text(f"services:\n  far: {{{busybox}}}\n")
    made = tmp_path / "made"
    whit("build", str(app), "--target", form, "--arch", "arm64", "-o", str(made))
    done = whit("boot", str(made), "--arch", "arm64", "--test", "--timeout", "400", check=False)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "aarch64" in done.stdout
