"""Trees and the tars they become: the same bytes for the same files."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest
from support.images import Tar

from whit.base.errors import InputError
from whit.image.rootfs import layer
from whit.image.rootfs.tree import MERGED_USR, Entry, Extent, Tree, clean_path, read_tar

ENTRIES = [
    Entry("usr", "directory", 0o755),
    Entry("usr/share", "directory", 0o755),
    Entry("usr/share/a", content=b"alpha", mode=0o4755, uid=7, gid=8),
    Entry("usr/share/b", "symlink", 0o777, target="a"),
    Entry("usr.d/x", content=b"x" * 5000),
    Entry("naïve-" + "n" * 150, content=b"long"),
    Entry("usr/cap", content=b"c", xattrs=(("security.capability", b"\1\0\0\2\xff\0"), ("user.note", b"hi"))),
]


def digest_of(entries: list[Entry], path: Path) -> str:
    tree = Tree()
    for entry in entries:
        tree.add(entry)
    return layer.write(tree, path).digest


def test_order_does_not_matter(tmp_path: Path) -> None:
    first = digest_of(ENTRIES, tmp_path / "first.tar")
    for number in range(5):
        shuffled = random.Random(number).sample(ENTRIES, len(ENTRIES))
        assert digest_of(shuffled, tmp_path / "other.tar") == first


def test_source_date_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest_of(ENTRIES, tmp_path / "first.tar")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert digest_of(ENTRIES, tmp_path / "second.tar") != first
    with tarfile.open(tmp_path / "second.tar") as tar:
        assert {member.mtime for member in tar} == {1700000000}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tree = Tree()
    for entry in ENTRIES:
        tree.add(entry)
    layer.write(tree, tmp_path / "layer.tar")
    read = {entry.path: entry for entry in read_tar(tmp_path / "layer.tar")}
    assert set(read) == {entry.path for entry in tree}
    for entry in ENTRIES:
        found = read[entry.path]
        assert (found.kind, found.mode, found.uid, found.gid, found.target, found.data(), found.xattrs) == (
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.target,
            entry.data(),
            entry.xattrs,
        )


def test_hard_links_stay_links_and_the_first_path_has_the_content(tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    archive.write_bytes(Tar().add("z", data=b"same").add("a", tarfile.LNKTYPE, link="z").bytes())
    tree = Tree()
    for entry in read_tar(archive):
        tree.add(entry)
    layer.write(tree, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [(member.name, member.type, member.linkname) for member in tar] == [
            ("a", tarfile.REGTYPE, ""),
            ("z", tarfile.LNKTYPE, "a"),
        ]


def test_hard_link_with_another_owner_becomes_a_file(tmp_path: Path) -> None:
    tree = Tree()
    tree.add(Entry("a", content=b"same", inode="1"))
    tree.add(Entry("b", content=b"same", inode="1", uid=5))
    layer.write(tree, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [member.isreg() for member in tar] == [True, True]


def merged() -> Tree:
    tree = Tree()
    for name, target in MERGED_USR.items():
        tree.add(Entry(name, "symlink", 0o777, target=target))
    return tree


def test_merged_usr() -> None:
    tree = merged()
    tree.add(Entry("bin", "directory", 0o755))
    tree.add(Entry("bin/sh", "symlink", 0o777, target="dash"))
    tree.add(Entry("lib/x86_64-linux-gnu/libc.so.6"))
    paths = {entry.path: entry.kind for entry in tree}
    assert paths["bin"] == "symlink"
    assert "usr/bin/sh" in paths
    assert "usr/lib/x86_64-linux-gnu/libc.so.6" in paths
    assert "bin/sh" not in paths


def test_links_below_are_followed_without_being_written() -> None:
    tree = Tree(MERGED_USR)
    tree.add(Entry("bin/hello"))
    assert [entry.path for entry in tree] == ["usr", "usr/bin", "usr/bin/hello"]


def test_link_does_not_replace_a_directory_nor_a_directory_a_link() -> None:
    tree = Tree()
    tree.add(Entry("etc/x", "directory"))
    tree.add(Entry("etc/x", "symlink", target="y"))
    tree.add(Entry("etc/l", "symlink", target="x"))
    tree.add(Entry("etc/l", "directory"))
    kinds = {entry.path: entry.kind for entry in tree}
    assert kinds == {"etc": "directory", "etc/x": "directory", "etc/l": "symlink"}


def test_file_replaces_a_directory_with_what_is_in_it() -> None:
    tree = Tree()
    tree.add(Entry("a/b/c"))
    tree.add(Entry("a/b", "directory"))
    tree.add(Entry("a/b", content=b"now a file"))
    assert [entry.path for entry in tree] == ["a", "a/b"]


def test_links_in_a_circle_are_refused() -> None:
    tree = Tree()
    tree.add(Entry("a", "symlink", target="b"))
    tree.add(Entry("b", "symlink", target="a"))
    with pytest.raises(InputError, match="too many"):
        tree.add(Entry("a/x"))


def test_link_cannot_lead_out_of_the_tree() -> None:
    tree = Tree()
    tree.add(Entry("a", "symlink", target="../../../etc"))
    tree.add(Entry("a/passwd"))
    assert "etc/passwd" in {entry.path for entry in tree}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a//b", "a/./b", "a\0b"])
def test_bad_paths(name: str) -> None:
    with pytest.raises(InputError):
        clean_path(name, "test")


@pytest.mark.parametrize("name", ["./", ".", ""])
def test_the_root_itself(name: str) -> None:
    assert clean_path(name, "test") == ""


def test_devices_are_refused_in_packages(tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    archive.write_bytes(Tar().add("dev/mem", tarfile.CHRTYPE, devmajor=1, devminor=1).bytes())
    with pytest.raises(InputError, match="dev/mem"):
        list(read_tar(archive))


def test_extent_reads_its_part(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    assert Extent(tmp_path / "f", 3, 4).read() == b"3456"
