"""Two versions on a disk: the new one is kept once it is well, and gives way if it is not or is not whole; and
whenever the power goes, a whole version boots and the state is what it was."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.booted import FORMS_TOOLS, Booted, booted
from support.guests import HAS_QEMU
from support.machines import STORE, busybox_root
from support.upgrades import BAD, made, running, set_tries, states, until, until_free, without_firmware
from support.whit import Whit

from whit.base.settings import Settings
from whit.control.machines import upgrading
from whit.image.disks import upgrade
from whit.image.disks.slots import GOOD, NEW, Disk
from whit.kernel import disk_file
from whit.model.blocks import Blocks
from whit.runtime import programs
from whit.runtime.microvm import guest_disk

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(not FORMS_TOOLS, reason="tools of requirements/debian-test.txt are not installed"),
]


@pytest.fixture
def whit(settings: Settings) -> Whit:
    programs.build()
    return Whit(settings, {"WHIT_STATE_ROOT": str(STORE)})


@pytest.mark.full
def test_a_bad_version_and_a_corrupted_one_give_way(
    whit: Whit, tiny_root: Path, tmp_path: Path, sample: Callable[[int, int], int]
) -> None:
    """Without --full, most of the tries have been made already."""
    disk, two = made(whit, tiny_root, tmp_path, "one"), made(whit, tiny_root, tmp_path, "two")
    bad = made(whit, tiny_root, tmp_path, "bad", BAD)
    whit("upgrade", str(disk), "--to", str(bad))
    assert states(disk) == ["new", "good"]
    tries = sample(1, NEW)
    set_tries(disk, tries, NEW - tries)
    with booted(whit, str(disk), tmp_path, ["--reboot"]) as machine:
        assert running(machine) == "one, boots 1"
        assert machine.printed.count("runs bad") == tries
        assert machine.stop() == 0
    assert states(disk) == ["good", "failed"]

    whit("upgrade", str(disk), "--to", str(two))
    corrupt(disk, b"\x7fELF", b"\x7fEVL")
    tries = sample(1, GOOD)
    set_tries(disk, tries, GOOD - tries)
    assert states(disk) == ["good", "good"]
    with booted(whit, str(disk), tmp_path, ["--reboot"]) as machine:
        assert running(machine) == "one, boots 2"
        assert machine.printed.count("dm-verity device corrupted") == tries
        assert machine.stop() == 0
    assert states(disk) == ["good", "failed"]


_KILLS = 50

MACHINE = """
kernel: {{image: debian, cmdline: "console=ttyS0 quiet no_timer_check"}}
onboot: [{{name: check, image: ./box, command: [sh, -c, "echo runs {0}; exit {0}"]}}]
services: [{{name: idle, image: ./box, command: [sleep, "1000"]}}]
"""


@pytest.mark.full
def test_a_machine_whose_boot_fails_gives_way(whit: Whit, tmp_path: Path) -> None:
    busybox_root(tmp_path / "box")
    disk, file = tmp_path / "machine.raw", tmp_path / "machine.yml"
    file.write_text(MACHINE.format(0))
    whit("build", str(file), "--target", "disk", "-o", str(disk))
    file.write_text(MACHINE.format(3))
    whit("upgrade", str(disk), "--to", str(file))
    set_tries(disk, 1, NEW - 1)
    with booted(whit, str(disk), tmp_path, ["--reboot"]) as machine:
        until(machine, lambda: "the machine is up" in machine.printed)
        assert "onboot check failed: it ended with 3" in machine.printed
        assert machine.printed.count("whit: reboot") == 1
        assert machine.stop() == 0
    assert states(disk) == ["good", "failed"]
    [kept, _] = upgrading.versions(disk)
    assert (kept["number"], kept["tries"]) == (1, GOOD)


def corrupt(disk: Path, old: bytes, new: bytes) -> None:
    """In the root of the version that boots next."""
    with disk_file.opened(disk, write=True) as blocks:
        found = Disk(blocks)
        root = found.part(f"root-{found.versions()[0].letter}")
        place = root.read(0, root.size).index(old)
        blocks.write(root.offset + place, new)


class Counted:
    """A disk of which each write and flush is counted, and `strike` is called at one of them."""

    def __init__(self, blocks: Blocks, at: int = -1, strike: Callable[[], None] = lambda: None) -> None:
        self.blocks, self.size, self.count = blocks, blocks.size, 0
        self.at, self.strike = at, strike

    def read(self, offset: int, size: int) -> bytes:
        return self.blocks.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._step()
        self.blocks.write(offset, data)

    def flush(self) -> None:
        self._step()
        self.blocks.flush()

    def _step(self) -> None:
        if self.count == self.at:
            self.strike()
        self.count += 1


@pytest.mark.timeout(2400)
def test_the_power_goes_during_an_upgrade(
    whit: Whit, tiny_root: Path, tmp_path: Path, sample: Callable[[int, int], int]
) -> None:
    """QEMU is killed while the machine that runs gets another version, at some step of it and a moment later. What
    boots then is one of the two, its state is whole, and the next upgrade goes on from there.

    Without --full, only the last boot is by firmware and its loader, which take half of the time."""
    disk, chance = made(whit, tiny_root, tmp_path, "one"), random.Random(5)
    versions = {"one": tmp_path / "new.raw", "two": made(whit, tiny_root, tmp_path, "two")}
    copied(disk, versions["one"])
    steps = steps_of(disk, versions["two"], tmp_path / "copy.raw")
    place, ran, rounds = tmp_path / "upgrade", set(), sample(5, _KILLS)
    for number in range(1, rounds + 2):
        by_firmware = rounds == _KILLS or number > rounds
        boots = disk if by_firmware else without_firmware(disk, tmp_path / "loaded")
        with booted(whit, str(boots), tmp_path, ["--upgrade", str(place)]) as machine:
            version, _, count = running(machine).partition(", boots ")
            assert int(count) == number
            ran.add(version)
            until(machine, lambda: proven(place))
            if number > rounds:
                assert states(disk)[0] == "good"
                assert machine.stop() == 0
                break
            other = versions["two" if version == "one" else "one"]
            # The first is let through to the end, so that there is something to be removed.
            struck(machine, place, other, steps if number == 1 else chance.randrange(steps), chance.random() * 0.05)
        until_free(disk)
    assert ran == {"one", "two"}


def copied(disk: Path, to: Path) -> None:
    subprocess.run(["cp", "--sparse=always", disk, to], check=True)


def steps_of(disk: Path, new: Path, copy: Path) -> int:
    copied(disk, copy)
    with disk_file.opened(copy, write=True) as blocks, disk_file.opened(new) as source:
        counted = Counted(blocks)
        upgrade.write(counted, upgrade.source(source), lambda _: None)
    return counted.count


def proven(place: Path) -> bool:
    with guest_disk.connected(place) as disk:
        return disk.proven


def struck(machine: Booted, place: Path, new: Path, at: int, delay: float) -> None:
    """Upgrade it, and kill it at a step. QEMU dies with whit."""
    killing = threading.Timer(delay, machine.process.kill)
    with guest_disk.connected(place) as disk, disk_file.opened(new) as source:
        counted = Counted(disk, at, killing.start)
        with contextlib.suppress(guest_disk.MachineGone):
            upgrade.write(counted, upgrade.source(source), lambda _: None, disk.version)
    if killing.ident is not None:
        killing.join()
    machine.process.kill()
    machine.process.wait(30)
