"""Upgrades of disks: what is written where, and that a cut at any moment leaves a version that boots and is whole."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from whit.base.errors import Conflict, InputError
from whit.image.disks import gpt, slots, uki, upgrade, verity
from whit.image.disks.gpt import Partition, Table
from whit.image.disks.slots import Disk, Entry, Version
from whit.kernel import disk_file
from whit.model.blocks import SECTOR
from whit.tools import mtools, veritysetup

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    not (STUB.exists() and all(map(shutil.which, ("veritysetup", "mkfs.fat", "mcopy")))),
    reason="tools of requirements/debian-test.txt are not installed",
)


def silent(_: str) -> None:
    pass


def make(path: Path, seed: int, *, root_size: int = 200_704, architecture: str = "amd64", left: int = 5) -> Path:
    """A small disk as a build lays it out, with a version that follows from the seed."""
    work = path.with_suffix(".work")
    work.mkdir()
    chance = random.Random(seed)
    (work / "root").write_bytes(chance.randbytes(root_size))
    version = UUID(bytes=chance.randbytes(16))
    salt = hashlib.sha256(b"salt").digest()
    tree = asyncio.run(veritysetup.build(work / "root", work / "hash", version, salt))
    append = f"quiet {slots.option(version)} {verity.option(tree)}".encode()
    sections = ((".cmdline", append), (".linux", chance.randbytes(30_000)))
    (work / "uki").write_bytes(uki.link(STUB.read_bytes(), sections))
    files = {f"{slots.DIRECTORY}/{Entry(1, version, left).name}": work / "uki"}
    asyncio.run(mtools.write(work / "esp", files, size=40 * MIB, label="ESP", identity=seed, epoch=0))
    kinds = ((gpt.ROOT, MIB, "root"), (gpt.VERITY, MIB, "hash"))
    parts = [Partition("esp", gpt.ESP, UUID(int=1), 40 * MIB)]
    parts += [
        Partition(f"{name}-{letter}", kind[architecture], UUID(int=2), size)
        for letter in "ab"
        for kind, size, name in kinds
    ]
    table = Table(UUID(int=seed), (*parts, Partition("state", gpt.LINUX, UUID(int=3), MIB)))
    path.touch()
    table.write(path)
    with path.open("r+b") as disk:
        for name, offset in zip(("esp", "root", "hash"), table.offsets, strict=False):
            disk.seek(offset)
            disk.write((work / name).read_bytes())
        disk.seek(table.offsets[-1])
        disk.write(b"kept" * 1000)
    shutil.rmtree(work)
    return path


class Recorded:
    """A disk in memory that keeps every write since its begin, with the flushes."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.log: list[tuple[int, bytes] | None] = []

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.content[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        assert offset % SECTOR == 0
        assert len(data) % SECTOR == 0
        self.content[offset : offset + len(data)] = data
        self.log.append((offset, data))

    def flush(self) -> None:
        self.log.append(None)


def cut(before: bytes, log: list[tuple[int, bytes] | None], at: int, chance: random.Random) -> Recorded:
    """The disk if the power went after so many steps: of what was not flushed, some sectors are there and some not."""
    flushed = max((number for number, one in enumerate(log[:at]) if one is None), default=0)
    disk = Recorded(before)
    for number, one in enumerate(log[:at]):
        for start in range(0, len(one[1]) if one else 0, SECTOR):
            assert one is not None
            if number < flushed or chance.random() < 0.5:
                place = one[0] + start
                disk.content[place : place + SECTOR] = one[1][start : start + SECTOR]
    return disk


def next_one(disk: Recorded) -> Version:
    """The version that boots next, which has to be whole."""
    found = Disk(disk)
    first = found.versions()[0]
    tree = verity.of_option(uki.section(found.esp.content(first.file), ".cmdline").decode())
    verity.check(found.part(f"root-{first.letter}"), found.part(f"hash-{first.letter}"), tree)
    return first


def test_the_new_version_boots_next_and_the_old_one_is_kept(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one", 1), make(tmp_path / "two", 2)
    state = one.read_bytes()[-2 * MIB :]
    with disk_file.opened(one, write=True) as disk, disk_file.opened(two) as new:
        before = Disk(disk).versions()
        written = upgrade.write(disk, upgrade.source(new), silent)
        after = Disk(disk).versions()
        again = upgrade.source(disk)
        assert again.program == upgrade.source(new).program
        with pytest.raises(Conflict, match="a machine runs from"), disk_file.opened(one, write=True):
            pass
    assert (written.number, written.slot, written.before) == (2, "b", before[0].entry.version.hex)
    assert [(each.entry.state, each.letter) for each in after] == [("new", "b"), ("good", "a")]
    assert after[1].entry == before[0].entry
    assert one.read_bytes()[-2 * MIB :] == state
    shown = subprocess.run(["fsck.fat", "-n", "-v", esp_of(one, tmp_path)], capture_output=True, text=True, check=True)
    assert "uninitialized" in shown.stdout, "firmware may not believe a count of free clusters that is old"


def esp_of(disk: Path, directory: Path) -> Path:
    with disk_file.opened(disk) as blocks:
        (directory / "esp").write_bytes(Disk(blocks).part("esp").read(0, 40 * MIB))
    return directory / "esp"


def test_a_cut_at_any_moment_leaves_a_whole_version(tmp_path: Path, sample: Callable[[int, int], int]) -> None:
    """Also of the upgrade after it, which takes back what the first one left."""
    disk = Recorded(make(tmp_path / "one", 1).read_bytes())
    made = [make(tmp_path / str(seed), seed) for seed in (2, 3)]
    for path in made:
        before, disk.log = bytes(disk.content), []
        old = next_one(disk).entry
        with disk_file.opened(path) as new:
            source = upgrade.source(new)
            upgrade.write(disk, source, silent)
            chance = random.Random(path.name)
            for at in range(len(disk.log)):
                for _ in range(sample(2, 40)):
                    left = cut(before, disk.log, at, chance)
                    assert next_one(left).entry.version in (old.version, source.version)
            left = cut(before, disk.log, chance.randrange(len(disk.log) - 1), chance)
            upgrade.write(left, source, silent)
            assert next_one(left).entry.version == source.version
        proven(disk)
    assert next_one(disk).entry.number == 3


def proven(disk: Recorded) -> None:
    """As init does it: the version has all tries again."""
    found = Disk(disk)
    first = found.versions()[0]
    place = first.file.places[0] + found.part("esp").offset + 14  # the sixth letter of the last part of the name
    assert disk.content[place] == ord("3")
    disk.content[place] = ord("5")
    assert Disk(disk).versions()[0].entry.state == "good"


def test_a_version_that_was_changed_is_none_to_fall_back_to(tmp_path: Path) -> None:
    disk = Recorded(make(tmp_path / "one", 1).read_bytes())
    first = next_one(disk).entry.version
    for seed in (2, 3):
        with disk_file.opened(make(tmp_path / str(seed), seed)) as new:
            upgrade.write(disk, upgrade.source(new), silent)
        if seed == 2:
            proven(disk)
            root = Disk(disk).part("root-b")
            disk.content[root.offset + 5000] ^= 1
    kept = {one.entry.version: one.entry.state for one in Disk(disk).versions()}
    assert kept.pop(first) == "good"
    assert list(kept.values()) == ["new"]


def test_what_cannot_be_written_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    disk = Recorded(make(tmp_path / "one", 1).read_bytes())
    foreign, same = make(tmp_path / "arm", 3, architecture="arm64"), tmp_path / "one"
    for path, kind, message in (
        (foreign, InputError, "the disk is for amd64, and the new version for arm64"),
        (same, Conflict, "has this version already, as number 1"),
    ):
        with disk_file.opened(path) as new, pytest.raises(kind, match=message):
            upgrade.write(disk, upgrade.source(new), silent)
    assert disk.log == []
    (tmp_path / "empty").write_bytes(bytes(MIB))
    with disk_file.opened(tmp_path / "empty") as new, pytest.raises(InputError, match="no partition table"):
        upgrade.source(new)


def test_a_source_that_was_changed_is_not_booted(tmp_path: Path) -> None:
    disk = Recorded(make(tmp_path / "one", 1).read_bytes())
    bad = Recorded(make(tmp_path / "two", 2).read_bytes())
    bad.content[Disk(bad).part("root-a").offset + 4096] ^= 0x10
    with pytest.raises(InputError, match="not what its root hash says"):
        upgrade.write(disk, upgrade.source(bad), silent)
    assert [one.entry.number for one in Disk(disk).versions()] == [1]


@pytest.mark.parametrize(
    ("left", "done", "state"), [(3, 0, "new"), (2, 1, "trial"), (0, 3, "failed"), (5, 0, "good"), (1, 4, "good")]
)
def test_what_a_name_says(left: int, done: int, state: str) -> None:
    assert Entry(7, UUID(int=1), left, done).state == state
