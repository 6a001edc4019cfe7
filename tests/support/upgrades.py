"""What tests of upgrades share: disks with versions of one app, and what those say of themselves."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from support.booted import PATIENCE, Booted
from support.whit import Whit
from whit.base.errors import Conflict
from whit.control.machines import upgrading
from whit.image.disks import uki
from whit.image.disks.slots import Disk
from whit.kernel import disk_file
from whit.model.machine_files import DESCRIPTION, DiskFile, MachineFiles

APP = """
services:
  app:
    build: {parts: [./rootfs]}
    command: [sh, /start]
    healthcheck: {test: [CMD, test, -e, /tmp/up]}
    tmpfs: [/tmp]
    volumes: [kept:/data]
volumes:
  kept:
"""
START = """
test -e /data/seed || { dd if=/dev/urandom of=/data/seed bs=64k count=16 2>/dev/null; md5sum /data/seed >/data/sum; }
md5sum -c -s /data/sum && echo the state is whole
cat /version >>/data/boots
sync
echo runs $(cat /version), boots $(wc -l </data/boots)
touch /tmp/up
exec sleep 1000
"""
SAID = re.compile(r"^runs (\w+, boots \d+)\r?$(?=\n)", re.MULTILINE)
"""A whole line: what a machine prints comes in pieces."""
BAD = "echo runs $(cat /version); exit 1\n"


def made(whit: Whit, tiny_root: Path, directory: Path, version: str, start: str = START) -> Path:
    """A disk with this version of the app."""
    app = directory / version
    shutil.copytree(tiny_root, app / "rootfs", symlinks=True)
    (app / "rootfs/data").mkdir()
    (app / "rootfs/version").write_text(f"{version}\n")
    (app / "rootfs/start").write_text(start)
    (app / "whit.yaml").write_text(APP)
    disk = directory / f"{version}.raw"
    whit("build", str(app), "--target", "disk", "--fast-boot", "-o", str(disk))
    return disk


def without_firmware(disk: Path, directory: Path) -> Path:
    """What the loader would take from a disk, in a directory that boots in half of the time, without firmware."""
    directory.mkdir(exist_ok=True)
    with disk_file.opened(disk) as blocks:
        found = Disk(blocks)
        program = found.esp.content(found.versions()[0].file)
    for name in ("linux", "initrd"):
        (directory / name).write_bytes(uki.section(program, f".{name}"))
    (directory / disk.name).unlink(missing_ok=True)
    (directory / disk.name).symlink_to(disk)
    described = MachineFiles(
        name=disk.stem,
        architecture=found.architecture,
        kernel="linux",
        initrd="initrd",
        append=uki.section(program, ".cmdline").rstrip(b"\0").decode(),
        memory=256,
        disks=(DiskFile(file=disk.name, serial="disk", read_only=False),),
    )
    (directory / DESCRIPTION).write_text(described.model_dump_json())
    return directory


def until(machine: Booted, wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + 2 * PATIENCE  # it may boot several times
    while not wanted():
        assert machine.process.poll() is None, machine.printed
        assert time.monotonic() < end, machine.printed
        time.sleep(0.1)


def running(machine: Booted) -> str:
    """What the app said of itself, once it did: its version, and how often one was booted."""
    until(machine, lambda: bool(SAID.search(machine.printed)))
    assert "the state is whole" in machine.printed
    return SAID.findall(machine.printed)[-1]


def states(disk: Path) -> list[str]:
    """Of the versions that are on a disk, in the order in which they boot."""
    return [one["state"] for one in upgrading.versions(disk)]


def set_tries(disk: Path, left: int, done: int) -> None:
    """As if the version that boots next had been booted that often; the digits stand in the last part of its name."""
    with disk_file.opened(disk, write=True) as blocks:
        found = Disk(blocks)
        esp, part = found.part("esp"), found.versions()[0].file.places[0]
        sector = bytearray(esp.read(part // 512 * 512, 512))
        sector[part % 512 + 14], sector[part % 512 + 18] = ord(f"{left}"), ord(f"{done}")
        esp.write(part // 512 * 512, bytes(sector))


def until_free(disk: Path) -> None:
    """Until no machine runs from it any more."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(Conflict), disk_file.opened(disk, write=True):
            return
        time.sleep(0.02)
    raise AssertionError("the machine still runs from its disk")
