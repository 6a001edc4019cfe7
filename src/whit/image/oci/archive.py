"""Archive: images from an OCI layout directory or from an OCI archive (the same, as a tar) come into the store.

Every blob's digest is verified while it is copied. An index of several architectures is followed to the host's; what
the store cannot unpack later is refused now, by the name of its media type.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from whit.base.errors import DigestMismatch, InputError, NotFound
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer, Manifest

_DOCUMENT_LIMIT = 8 << 20
_INDEX_DEPTH = 4


class Source(Protocol):
    """Files of a layout by their path in it."""

    @property
    def name(self) -> str: ...

    def open(self, path: str) -> contextlib.AbstractContextManager[IO[bytes]]: ...


@dataclass(frozen=True)
class DirectorySource:
    root: Path

    @property
    def name(self) -> str:
        return str(self.root)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        try:
            with (self.root / path).open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise InputError(
                f"{self.root} has no {path}", hint="is it an OCI layout, and complete?", code="layout-incomplete"
            ) from error


class ArchiveSource:
    """An uncompressed tar; members are found once and read in place."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with tarfile.open(path, "r:") as tar:
                files = (member for member in tar if member.isreg() and not member.issparse())
                self._members = {member.name.removeprefix("./"): member for member in files}
        except tarfile.TarError as error:
            raise InputError(
                f"{path} is not an uncompressed tar: {error}", hint="decompress it first", code="archive-no-tar"
            ) from error

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        member = self._members.get(path)
        if member is None:
            raise InputError(
                f"{self.name} has no {path}",
                hint="is it an OCI archive (not docker-archive)?",
                code="archive-incomplete",
            )
        with tarfile.open(self.name, "r:") as tar, contextlib.closing(tar.fileobj):
            file = tar.extractfile(member)
            assert file is not None
            yield file


@dataclass(frozen=True)
class Imported:
    """`descriptor` is the manifest's. `fresh`: something had to be copied."""

    descriptor: Descriptor
    manifest: Manifest
    config: dict[str, Any]
    fresh: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        ids = manifest.parse_diff_ids(self.config)
        return tuple(Layer(layer, diff_id) for layer, diff_id in zip(self.manifest.layers, ids, strict=True))


def source(path: Path) -> Source:
    """Raises NotFound if there is nothing at `path`."""
    if path.is_dir():
        return DirectorySource(path)
    if path.is_file():
        return ArchiveSource(path)
    raise NotFound(f"there is no OCI layout or archive at {path}", hint="check the path", code="layout-missing")


def choose(origin: Source, reference: str | None) -> Descriptor:
    """The manifest of the image with this name, for this machine's architecture.

    Raises:
        NotFound: no image has the name, or none is for this architecture.
        InputError: there are several images and no name was given.
    """
    items = [item for item in _index(origin) if not manifest.is_signature(item.annotations.get(manifest.REF_NAME, ""))]
    if reference is not None:
        items = [item for item in items if item.annotations.get(manifest.REF_NAME) == reference]
    return _follow(origin, items, reference or "an image", _INDEX_DEPTH)


def find(origin: Source, name: str) -> dict[str, Any]:
    """The manifest with this name; empty if there is none."""
    item = next((item for item in _index(origin) if item.annotations.get(manifest.REF_NAME) == name), None)
    return manifest.parse(_document(origin, item), item.digest) if item else {}


def copy(origin: Source, blob: Descriptor, layout: Layout) -> None:
    """Raises DigestMismatch."""
    with origin.open(_blob_path(blob)) as file:
        layout.put(file, blob.digest)


def _index(origin: Source) -> list[Descriptor]:
    index = manifest.parse(_read(origin, "index.json"), f"{origin.name}: index.json")
    return [Descriptor.parse(item) for item in index.get("manifests") or ()]


def _follow(origin: Source, items: list[Descriptor], what: str, depth: int) -> Descriptor:
    if len(items) > 1:
        items = [item for item in items if _is_ours(item)] or [item for item in items if not item.platform]
    if len(items) > 1:
        raise InputError(f"{origin.name} holds several images", hint="name one: oci:PATH:NAME", code="layout-ambiguous")
    if not items or depth == 0:
        raise NotFound(
            f"{origin.name} does not hold {what} for linux/{manifest.architecture()}",
            hint="its index.json says what it holds; name one of these: oci:PATH:NAME",
            code="layout-no-image",
        )
    item = items[0]
    if item.media_type == manifest.MANIFEST:
        return item
    if item.media_type != manifest.INDEX:
        raise InputError(
            f"{origin.name}: the media type {item.media_type!r} is not supported",
            hint="convert it with: skopeo copy --format oci …",
            code="index-media-type",
        )
    nested = manifest.parse(_document(origin, item), item.digest)
    return _follow(origin, [Descriptor.parse(entry) for entry in nested.get("manifests") or ()], what, depth - 1)


def _is_ours(item: Descriptor) -> bool:
    platform = item.platform
    return platform.get("os") == "linux" and platform.get("architecture") == manifest.architecture()


def bring(origin: Source, descriptor: Descriptor, layout: Layout) -> Imported:
    """Copy the image's blobs that `layout` does not have. Raises InputError if a digest or a type is wrong."""
    document = manifest.parse(_document(origin, descriptor), descriptor.digest)
    parsed = manifest.parse_manifest(document)
    config = manifest.parse(_document(origin, parsed.config), parsed.config.digest)
    if config.get("architecture", manifest.architecture()) != manifest.architecture():
        raise NotFound(
            f"{origin.name} holds an image for {config['architecture']}, not {manifest.architecture()}",
            hint="get the image of the same name that is for this machine",
            code="image-architecture",
        )
    if len(manifest.parse_diff_ids(config)) != len(parsed.layers):
        raise InputError(
            f"{origin.name}: the configuration and the manifest differ in their number of layers",
            hint=manifest.DAMAGED,
            code="image-layers",
        )
    blobs = [*parsed.layers, parsed.config, descriptor]
    missing = [blob for blob in blobs if not layout.has(blob.digest)]
    for blob in missing:
        copy(origin, blob, layout)
    return Imported(descriptor, parsed, config, bool(missing))


def _blob_path(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _document(origin: Source, blob: Descriptor) -> bytes:
    data = _read(origin, _blob_path(blob))
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != blob.digest:
        raise DigestMismatch(f"{origin.name}: the content of blob {blob.digest} does not match", hint="fetch it again")
    return data


def _read(origin: Source, path: str) -> bytes:
    with origin.open(path) as file:
        data = file.read(_DOCUMENT_LIMIT + 1)
    if len(data) > _DOCUMENT_LIMIT:
        text = f"{origin.name}: {path} is larger than {_DOCUMENT_LIMIT >> 20} MiB"
        raise InputError(text, hint=manifest.DAMAGED, code="document-too-large")
    return data
