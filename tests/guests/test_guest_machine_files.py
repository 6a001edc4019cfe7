"""whit build and whit boot of machine files: examples boot, one file gives the same bytes each time, and the verdict
of a boot is the exit status."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.booted import FORMS_TOOLS, booted
from support.guests import HAS_QEMU
from support.machines import STORE, busybox_root, linked
from support.whit import ROOT, Whit, free_port

from whit.base.settings import Settings
from whit.image.forms import microvm
from whit.runtime import programs

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

EXAMPLES = ROOT / "examples/machine"


@pytest.fixture
def whit(settings: Settings) -> Whit:
    programs.build()
    return Whit(settings, {"WHIT_STATE_ROOT": str(STORE)})


@pytest.mark.full
@pytest.mark.skipif(not FORMS_TOOLS, reason="what boots arm64 is not installed")
@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="qemu-user-static is not installed")
def test_a_machine_file_is_built_and_boots_for_arm64(whit: Whit, tmp_path: Path) -> None:
    port = free_port()
    with booted(whit, str(EXAMPLES / "web.yml"), tmp_path, ["-p", f"{port}:80", "--arch", "arm64"]) as machine:
        until = time.monotonic() + 200
        while "the machine is up" not in machine.printed:
            assert machine.process.poll() is None, machine.printed
            assert time.monotonic() < until, machine.printed
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert b"Not a whit more" in answer.read()


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_the_web_server_answers(whit: Whit, tmp_path: Path) -> None:
    port = free_port()
    words = ["-p", f"{port}:80", "--debug", str(tmp_path / "debug")]
    with booted(whit, str(EXAMPLES / "web.yml"), tmp_path, words) as machine:
        until = time.monotonic() + 200
        while "the machine is up" not in machine.printed:
            assert machine.process.poll() is None, machine.printed
            assert time.monotonic() < until, machine.printed
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert b"Not a whit more" in answer.read()
        for number in (1, 2):
            typed = f"ls /usr/bin\ncat /proc/1/cmdline\necho $((40 + {number}))\nexit\n"
            argv = [sys.executable, "-m", "whit.cli", "debug", str(tmp_path / "debug")]
            done = subprocess.run(
                argv, env=whit.env, input=typed, capture_output=True, text=True, timeout=60, check=True
            )
            shown = done.stdout
            assert "crun" in shown
            assert f"\n{40 + number}" in shown.replace("\r", "")
            assert shown.endswith("whit: the shell has ended\n")
        assert machine.stop() == 0
    assert "power off" in machine.printed
    gone = whit("debug", str(tmp_path / "debug"), check=False)
    assert gone.returncode == 3
    assert "no machine listens" in gone.stderr


async def test_the_same_bytes_wherever_it_is_built(tmp_path: Path) -> None:
    """And the tree says what brought each file."""
    made = []
    for name in ("one", "far/away/two"):
        directory = tmp_path / name
        shutil.copytree(EXAMPLES, directory)
        async with linked((EXAMPLES / "minimal.yml").read_text(), directory) as machine:
            made.append(directory / "made")
            made[-1].mkdir()
            await microvm.write(machine.bootable(), machine.kernel.linux, made[-1])
            assert machine.bill.explain("/usr/bin/crun")[0] == "/usr/bin/crun"
            place = "/containers/onboot/000-hello/config.json"
            assert "onboot hello" in " ".join(machine.bill.explain(place))
    assert contents(made[0]) == contents(made[1])
    assert set(contents(made[0])) == {"kernel", "initrd", "machine.json"}


def test_the_verdict_and_what_it_is_told(whit: Whit, tmp_path: Path) -> None:
    busybox_root(tmp_path / "box")
    (tmp_path / "user-data").write_text("#cloud-config\nhostname: told\n")
    (tmp_path / "machine.yml").write_text(
        """
kernel: {image: debian, cmdline: "console=ttyS0 quiet panic=-1"}
network: dhcp
onboot:
  - name: look
    image: ./box
    binds: ["/etc/resolv.conf:/etc/resolv.conf"]
    command: [sh, -c, "hostname; cat /etc/resolv.conf"]
  - {name: check, image: ./box, command: [sh, -c, "exit 42"]}
"""
    )
    first = ["--first-boot", str(tmp_path / "user-data")]
    done = whit("boot", str(tmp_path / "machine.yml"), "--test", "--timeout", "200", *first, check=False)
    assert done.returncode == 42, done.stdout + done.stderr
    assert "look: told" in done.stdout
    assert "look: nameserver " in done.stdout
    assert "onboot check failed: it ended with 42" in done.stdout


def test_what_a_store_does_not_have(whit: Whit, tmp_path: Path) -> None:
    (tmp_path / "machine.yml").write_text(
        "kernel: {image: debian}\nservices: [{name: a, image: 'nowhere/nothing:1'}]\n"
    )
    done = whit("build", str(tmp_path / "machine.yml"), check=False)
    assert done.returncode == 2
    refused = whit("build", str(EXAMPLES / "minimal.yml"), "--service", "web", check=False)
    assert "--service is for apps" in refused.stderr
    assert "machine.yml:2: the image nowhere/nothing:1 is not here" in done.stderr
    (tmp_path / "machine.yml").write_text("services: [{name: a, image: ./x}]\n")
    (tmp_path / "x").mkdir()
    done = whit("build", str(tmp_path / "machine.yml"), "-o", str(tmp_path / "out"), check=False)
    assert "has no kernel" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not FORMS_TOOLS, reason="tools of requirements/debian-test.txt are not installed")
def test_a_disk_keeps_var_and_volumes_and_is_told_once(whit: Whit, tmp_path: Path) -> None:
    busybox_root(tmp_path / "box")
    (tmp_path / "user-data").write_text("#cloud-config\nwrite_files: [{path: /var/told, content: x, append: true}]\n")
    (tmp_path / "machine.yml").write_text(
        """
kernel: {image: debian, cmdline: "console=ttyS0 quiet panic=-1"}
onboot:
  - name: count
    image: ./box
    binds: ["data:/data", "/var:/machine"]
    runtime: {mkdir: [/var/own]}
    command: [sh, -c, "echo x >>/data/boots; touch /gone; echo $(wc -l </data/boots) $(wc -c </machine/told); exit 5"]
volumes: [{name: data}]
"""
    )
    disk = tmp_path / "machine.raw"
    whit("build", str(tmp_path / "machine.yml"), "--target", "disk", "-o", str(disk))
    for wanted in ("count: 1 1", "count: 2 1"):
        first = ["--first-boot", str(tmp_path / "user-data")]
        done = whit("boot", str(disk), "--test", "--timeout", "200", *first, check=False)
        assert done.returncode == 5, done.stdout + done.stderr
        assert wanted in done.stdout, done.stdout
