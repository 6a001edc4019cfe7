"""Our EROFS is what the tools of the format read: every kind of file, and the same bytes each time."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.image.rootfs import erofs
from whit.image.rootfs.tree import Entry, Extent, Tree

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
SIZES = (0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 3 * 4096 + 4090)


def entries(source: Path) -> list[Entry]:
    source.write_bytes(b"before" + b"z" * 100_000)
    files = [Entry(f"sizes/{size}", content=random.Random(size).randbytes(size)) for size in SIZES]
    names = [Entry(f"many/-{number:05}", content=str(number).encode()) for number in range(700)]
    return [
        *files,
        *names,
        Entry("large", mode=0o4755, uid=70000, gid=5, content=Extent(source, 6, 100_000)),
        Entry("link", "symlink", target="sizes/1"),
        Entry("far", "symlink", target="x" * 4000),
        Entry("fifo", "fifo", 0o600),
        Entry("one", content=b"same", inode="k"),
        Entry("two", content=b"same", inode="k"),
        Entry("other-owner", content=b"same", uid=1, inode="k"),
        Entry("granted", content=b"c", xattrs=(("security.capability", CAPABILITY), ("user.x", b"v"))),
        Entry("empty", "directory", 0o1777),
    ]


def tree(found: list[Entry]) -> Tree:
    made = Tree()
    for entry in found:
        made.add(entry)
    return made


@pytest.mark.skipif(not shutil.which("fsck.erofs"), reason="erofs-utils is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_the_tools_of_the_format_read_it(tmp_path: Path) -> None:
    found = entries(tmp_path / "source")
    erofs.write(tree(found), tmp_path / "image", "label")
    out = tmp_path / "out"
    subprocess.run(
        ["fsck.erofs", "--preserve", f"--extract={out}", tmp_path / "image"], check=True, stdout=subprocess.DEVNULL
    )
    for entry in found:
        path = out / entry.path
        facts = path.lstat()
        assert (facts.st_uid, facts.st_gid) == (entry.uid, entry.gid), entry.path
        if entry.kind == "symlink":
            assert str(path.readlink()) == entry.target
            continue
        assert facts.st_mode & 0o777 == entry.mode & 0o777, entry.path  # it loses setuid when it sets the owner
        if entry.kind == "file":
            assert path.read_bytes() == entry.data(), entry.path
        elif entry.kind == "fifo":
            assert stat.S_ISFIFO(facts.st_mode)
    assert sorted(path.name for path in (out / "many").iterdir()) == [f"-{number:05}" for number in range(700)]


@pytest.mark.machine
@pytest.mark.root
def test_the_kernel_reads_it(tmp_path: Path) -> None:
    erofs.write(tree(entries(tmp_path / "source")), tmp_path / "image")
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", tmp_path / "image", place], check=True)
    try:
        assert (place / "one").stat().st_ino == (place / "two").stat().st_ino != (place / "other-owner").stat().st_ino
        assert (place / "one").stat().st_nlink == 2
        assert stat.S_IMODE((place / "large").stat().st_mode) == 0o4755
        assert os.getxattr(place / "granted", "security.capability") == CAPABILITY
        assert os.getxattr(place / "granted", "user.x") == b"v"
        assert {path.name: path.stat().st_size for path in (place / "sizes").iterdir()} == {str(n): n for n in SIZES}
    finally:
        subprocess.run(["umount", place], check=True)


def test_the_same_tree_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = entries(tmp_path / "source")
    erofs.write(tree(found), tmp_path / "first")
    random.Random(7).shuffle(found)
    erofs.write(tree(found), tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    erofs.write(tree(found), tmp_path / "third")
    assert (tmp_path / "first").read_bytes() != (tmp_path / "third").read_bytes()


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a name of more than 255 bytes"):
        erofs.write([Entry("n" * 256)], tmp_path / "image")
    with pytest.raises(InputError, match="which a file system cannot keep"):
        erofs.write([Entry("a", xattrs=(("odd.x", b""),))], tmp_path / "image")
