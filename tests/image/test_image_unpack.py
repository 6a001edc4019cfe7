"""Unpacking archives that mean harm, and what a layer may say."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import Tar, need, overlay, snapshot

from whit.base.errors import HostileArchive, InputError
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer
from whit.image.rootfs.unpack import unpack
from whit.image.sandbox.processes import module_environment
from whit.model.image import ImageConfig

DIR, LINK, SYM, CHAR, BLOCK, FIFO = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


@pytest.fixture
def extract(tmp_path: Path) -> Callable[[bytes], Path]:
    """Unpacks an archive below a directory that holds a file to be attacked."""
    (tmp_path / "victim").write_text("untouched")

    def run(data: bytes, compression: str = "") -> Path:
        blob = tmp_path / "blob"
        blob.write_bytes(data)
        plain = gzip.decompress(data) if compression == "gzip" else data
        destination = tmp_path / "layers" / "one"
        unpack(blob, compression, f"sha256:{hashlib.sha256(plain).hexdigest()}", destination)
        return destination

    yield run
    assert (tmp_path / "victim").read_text() == "untouched"
    left = [path.name for path in (tmp_path / "layers").iterdir()]
    assert left in ([], ["one"])


HOSTILE = {
    "parent": (Tar().add("../victim", data=b"x"), "archive-outside"),
    "parent inside": (Tar().add("a/../../victim", data=b"x"), "archive-outside"),
    "absolute": (Tar().add("/etc/whit-was-here", data=b"x"), "archive-outside"),
    "through a link": (Tar().add("a", SYM, link="..").add("a/victim", data=b"x"), "archive-through-link"),
    "through an absolute link": (
        Tar().add("a", SYM, link="/tmp").add("a/whit-was-here", data=b"x"),
        "archive-through-link",
    ),
    "through a link to a directory": (
        Tar().add("d", DIR).add("a", SYM, link="d").add("a/x", data=b"x"),
        "archive-through-link",
    ),
    "through a file": (Tar().add("a", data=b"x").add("a/b", data=b"x"), "archive-through-link"),
    "directory below a link": (Tar().add("a", SYM, link="..").add("a/new", DIR), "archive-through-link"),
    "hard link out": (Tar().add("a", LINK, link="../victim"), "archive-outside"),
    "hard link to an absolute path": (Tar().add("a", LINK, link="/etc/passwd"), "archive-outside"),
    "hard link to what comes later": (Tar().add("a", LINK, link="b").add("b", data=b"x"), "archive-hard-link"),
    "hard link to a directory": (Tar().add("d", DIR).add("a", LINK, link="d"), "archive-hard-link"),
    "hard link through a link": (Tar().add("l", SYM, link="..").add("a", LINK, link="l/victim"), "archive-hard-link"),
    "whiteout of the parent": (Tar().add(".wh...", data=b""), "archive-whiteout"),
    "whiteout of itself": (Tar().add("a/.wh..", data=b""), "archive-whiteout"),
    "whiteout of nothing": (Tar().add("a/.wh.", data=b""), "archive-whiteout"),
    "whiteout through a link": (Tar().add("a", SYM, link="..").add("a/.wh.victim", data=b""), "archive-through-link"),
    "character device": (Tar().add("etc/mem", CHAR, devmajor=1, devminor=1), "archive-device"),
    "block device": (Tar().add("disk", BLOCK, devmajor=8, devminor=0), "archive-device"),
    "whiteout made by hand": (Tar().add("etc/passwd", CHAR, devmajor=0, devminor=0), "archive-device"),
    "root is a file": (Tar().add("./", data=b"x"), "archive-root"),
    "root is a link": (Tar().add("./", SYM, link="/etc"), "archive-root"),
    "unknown type": (Tar().add("x", b"Q"), "archive-special-file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(name: str, extract: Callable[[bytes], Path]) -> None:
    archive, code = HOSTILE[name]
    with pytest.raises(HostileArchive) as caught:
        extract(archive.bytes())
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    assert not Path("/etc/whit-was-here").exists()
    assert not Path("/tmp/whit-was-here").exists()


def test_file_does_not_follow_a_link_of_the_same_name(extract: Callable[[bytes], Path]) -> None:
    found = extract(Tar().add("a", SYM, link="../../victim").add("a", data=b"mine").bytes())
    assert not (found / "a").is_symlink()
    assert (found / "a").read_bytes() == b"mine"


def test_replaced_file_leaves_its_hard_link_alone(extract: Callable[[bytes], Path]) -> None:
    found = extract(Tar().add("a", data=b"old").add("b", LINK, link="a").add("a", data=b"new").bytes())
    assert ((found / "a").read_bytes(), (found / "b").read_bytes()) == (b"new", b"old")


def test_directory_replaced_by_a_link_is_no_way_in(extract: Callable[[bytes], Path]) -> None:
    data = Tar().add("a", DIR).add("a/b", DIR).add("a", SYM, link="..").add("a/b/x", data=b"x").bytes()
    with pytest.raises(InputError, match="goes through a"):
        extract(data)


def test_duplicates_the_last_one_counts(extract: Callable[[bytes], Path]) -> None:
    found = extract(
        Tar().add("d", DIR, mode=0o700).add("d/f", data=b"1").add("d", DIR, mode=0o711).add("d/f", data=b"22").bytes()
    )
    assert (found / "d/f").read_bytes() == b"22"
    assert stat.S_IMODE((found / "d").stat().st_mode) == 0o711


def test_claimed_size_beyond_the_archive(extract: Callable[[bytes], Path]) -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 60
    with pytest.raises(InputError):
        extract(info.tobuf() + bytes(1024))


def test_truncated_archive(extract: Callable[[bytes], Path]) -> None:
    with pytest.raises(InputError):
        extract(Tar().add("a", data=bytes(5000)).bytes()[:3000])


def test_not_an_archive(extract: Callable[[bytes], Path]) -> None:
    with pytest.raises(InputError):
        extract(b"hello" * 1000)


def test_damaged_gzip(extract: Callable[[bytes], Path], tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(gzip.compress(Tar().add("a", data=bytes(5000)).bytes())[:-12])
    with pytest.raises(InputError):
        unpack(tmp_path / "bad", "gzip", "sha256:" + "0" * 64, tmp_path / "layers" / "one")


def test_gigabytes_of_header_do_not_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("./PaxHeaders/x")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    blob = tmp_path / "blob"
    with blob.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + (6 << 30) + 1024)
    request = {"blob": str(blob), "compression": "", "diff_id": "sha256:0", "destination": str(tmp_path / "l" / "x")}
    ended = subprocess.run(
        [sys.executable, "-m", "whit.image.rootfs.unpack"],
        input=json.dumps(request).encode(),
        capture_output=True,
        env=os.environ | module_environment(),
        timeout=120,
    )
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stdout)["code"].startswith("archive-")
    assert list((tmp_path / "l").iterdir()) == []


def test_another_digest_than_promised(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(Tar().add("a", data=b"x").bytes())
    with pytest.raises(InputError, match="its image says"):
        unpack(tmp_path / "blob", "", "sha256:" + "0" * 64, tmp_path / "layers" / "one")
    assert list((tmp_path / "layers").iterdir()) == []


def test_bytes_after_the_end_count_for_the_digest(extract: Callable[[bytes], Path]) -> None:
    found = extract(Tar().add("a", data=b"x").bytes() + bytes(3 << 20))
    assert (found / "a").exists()


def test_nodes_below_dev_are_left_to_the_runtime(extract: Callable[[bytes], Path]) -> None:
    found = extract(Tar().add("dev", DIR).add("dev/null", CHAR, devmajor=1, devminor=3).add("a", data=b"x").bytes())
    assert sorted(path.name for path in found.iterdir()) == ["a", "dev"]
    assert list((found / "dev").iterdir()) == []


def test_gzip(extract: Callable[..., Path]) -> None:
    assert (extract(gzip.compress(Tar().add("a", data=b"x").bytes()), "gzip") / "a").read_bytes() == b"x"


def test_zstd(extract: Callable[..., Path], tmp_path: Path) -> None:
    plain = Tar().add("a", data=b"x" * 100_000).bytes()
    packed = subprocess.run([need("zstd"), "-c"], input=plain, capture_output=True, check=True).stdout
    (tmp_path / "packed").write_bytes(packed)
    digest = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    unpack(tmp_path / "packed", "zstd", digest, tmp_path / "layers" / "one")
    assert (tmp_path / "layers" / "one" / "a").stat().st_size == 100_000


def test_twice_is_once(tmp_path: Path) -> None:
    data = Tar().add("a", data=b"x").bytes()
    (tmp_path / "blob").write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert unpack(tmp_path / "blob", "", digest, tmp_path / "layers" / "one")
    assert not unpack(tmp_path / "blob", "", digest, tmp_path / "layers" / "one")


LOWER = (
    Tar()
    .add("./", DIR)
    .add("etc", DIR)
    .add("etc/keep", data=b"keep", mtime=1234567890)
    .add("etc/gone", data=b"gone")
    .add("opaque", DIR)
    .add("opaque/hidden", data=b"hidden")
    .add("again", DIR)
    .add("again/hidden", data=b"hidden")
    .add("replaced", DIR)
    .add("replaced/below", data=b"x")
    .add("tree", DIR)
    .add("tree/sub", DIR)
    .add("tree/sub/file", data=b"x")
)
UPPER = (
    Tar()
    .add("./", DIR, mode=0o755)
    .add("etc", DIR, mode=0o750, gid=42)
    .add("etc/.wh.gone")
    .add("opaque", DIR)
    .add("opaque/.wh..wh..opq")
    .add("opaque/new", data=b"new")
    .add("replaced", data=b"now a file")
    .add(".wh.tree")
    .add("setuid", data=b"#!", mode=0o4755, uid=33, gid=33)
    .add("one", data=b"linked", uid=7)
    .add("two", LINK, link="one")
    .add("link", SYM, link="/etc/keep", uid=5, gid=6)
    .add("pipe", FIFO, mode=0o622)
    .add("noted", data=b"n", pax_headers={"SCHILY.xattr.user.note": "hi"})
    .add(
        "able", data=b"n", pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}
    )
)


def image_of(layout: Layout, archives: list[bytes]) -> list[Layer]:
    layers = []
    for data in archives:
        digest, size = layout.put(io.BytesIO(data))
        layers.append(Layer(Descriptor(manifest.LAYER, digest, size), digest))
    document = manifest.config_document(ImageConfig(), layers, ["test"] * len(layers), {})
    config = layout.put_document(manifest.CONFIG, document)
    blobs = [item.descriptor for item in layers]
    layout.tag("test", layout.put_document(manifest.MANIFEST, manifest.manifest_document(config, blobs, {})))
    return layers


@pytest.mark.root
def test_merged_tree_is_what_umoci_unpacks(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "images")
    layout.create()
    layers = image_of(layout, [LOWER.bytes(), UPPER.bytes()])
    directories = [tmp_path / "layers" / item.diff_id[7:] for item in layers]
    for item, directory in zip(layers, directories, strict=True):
        unpack(layout.path(item.descriptor.digest), "", item.diff_id, directory)
    subprocess.run([need("umoci"), "unpack", "--image", f"{layout.root}:test", tmp_path / "bundle"], check=True)
    with overlay(directories, tmp_path / "merged") as merged:
        ours, theirs = snapshot(merged), snapshot(tmp_path / "bundle" / "rootfs")
        assert ours == theirs
        assert (merged / "etc/keep").stat().st_mtime == 1234567890
    assert "opaque/hidden" not in ours
    assert "tree" not in ours
    assert ours["one"][-1] == ours["two"][-1]
    assert ours["able"][5]


@pytest.mark.root
def test_whiteout_beside_a_directory_of_the_same_name_hides_what_is_below_it(tmp_path: Path) -> None:
    archives = [LOWER.bytes(), Tar().add(".wh.again").add("again", DIR).add("again/new", data=b"n").bytes()]
    directories = []
    for data in archives:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        (tmp_path / "blob").write_bytes(data)
        directories.append(tmp_path / "layers" / digest[7:])
        unpack(tmp_path / "blob", "", digest, directories[-1])
    with overlay(directories, tmp_path / "merged") as merged:
        assert [path.name for path in (merged / "again").iterdir()] == ["new"]
