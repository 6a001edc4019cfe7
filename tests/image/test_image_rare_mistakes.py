"""Mistakes that are rare, and processes that end when they should not: each has its code, and says what to do."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import Tar

from whit.base.errors import WhitError
from whit.image.building import plan, worker
from whit.image.forms import microvm
from whit.image.linking import prove
from whit.image.linking.closure import Closure, Wanted
from whit.image.linking.index import Index
from whit.image.oci import archive, manifest, reference
from whit.image.rootfs import accounts_file, erofs, unpack
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sandbox.workshop import Workshop
from whit.image.sources import debian, kernel
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart, LayoutPart, PythonPart
from whit.model.image import Image, ImageConfig
from whit.model.progress import Report
from whit.tools import apt

OTHER = "arm64" if manifest.architecture() == "amd64" else "amd64"


def made(name: str, **values: object) -> bytes:
    tar = Tar()
    tar.add(name, **values)  # type: ignore[arg-type]
    return tar.bytes()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def link_loop(_: Path) -> None:
    tree = Tree()
    for name, target in (("a", "b"), ("b", "a")):
        tree.add(Entry(name, "symlink", target=target))
    tree.locate("a/x")


def truncated(path: Path) -> None:
    """Within a file, whose size the head before it tells."""
    data = made("a", data=b"x" * 4096)[:2048]
    try:
        unpack.unpack(written(path / "layer", data), "", f"sha256:{hashlib.sha256(data).hexdigest()}", path / "out")
    finally:
        assert [entry.name for entry in path.iterdir()] == ["layer"]


def without_index(path: Path) -> None:
    archive.choose(archive.source(written(path / "a.tar", made("oci-layout", data=b"{}"))), None)


def no_microvm(path: Path) -> None:
    for name in ("made", "there"):
        (path / name).mkdir()
    microvm.publish(path / "made", path / "there")


def no_registry(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "SEARCH", path / "registries.conf")
        reference.parse("nothing")


def no_program(_: Path) -> None:
    tree = Tree()
    tree.add(Entry("usr/bin/other", mode=0o755, content=b"#!/bin/sh\n"))
    Closure(Index(tree), Wanted((("tool",),), ("/usr/bin",), "")).walk()


def foreign_layers(path: Path) -> None:
    plan.make(BuildSpec(parts=(LayoutPart(path=path),), architecture=OTHER))  # type: ignore[arg-type]


MISTAKES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda path: unpack.decompress(written(path / "a", gzip.compress(b"x" * 999)[:-9]), "gzip", path / "b"),
        "archive-compression",
    ),
    (without_index, "archive-incomplete"),
    (link_loop, "archive-link-loop"),
    (truncated, "archive-unreadable"),
    (lambda path: erofs.write([Entry("a", xattrs=(("odd.name", b""),))], path / "root"), "attribute-unknown"),
    (lambda path: erofs.write([Entry("a" * 256)], path / "root"), "name-too-long"),
    (lambda path: kernel.unpacked(path), "kernel-missing"),
    (lambda _: accounts_file.identity_of("root:x:0:0::/:", "", "root:staff"), "no-such-group"),
    (no_microvm, "output-no-microvm"),
    (no_registry, "image-no-registry"),
    (no_program, "no-program"),
    (lambda path: plan.make(BuildSpec(parts=(PythonPart(path=path / "gone"),))), "part-gone"),
    (foreign_layers, "foreign-part"),
]


@pytest.mark.parametrize(("attempt", "code"), MISTAKES, ids=[code for _, code in MISTAKES])
def test_mistakes(tmp_path: Path, attempt: Callable[[Path], object], code: str) -> None:
    with pytest.raises(WhitError) as caught:
        attempt(tmp_path)
    assert caught.value.code == code, caught.value
    assert caught.value.hint


async def test_a_layout_of_several_images(store: ImageStore, tmp_path: Path, report: Report) -> None:
    for name in ("a", "b"):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / name).touch()
        await store.build(name, BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),)), report)
    with pytest.raises(WhitError) as caught:
        await store.obtain(f"oci:{store.layout.root}", report)
    assert caught.value.code == "layout-ambiguous"
    assert "oci:PATH:NAME" in caught.value.hint


@pytest.mark.root
def test_a_layer_larger_than_the_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        blob = written(tmp_path / "layer", gzip.compress(made("a", data=bytes(100_000))))
        with pytest.raises(WhitError) as caught:
            unpack.decompress(blob, "gzip", small / "plain")
    finally:
        subprocess.run(["umount", small], check=True)
    assert caught.value.code == "archive-too-large"
    assert caught.value.hint


async def test_what_ends_without_an_answer(store: ImageStore, tmp_path: Path, report: Report) -> None:
    """A worker, and what unpacks layers: told as what they are, and nothing is left."""
    workshop = Workshop(tmp_path / "builds")
    workshop.prepare()
    async with workshop.bench() as bench:
        with pytest.raises(WhitError) as caught:
            await workshop.run(worker.__name__, bench, {"job": "unheard of"}, lambda _: None)
        assert caught.value.code == "build-ended"
        assert caught.value.hint
        with pytest.raises(WhitError) as caught, bench.output("layer.tar"):
            pass
        assert caught.value.code == "permanent"
    (tmp_path / "site").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(WhitError) as caught:
            await store.build("x", BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),)), report)
    assert caught.value.code == "unpacking-ended"
    assert store.images() == []


@pytest.mark.root
async def test_checks_that_end_early(tmp_path: Path) -> None:
    """A layer that is gone is found out in the namespaces of the checks, before any of them runs."""
    image = Image(name="x", digest="", config=ImageConfig(), layers=(tmp_path / "gone",), size=0)
    spec = BuildSpec(parts=(DirectoryPart(path=tmp_path),), check=(CheckSpec(run=("true",)),))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(WhitError) as caught:
        await prove.prove(image, spec, tmp_path / "scratch", lambda _: None)
    assert caught.value.code == "checks-ended"
    assert caught.value.hint


def ar(*members: tuple[str, bytes]) -> bytes:
    """deb(5), ar(5)."""
    rows = [f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(data):<10}`\n".encode() + data for name, data in members]
    return b"!<arch>\n" + b"".join(row + b"\n" * (len(row) % 2) for row in rows)


def tarred(*names: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return output.getvalue()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no package", "package-damaged"),
        (
            ar(("debian-binary", b"2.0\n"), ("control.tar", tarred("./md5sums")), ("data.tar", tarred())),
            "package-no-control",
        ),
    ],
    ids=["damaged", "no-control"],
)
async def test_packages_that_are_none(tmp_path: Path, data: bytes, code: str) -> None:
    root = apt.Root(tmp_path / "apt", tmp_path / "private", "amd64")
    package = apt.Package("odd", "1", "all", hashlib.sha256(data).hexdigest(), len(data), "Package: odd\n")
    root.path(package).parent.mkdir(parents=True)
    root.path(package).write_bytes(data)
    (tmp_path / "spool").mkdir()
    with pytest.raises(WhitError) as caught:
        await debian.link(root, apt.Resolved((package,), frozenset()), tmp_path / "spool", lambda _: None)
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    assert "odd" in caught.value.message
