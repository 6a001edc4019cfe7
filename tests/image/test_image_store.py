"""The store without any network: directories and layouts as parts, the cache, leases and garbage."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.images import Tar, need

from whit.base.errors import Conflict, InputError, NotFound
from whit.base.settings import Settings
from whit.image.oci import manifest
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart, LayoutPart
from whit.model.image import Image
from whit.model.progress import Report


def directory(path: Path, **files: str) -> BuildSpec:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return BuildSpec(parts=(DirectoryPart(path=path),))


async def test_build_then_found(store: ImageStore, tmp_path: Path, report: Report, steps: list[str]) -> None:
    spec = directory(tmp_path / "site", index="hello")
    built = await store.build("web", spec, report)
    assert not built.cached
    assert (built.layers[0] / "index").read_text() == "hello"
    assert built.config.env["PATH"].startswith("/usr/local/sbin")
    steps.clear()
    again = await store.build("web", spec, report)
    assert again == built.model_copy(update={"cached": True})
    assert steps == []


async def test_another_agent_finds_it_too(
    store: ImageStore, settings: Settings, tmp_path: Path, report: Report
) -> None:
    spec = directory(tmp_path / "site", index="hello")
    await store.build("web", spec, report)
    assert (await ImageStore(settings).build("web", spec, report)).cached


async def test_refresh_builds_again_to_the_same(store: ImageStore, tmp_path: Path, report: Report) -> None:
    spec = directory(tmp_path / "site", index="hello")
    first = await store.build("web", spec, report)
    second = await store.build("web", spec, report, refresh=True)
    assert second.digest == first.digest


async def test_change_rebuilds_only_its_layer(store: ImageStore, tmp_path: Path, report: Report) -> None:
    parts = [*directory(tmp_path / "a", one="1").parts, *directory(tmp_path / "b", two="2").parts]
    first = await store.build("web", BuildSpec(parts=tuple(parts)), report)
    (tmp_path / "b" / "two").write_text("3")
    second = await store.build("web", BuildSpec(parts=tuple(parts)), report)
    assert not second.cached
    assert second.layers[0] == first.layers[0]
    assert second.layers[1] != first.layers[1]


async def test_place_and_time_do_not_change_the_digest(tmp_path: Path, report: Report) -> None:
    digests = []
    for number in range(2):
        root = tmp_path / str(number)
        spec = directory(root.joinpath(*["deep"] * number, f"name-{number}"), b="2", a="1", c="3")
        for path in root.rglob("*"):
            os.utime(path, (number * 1000, number * 1000))
        settings = Settings(id="imgtest", run_root=root / "run", state_root=root / "state")
        digests.append((await ImageStore(settings).build("x", spec, report)).digest)
    assert digests[0] == digests[1]


async def test_same_build_at_the_same_time_is_done_once(
    store: ImageStore, tmp_path: Path, report: Report, steps: list[str]
) -> None:
    spec = directory(tmp_path / "site", index="hello")
    built = await asyncio.gather(*(store.build(f"web-{number}", spec, report) for number in range(6)))
    assert [image.cached for image in built].count(False) == 1
    assert steps == ["unpack 1 of 1 layers"]
    assert [item.name for item in store.images()] == [f"web-{number}" for number in range(6)]


async def test_builds_of_different_services_run_side_by_side(store: ImageStore, tmp_path: Path, report: Report) -> None:
    specs = [directory(tmp_path / f"s{number}", index=str(number)) for number in range(5)]
    built = await asyncio.gather(*(store.build(f"s{number}", spec, report) for number, spec in enumerate(specs)))
    assert len({image.digest for image in built}) == 5
    assert len(store.images()) == 5


async def test_missing_part_is_named(store: ImageStore, tmp_path: Path, report: Report) -> None:
    with pytest.raises(InputError, match="nowhere"):
        await store.build("web", BuildSpec(parts=(DirectoryPart(path=tmp_path / "nowhere"),)), report)


async def test_removed_layer_is_unpacked_again(store: ImageStore, tmp_path: Path, report: Report) -> None:
    spec = directory(tmp_path / "site", index="hello")
    built = await store.build("web", spec, report)
    shutil.rmtree(built.layers[0])
    again = await store.build("web", spec, report)
    assert not again.cached
    assert (again.layers[0] / "index").read_text() == "hello"


async def test_garbage(store: ImageStore, tmp_path: Path, report: Report) -> None:
    old = await store.build("web", directory(tmp_path / "site", index="old"), report)
    new = await store.build("web", directory(tmp_path / "site", index="new"), report)
    store.hold("shop-web-1", old)
    collected = await store.collect()
    assert (collected.blobs, collected.layers) == (3, 0)
    assert old.layers[0].exists()
    store.release("shop-web-1")
    store.release("shop-web-1")
    assert (await store.collect()).layers == 1
    assert not old.layers[0].exists()
    assert new.layers[0].exists()
    assert (await store.build("web", directory(tmp_path / "site"), report)).cached
    rebuilt = await store.build("web", directory(tmp_path / "site", index="old"), report)
    assert rebuilt.digest == old.digest


async def test_removed_image_is_garbage(store: ImageStore, tmp_path: Path, report: Report) -> None:
    await store.build("web", directory(tmp_path / "site", index="x"), report)
    store.remove("web")
    with pytest.raises(NotFound):
        store.remove("web")
    assert (await store.collect()).blobs == 3
    assert list(store.layers_dir.iterdir()) == []


async def test_no_collection_while_building(store: ImageStore) -> None:
    store.prepare()
    async with store._workshop.busy():
        with pytest.raises(Conflict):
            await store.collect()


async def test_leftovers_of_a_killed_process_are_removed(store: ImageStore, settings: Settings, report: Report) -> None:
    store.prepare()
    left = [
        store.layers_dir / ".new-abc" / "x",
        store.layers_dir / ".gone-abc" / "x",
        settings.state_dir / "builds" / "work" / "tmpabc" / "x",
    ]
    for path in left:
        path.parent.mkdir()
        path.write_text("half")
    (store.layout.root / "blobs" / "sha256" / ".new-abc").write_text("half")
    ImageStore(settings).prepare()
    assert not any(path.parent.exists() for path in left)
    assert list((store.layout.root / "blobs" / "sha256").iterdir()) == []


async def exported(store: ImageStore, tmp_path: Path, report: Report) -> tuple[Image, Path]:
    """An image of one store, and its layout as it lies on disk."""
    return await store.build("web", directory(tmp_path / "site", index="hello"), report), store.layout.root


def other(tmp_path: Path) -> ImageStore:
    return ImageStore(Settings(id="imgtest", run_root=tmp_path / "run2", state_root=tmp_path / "state2"))


def archive(layout: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(layout, ".")
    return path


async def test_import_of_a_layout_and_of_an_archive(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image, layout = await exported(store, tmp_path, report)
    second = other(tmp_path)
    got = await second.obtain(f"oci:{layout}:web", report)
    assert (got.digest, got.cached) == (image.digest, False)
    assert (await second.obtain(f"oci:{layout}:web", report)).cached
    packed = archive(layout, tmp_path / "image.tar")
    assert (await second.obtain(f"oci-archive:{packed}", report)).digest == image.digest
    assert (await second.obtain(f"oci:{layout}:web", report)).layers[0].is_dir()


async def test_layout_as_a_part(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image, layout = await exported(store, tmp_path, report)
    top = directory(tmp_path / "top", more="x").parts[0]
    spec = BuildSpec(parts=(LayoutPart(path=layout, reference="web"), top))
    built = await other(tmp_path).build("both", spec, report)
    assert built.layers[0].name == image.layers[0].name
    assert len(built.layers) == 2


async def test_missing_image(store: ImageStore, tmp_path: Path, report: Report) -> None:
    _, layout = await exported(store, tmp_path, report)
    with pytest.raises(NotFound, match="nobody"):
        await store.obtain(f"oci:{layout}:nobody", report)
    with pytest.raises(NotFound, match="no OCI layout"):
        await store.obtain(f"oci:{tmp_path}/nothing", report)
    with pytest.raises(InputError, match=r"index\.json"):
        await store.obtain(f"oci:{tmp_path}", report)


async def test_tampered_layer_is_refused(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image, layout = await exported(store, tmp_path, report)
    blob = layout / "blobs" / "sha256" / image.layers[0].name
    blob.write_bytes(blob.read_bytes().replace(b"hello", b"jello"))
    second = other(tmp_path)
    with pytest.raises(InputError, match="has the digest"):
        await second.obtain(f"oci:{layout}:web", report)
    assert second.images() == []


async def test_docker_archive_is_refused_by_name(store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "a.tar").write_bytes(Tar().add("manifest.json", data=b"[]").bytes())
    with pytest.raises(InputError, match="docker-archive"):
        await store.obtain(f"oci-archive:{tmp_path}/a.tar", report)


async def test_architecture_is_chosen(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image, layout = await exported(store, tmp_path, report)
    index = json.loads((layout / "index.json").read_bytes())
    ours = index["manifests"][0] | {"annotations": {}}
    theirs = dict(ours, digest="sha256:" + "0" * 64)
    nested = {"schemaVersion": 2, "manifests": []}
    for item, name in ((theirs, "ppc64le"), (ours, manifest.architecture())):
        nested["manifests"].append(item | {"platform": {"os": "linux", "architecture": name}})
    descriptor = store.layout.put_document(manifest.INDEX, nested).document()
    index["manifests"] = [descriptor | {"annotations": {manifest.REF_NAME: "multi"}}]
    (layout / "index.json").write_text(json.dumps(index))
    assert (await other(tmp_path).obtain(f"oci:{layout}:multi", report)).digest == image.digest


async def test_docker_manifest_is_refused_by_name(store: ImageStore, tmp_path: Path, report: Report) -> None:
    _, layout = await exported(store, tmp_path, report)
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"][0]["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"vnd\.docker\.distribution\.manifest\.v2"):
        await other(tmp_path).obtain(f"oci:{layout}", report)


async def test_skopeo_copies_what_was_built(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image, layout = await exported(store, tmp_path, report)
    argv = [need("skopeo"), "copy", "-q", f"oci:{layout}:web", f"oci-archive:{tmp_path}/out.tar:web"]
    subprocess.run(argv, check=True)
    again = await other(tmp_path).obtain(f"oci-archive:{tmp_path}/out.tar:web", report)
    assert [path.name for path in again.layers] == [path.name for path in image.layers]
