"""cpio archives are read by busybox as they were meant, and are the same bytes whatever the order."""

from __future__ import annotations

import io
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.image.rootfs import cpio
from whit.image.rootfs.tree import Entry, Extent

ENTRIES = [
    Entry("etc", "directory", 0o755),
    Entry("etc/odd name", mode=0o640, uid=7, gid=8, content=b"one"),
    Entry("etc/first", mode=0o600, content=b"shared", inode="i"),
    Entry("etc/second", mode=0o600, content=b"shared", inode="i"),
    Entry("link", "symlink", 0o777, target="etc/first"),
    Entry("pipe", "fifo", 0o600),
    Entry("a.b", "directory", 0o700),
    Entry("a", "directory", 0o700),
    Entry("a/z", content=b""),
]


def archive(entries: list[Entry]) -> bytes:
    output = io.BytesIO()
    cpio.write(entries, output)
    return output.getvalue()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox-static is not installed")
def test_busybox_unpacks_what_was_meant(tmp_path: Path) -> None:
    kept = tmp_path / "source"
    kept.write_bytes(b"..content..")
    entries = [*ENTRIES, Entry("from-disk", content=Extent(kept, 2, 7))]
    place = tmp_path / "root"
    place.mkdir()
    subprocess.run(["busybox", "cpio", "-idm"], input=archive(entries), cwd=place, check=True, capture_output=True)
    for entry in entries:
        found = (place / entry.path).lstat()
        assert (found.st_uid, found.st_gid) == (entry.uid, entry.gid)
        if entry.kind == "file":
            assert (place / entry.path).read_bytes() == entry.data()
            assert found.st_mtime == 0
        if entry.kind != "symlink":
            assert stat.S_IMODE(found.st_mode) == entry.mode
    assert (place / "etc/first").stat().st_ino == (place / "etc/second").stat().st_ino
    assert (place / "link").readlink() == Path("etc/first")
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)


def test_the_same_bytes_in_any_order() -> None:
    shuffled = list(ENTRIES)
    random.shuffle(shuffled)
    assert archive(shuffled) == archive(ENTRIES)
    assert archive(ENTRIES)[:6] == b"070701"


async def test_compressing_is_reproducible(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(archive(ENTRIES) * 100)
    for name in ("one", "two"):
        await cpio.compress(tmp_path / "plain", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_size < (tmp_path / "plain").stat().st_size / 10


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(InputError, match="too many for a root in memory"):
        archive([Entry("huge", content=Extent(tmp_path / "file", 0, 1 << 32))])
    with pytest.raises(InputError, match="became shorter"):
        archive([Entry("cut", content=Extent(tmp_path / "file", 0, 100))])
