"""Bad input and bad luck: every kind has a code of its own, and never leaves half an image where one could see it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.images import Tar

from whit.base.errors import DigestMismatch, DiskFull, HostileArchive, WhitError
from whit.base.settings import Settings
from whit.cli.commands import building
from whit.formats.app.appfile import load_app
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart, LayoutPart, Link
from whit.model.progress import Report


@pytest.mark.parametrize(
    ("build", "code"),
    [
        ("{parts: [debian:dash], lnk: trim}", "unknown-key"),
        ("{parts: [{part: debian:dash, links: trim}]}", "unknown-key"),
        ("{parts: [debian:dash], check: [{run: x, eventually: true}]}", "unknown-key"),
        ("{parts: [debian:dash], dockerfile: x}", "unknown-key"),
        ("{parts: [debian:dash], lnk: trim, check: [[]]}", "input"),
        ("{parts: [nothing]}", "part-unknown"),
    ],
)
def test_codes_of_app_files(tmp_path: Path, build: str, code: str) -> None:
    (tmp_path / "whit.yaml").write_text(f"services: {{web: {{build: {build}}}}}\n")
    with pytest.raises(WhitError) as caught:
        load_app(tmp_path)
    assert caught.value.code == code
    assert "whit.yaml:1:" in caught.value.message


async def test_unmet_need_is_told_before_anything_is_built(
    store: ImageStore, tmp_path: Path, report: Report, steps: list[str]
) -> None:
    part = DirectoryPart(path=tmp_path, label="./site", requires=("quantum",))
    with pytest.raises(WhitError, match=r"./site <- the app") as caught:
        await store.build("x", BuildSpec(parts=(part,)), report)
    assert caught.value.code == "unsatisfied-need"
    assert steps == []


def layout(path: Path, tar: bytes, *, compressed: bool = False, claimed: str = "") -> Path:
    """An OCI layout of one image with one layer, whatever is in it."""
    plain = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    return layout_of(path, gzip.compress(tar) if compressed else tar, "gzip" if compressed else "", claimed or plain)


def layout_of(path: Path, blob_bytes: bytes, compression: str, claimed: str = "sha256:" + "0" * 64) -> Path:
    made = Layout(path)
    made.create()
    blob, _ = made.put(io.BytesIO(blob_bytes))
    kind = f"{manifest.LAYER}+{compression}" if compression else manifest.LAYER
    config = {"architecture": manifest.architecture(), "os": "linux"}
    config_blob = made.put_document(manifest.CONFIG, config | {"rootfs": {"type": "layers", "diff_ids": [claimed]}})
    item = manifest.Descriptor(kind, blob, made.path(blob).stat().st_size)
    made.tag("x", made.put_document(manifest.MANIFEST, manifest.manifest_document(config_blob, [item], {})))
    return path


HOSTILE: dict[str, Callable[[], bytes]] = {
    "outside": lambda: Tar().add("../../etc/cron.d/x", data=b"x").bytes(),
    "absolute": lambda: Tar().add("/etc/passwd", data=b"x").bytes(),
    "through a link": lambda: Tar().add("a", tarfile.SYMTYPE, link="/etc").add("a/passwd", data=b"x").bytes(),
    "link to outside": lambda: Tar().add("a", tarfile.LNKTYPE, link="../../etc/shadow").bytes(),
    "device": lambda: Tar().add("mem", tarfile.CHRTYPE, devmajor=1, devminor=1).bytes(),
    "cut": lambda: Tar().add("a", data=b"x" * 9000).bytes()[:5000],
    "no tar": lambda: random.Random(1).randbytes(5000),
}


@pytest.mark.parametrize("link", ["whole", "trim"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_layers(
    store: ImageStore, tmp_path: Path, report: Report, name: str, compressed: bool, link: Link
) -> None:
    """Refused, whether they are unpacked as they are or linked first; a path through a link may be led inside."""
    part = LayoutPart(path=layout(tmp_path / "evil", HOSTILE[name](), compressed=compressed), link=link)
    if name == "through a link" and link == "trim":
        image = await store.build("x", BuildSpec(parts=(part,)), report)
        assert (image.layers[0] / "etc" / "passwd").read_bytes() == b"x"
        return
    with pytest.raises(HostileArchive) as caught:
        await store.build("x", BuildSpec(parts=(part,)), report)
    assert caught.value.code.startswith("archive-")
    assert store.images() == []
    assert not list(store.layers_dir.iterdir())


@pytest.mark.parametrize(
    ("compression", "link"), [("zstd", "trim"), pytest.param("gzip", "whole", marks=pytest.mark.full)]
)
async def test_bombs(store: ImageStore, tmp_path: Path, report: Report, compression: str, link: Link) -> None:
    """A layer of a few kilobytes that would be unpacked to 300 MB is refused at 256, whatever is free."""
    packed = tmp_path / "packed"
    with packed.open("wb") as output:
        shell = f"head -c 300M /dev/zero | {'gzip -1' if compression == 'gzip' else 'zstd -q'}"
        subprocess.run(["sh", "-c", shell], check=True, stdout=output)
    part = LayoutPart(path=layout_of(tmp_path / "evil", packed.read_bytes(), compression), link=link)
    with pytest.raises(HostileArchive) as caught:
        await store.build("x", BuildSpec(parts=(part,)), report)
    assert caught.value.code == "archive-bomb"
    assert "do not use the image" in caught.value.hint
    assert store.images() == []
    assert not list(store.layers_dir.iterdir())


@pytest.mark.parametrize("link", ["whole", "trim"])
async def test_the_last_of_two_entries_counts(store: ImageStore, tmp_path: Path, report: Report, link: Link) -> None:
    """As tar has it: also where a link is replaced by a file, whose contents do not go where the link led."""
    archive = Tar().add("a", data=b"1").add("a", data=b"2").add("l", tarfile.SYMTYPE, link="/etc/hostname")
    part = LayoutPart(path=layout(tmp_path / "twice", archive.add("l", data=b"own").bytes()), link=link)
    image = await store.build("x", BuildSpec(parts=(part,)), report)
    assert (image.layers[0] / "a").read_bytes() == b"2"
    assert not (image.layers[0] / "l").is_symlink()
    assert (image.layers[0] / "l").read_bytes() == b"own"


async def test_layer_that_is_not_what_its_image_says(store: ImageStore, tmp_path: Path, report: Report) -> None:
    evil = layout(tmp_path / "evil", Tar().add("a", data=b"x").bytes(), claimed="sha256:" + "0" * 64)
    with pytest.raises(DigestMismatch) as caught:
        await store.build("x", BuildSpec(parts=(LayoutPart(path=evil),)), report)
    assert caught.value.code == "layer-digest"
    index = json.loads((evil / "index.json").read_bytes())
    blob = Layout(evil).path(index["manifests"][0]["digest"])
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(DigestMismatch):
        await store.build("y", BuildSpec(parts=(LayoutPart(path=evil),)), report)
    assert store.images() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
@pytest.mark.parametrize("size", [1_500_000, 2_500_000, 5_000_000], ids=["unpacking", "linking", "writing"])
async def test_full_disk_in_the_middle(small: Path, tmp_path: Path, report: Report, size: int) -> None:
    """Wherever it happens: while the layer is written, linked, or unpacked. With more space the same store goes on."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "noise").write_bytes(random.Random(1).randbytes(size))
    store = ImageStore(Settings(id="imgtest", run_root=tmp_path / "run", state_root=small))
    spec = BuildSpec(parts=(DirectoryPart(path=tmp_path / "big", link="trim"),))
    with pytest.raises(WhitError) as caught:
        await store.build("x", spec, report)
    assert caught.value.code == DiskFull.code, caught.value
    assert "whit image gc" in caught.value.hint
    assert store.images() == []
    assert not [path for path in store.layers_dir.iterdir() if not path.name.startswith(".")]
    subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
    image = await store.build("x", spec, report)
    assert (image.layers[0] / "noise").stat().st_size == size
    assert (await store.collect()).layers == 0


@pytest.mark.root
@pytest.mark.network
@pytest.mark.parametrize(("megabytes", "form"), [(2, "microvm"), (16, "iso"), (30, "disk"), (1, "rootfs"), (1, "oci")])
async def test_full_disk_where_a_form_is_written(
    open_directory: Path, store: ImageStore, report: Report, megabytes: int, form: str
) -> None:
    """Whoever finds out, Whit or a program of others; nothing that was begun stays."""
    site, full = open_directory / "site", open_directory / "full"
    for path in (site, full):
        path.mkdir()
    (site / "noise").write_bytes(random.Random(1).randbytes(2_000_000))
    (open_directory / "whit.yaml").write_text("services: {web: {build: {parts: [./site]}, command: [/noise]}}\n")
    service = load_app(open_directory).services["web"]
    assert service.build
    image = await store.build("web", service.build, report)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", full], check=True)
    try:
        with pytest.raises(WhitError) as caught:
            await building.write(store, form, "web", service, image, full / "out", report)
        assert caught.value.code == DiskFull.code, caught.value
        assert "free some space" in caught.value.hint
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", full], check=True)


async def test_failed_check_leaves_nothing_that_is_visible(store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "site").mkdir()
    check = CheckSpec(run=("/nothing",))
    spec = BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),), check=(check,))
    for _ in range(2):
        with pytest.raises(WhitError) as caught:
            await store.build("x", spec, report)
        assert caught.value.code in ("check-failed", "unavailable")
    assert store.images() == []
    await store.collect()
    assert store.layout.digests() == []
