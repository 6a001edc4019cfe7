"""Export: an image in the form that others take: an OCI layout, the same as an archive, or its root as one tar.

Each is the same bytes for the same image, wherever and whenever it is written, and appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import Conflict, system_failure
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor
from whit.image.provenance import merged
from whit.image.provenance.needs import Graph
from whit.image.rootfs import layer, unpack
from whit.image.rootfs.tree import Entry, Extent
from whit.image.trust import signing

Target = Literal["oci", "oci-archive", "rootfs"]


@dataclass(frozen=True)
class Exported:
    """`digest` is the file's, or the manifest's of a layout."""

    path: Path
    digest: str
    size: int


def export(layout: Layout, name: str, descriptor: Descriptor, target: Target, output: Path) -> Exported:
    """Write the image to `output`; a former export there is replaced.

    Raises:
        Conflict: something else is there.
        DiskFull, SystemCallError: it cannot be written.
    """
    try:
        if target == "oci":
            return _layout(layout, name, descriptor, output)
        # Layers that others packed are unpacked beside the result meanwhile.
        with _new_file(output) as path, tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as scratch:
            packed = target == "oci-archive"
            entries = archive(layout, name, descriptor) if packed else root(layout, descriptor, Path(scratch))
            written = layer.write(entries, path)
        return Exported(output, written.digest, written.size)
    except OSError as error:
        raise system_failure("write", error) from error


def _layout(layout: Layout, name: str, descriptor: Descriptor, output: Path) -> Exported:
    if output.exists() and not (output / "oci-layout").is_file():
        raise Conflict(
            f"{output} is there and is no OCI layout",
            hint="remove it, or choose another --output",
            code="output-no-layout",
        )
    temporary = Path(tempfile.mkdtemp(dir=output.absolute().parent, prefix=".new-"))
    try:
        temporary.chmod(0o755)
        size = 0
        for entry in archive(layout, name, descriptor):
            path = temporary / entry.path
            if entry.kind == "directory":
                path.mkdir()
                continue
            with path.open("wb") as file:
                _copy(entry, file.fileno())
            size += entry.size
        _replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(output, descriptor.digest, size)


def _copy(entry: Entry, target: int) -> None:
    if isinstance(entry.content, Extent):
        with entry.content.path.open("rb") as source, os.fdopen(os.dup(target), "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    else:
        os.write(target, entry.content)


def _replace(new: Path, output: Path) -> None:
    if output.exists():
        old = Path(tempfile.mkdtemp(dir=output.absolute().parent, prefix=".old-"))
        output.rename(old / "layout")
        new.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(output)


def archive(layout: Layout, name: str, descriptor: Descriptor) -> Iterator[Entry]:
    """The files of a layout with this image and its signatures only, sorted (image-spec image-layout.md)."""
    document = manifest.parse_manifest(layout.read(descriptor.digest))
    signed = signing.blobs(layout, descriptor.digest)
    blobs = {descriptor.digest, document.config.digest, *(one.digest for one in (*document.layers, *signed))}
    yield Entry("blobs", "directory", 0o755)
    yield Entry("blobs/sha256", "directory", 0o755)
    for digest in sorted(blobs):
        path = layout.path(digest)
        content = Extent(path, 0, path.stat().st_size)
        yield Entry(f"blobs/sha256/{digest.removeprefix('sha256:')}", content=content)
    named = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, {manifest.REF_NAME: name})
    listed = [named.document(), *(one.document() for one in signed[-1:])]
    index = {"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": listed}
    yield Entry("index.json", content=manifest.encode(index))
    yield Entry("oci-layout", content=manifest.encode({"imageLayoutVersion": "1.0.0"}))


def root(layout: Layout, descriptor: Descriptor, scratch: Path) -> Iterable[Entry]:
    """The merged tree of all layers. Those that others packed are unpacked to `scratch`, where their contents stay."""
    document = manifest.parse_manifest(layout.read(descriptor.digest))
    sources = []
    for item in document.layers:
        tar = layout.path(item.digest)
        if compression := manifest.LAYERS[item.media_type]:
            plain = scratch / f"{item.digest.removeprefix('sha256:')}.tar"
            if not plain.exists():
                unpack.decompress(tar, compression, plain)
            tar = plain
        sources.append(merged.Source(tar, ()))
    return merged.merge(sources, Graph((), ())).tree


@contextlib.contextmanager
def _new_file(output: Path) -> Iterator[Path]:
    if output.is_dir():
        raise Conflict(f"{output} is a directory", hint="name a file with --output", code="output-directory")
    handle, name = tempfile.mkstemp(dir=output.absolute().parent, prefix=".new-")
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.chmod(0o644)
        path.rename(output)
    finally:
        path.unlink(missing_ok=True)
