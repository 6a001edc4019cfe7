"""whit build --target microvm and whit boot: an app as a machine of its own, the same bits each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
from support.booted import booted
from support.guests import HAS_QEMU
from support.whit import ROOT, Whit

from whit.base.settings import Settings
from whit.runtime import programs

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

APP = """
services:
  tiny:
    build: {{parts: [./rootfs]}}
    command: {command}
    user: app
    environment: {{GREETING: hello}}
"""


@pytest.fixture
def whit(settings: Settings) -> Whit:
    programs.build()
    return Whit(settings)


def app(tiny_root: Path, directory: Path, command: str) -> Path:
    directory.mkdir()
    shutil.copytree(tiny_root, directory / "rootfs", symlinks=True)
    (directory / "whit.yaml").write_text(APP.format(command=command))
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_the_verdict_is_the_exit_status(whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    command = '[sh, -c, "id -u; hostname; echo $$GREETING; cat /etc/resolv.conf; exit 42"]'
    whit(
        "build",
        str(app(tiny_root, tmp_path / "app", command)),
        "--target",
        "microvm-archive",
        "-o",
        f"{tmp_path}/m.tar",
    )
    done = whit("boot", str(tmp_path / "m.tar"), "--test", "--timeout", "200", check=False)
    assert done.returncode == 42, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["1000", "tiny", "hello"]
    assert lines[3].startswith("nameserver ")


def test_nothing_runs_on_when_whit_is_killed(whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    with booted(whit, str(app(tiny_root, tmp_path / "app", "[sleep, infinity]")), tmp_path) as machine:
        until = time.monotonic() + 120
        while not (children := children_of(machine.process.pid)):
            assert time.monotonic() < until
            time.sleep(0.05)
        machine.process.kill()
        machine.process.wait()
        while any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in children):
            assert time.monotonic() < until
            time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    """Those that are QEMU: whit starts others while it builds."""
    found = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for one in found if b"-smp" in Path(f"/proc/{one}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_builds_are_the_same(whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    """In another directory, at another time, by another store, files made in another order."""
    first = app(tiny_root, tmp_path / "one", "[sleep, infinity]")
    whit("build", str(first), "--target", "microvm", "-o", str(tmp_path / "a"))
    (tmp_path / "far" / "away").mkdir(parents=True)
    second = tmp_path / "far" / "away" / "app"
    second.mkdir()
    for path in sorted(first.rglob("*"), reverse=True):
        target = second / path.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_file():
            shutil.copy(path, target)
            os.utime(target, (1, 1))
        else:
            target.mkdir(exist_ok=True)
    other = Whit(Settings(whit.settings.id, whit.settings.run_root, tmp_path / "other"), {"TZ": "Asia/Tokyo"})
    told = other.json("build", str(second), "--target", "microvm", "-o", str(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    packed = other.json("build", str(second), "--target", "microvm-archive", "-o", str(tmp_path / "b.tar"))
    assert packed["exported"]["digest"] == told["exported"]["digest"]


def test_what_is_no_machine_is_refused(whit: Whit, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "is no machine" in whit("boot", str(tmp_path / "text"), check=False).stderr
    assert whit("boot", str(tmp_path / "text"), "-p", "99999:1", check=False).returncode == 2
    (tmp_path / "machine.json").write_text('{"name": "x"}')
    assert "is not what a build writes" in whit("boot", str(tmp_path), check=False).stderr


def test_options_that_would_do_nothing_are_refused(whit: Whit, tiny_root: Path, tmp_path: Path) -> None:
    path = str(app(tiny_root, tmp_path / "app", "[sleep, infinity]"))
    out = ("-o", str(tmp_path / "out"))
    assert "is about machines" in whit("build", path, "--fast-boot", *out, check=False).stderr
    assert "is no architecture" in whit("build", path, "--arch", "pdp11", *out, check=False).stderr
    machine = str(ROOT / "examples/machine/minimal.yml")
    assert "--service is for apps" in whit("build", machine, "--service", "web", *out, check=False).stderr
    whit("build", path, "--target", "microvm", "--fast-boot", *out)
    assert "cryptomgr.notests" in (tmp_path / "out" / "machine.json").read_text()
