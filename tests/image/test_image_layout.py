"""The layout directory: what any OCI tool must be able to read."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from pathlib import Path

import pytest
from support.images import need

from whit.base.errors import InputError, NotFound
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer
from whit.model.image import ImageConfig


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "images")
    made.create()
    return made


def put_image(layout: Layout, name: str, content: bytes = b"") -> Descriptor:
    digest, size = layout.put(io.BytesIO(content or bytes(1024)))
    layer = Layer(Descriptor(manifest.LAYER, digest, size), digest)
    document = manifest.config_document(ImageConfig(env={"A": "b"}, command=("x",)), [layer], ["test"], {"l": "v"})
    config = layout.put_document(manifest.CONFIG, document)
    descriptor = layout.put_document(manifest.MANIFEST, manifest.manifest_document(config, [layer.descriptor], {}))
    layout.tag(name, descriptor)
    return descriptor


def test_blob_is_found_by_its_digest(layout: Layout) -> None:
    digest, size = layout.put(io.BytesIO(b"hello"))
    assert digest == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert (size, layout.path(digest).read_bytes()) == (5, b"hello")


def test_blob_of_another_digest_leaves_nothing(layout: Layout) -> None:
    with pytest.raises(InputError, match="has the digest"):
        layout.put(io.BytesIO(b"hello"), "sha256:" + "0" * 64)
    assert list((layout.root / "blobs" / "sha256").iterdir()) == []


@pytest.mark.parametrize("digest", ["sha512:" + "0" * 128, "sha256:../../../etc/passwd", "sha256:" + "A" * 64, ""])
def test_digest_cannot_be_a_path(layout: Layout, digest: str) -> None:
    with pytest.raises(InputError):
        layout.path(digest)


def test_name_moves_to_the_new_image(layout: Layout) -> None:
    put_image(layout, "shop")
    second = put_image(layout, "shop", b"x" * 512)
    put_image(layout, "other")
    assert sorted(layout.names()) == ["other", "shop"]
    found = layout.find("shop")
    assert found is not None
    assert found.digest == second.digest


def test_untag(layout: Layout) -> None:
    put_image(layout, "shop")
    layout.untag("shop")
    assert layout.find("shop") is None
    with pytest.raises(NotFound):
        layout.untag("shop")


def test_changed_document_is_refused(layout: Layout) -> None:
    descriptor = put_image(layout, "shop")
    layout.path(descriptor.digest).write_text("{}")
    with pytest.raises(InputError, match="does not have the content"):
        layout.read(descriptor.digest)


def test_missing_document(layout: Layout) -> None:
    with pytest.raises(NotFound):
        layout.read("sha256:" + "0" * 64)


def test_names_written_at_the_same_time_are_all_kept(layout: Layout) -> None:
    descriptor = put_image(layout, "first")
    names = [f"image-{number}" for number in range(24)]
    threads = [threading.Thread(target=layout.tag, args=(name, descriptor)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(layout.names()) == {"first", *names}


def test_not_a_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an OCI layout"):
        Layout(tmp_path).descriptors()


def test_config_survives_writing_and_reading() -> None:
    config = ImageConfig(
        user="postgres",
        env={"A": "1=2", "B": ""},
        entrypoint=("/bin/x",),
        command=("-v",),
        working_dir="/app",
        stop_signal="SIGINT",
        volumes=("/data",),
    )
    assert manifest.parse_config(manifest.config_document(config, [], [], {})) == config


def test_unsupported_layer_is_named() -> None:
    descriptor = {"mediaType": "application/x-squashfs", "digest": "sha256:" + "0" * 64, "size": 1}
    config = {"mediaType": manifest.CONFIG, "digest": "sha256:" + "0" * 64, "size": 1}
    with pytest.raises(InputError, match="application/x-squashfs"):
        manifest.parse_manifest({"config": config, "layers": [descriptor]})


def test_skopeo_and_umoci_read_it(layout: Layout) -> None:
    put_image(layout, "shop/web:1")
    inspected = subprocess.run(
        [need("skopeo"), "inspect", f"oci:{layout.root}:shop/web:1"], check=True, capture_output=True
    )
    document = json.loads(inspected.stdout)
    assert document["Env"] == ["A=b"]
    assert document["Labels"] == {"l": "v"}
    put_image(layout, "web")
    listed = subprocess.run([need("umoci"), "ls", "--layout", layout.root], check=True, capture_output=True, text=True)
    assert "web" in listed.stdout.split()
