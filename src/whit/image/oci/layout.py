"""Layout: an OCI image layout directory (image-spec, image-layout.md) that any OCI tool reads.

Blobs appear by rename under the digest of what was really written; index.json changes under a lock, by rename.
What is in the blobs is manifest.py's business, unpacking them rootfs/unpack.py's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from whit.base.errors import DigestMismatch, InputError, NotFound
from whit.image.oci import manifest
from whit.image.oci.manifest import Descriptor

_CHUNK = 1 << 20
_DOCUMENT_LIMIT = 8 << 20
"""Bytes of a manifest, index or configuration; registries refuse more than 4 MiB."""


@dataclass(frozen=True)
class Layout:
    root: Path

    def create(self) -> None:
        """Make the directory if it is not there. Safe to repeat."""
        (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        self._write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        with self._locked():
            if not (self.root / "index.json").exists():
                self._write_index([])

    def put(self, source: IO[bytes], expected: str = "") -> tuple[str, int]:
        """Copy a stream into a blob; its digest and size. Raises DigestMismatch if it is not `expected`."""
        digest = hashlib.sha256()
        size = 0
        with self._new_blob() as file:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
            name = f"sha256:{digest.hexdigest()}"
            if expected and name != expected:
                raise DigestMismatch(f"the content of blob {expected} has the digest {name}", hint="fetch it again")
            file.flush()
            Path(file.name).rename(self.path(name))
        return name, size

    def adopt(self, file: Path, digest: str) -> None:
        """Take a file of this process, written beside the blobs (`scratch`), as the blob with this digest."""
        file.chmod(0o644)
        file.rename(self.path(digest))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A file to write a blob into; removed afterwards unless it was adopted."""
        with self._new_blob() as file:
            yield Path(file.name)

    def put_document(self, media_type: str, document: dict[str, Any]) -> Descriptor:
        data = manifest.encode(document)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self._new_blob() as file:
                file.write(data)
                file.flush()
                Path(file.name).rename(self.path(digest))
        return Descriptor(media_type, digest, len(data))

    def path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / manifest.checked_digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def read(self, digest: str) -> dict[str, Any]:
        """A JSON blob, its digest verified. Raises NotFound, InputError."""
        return manifest.parse(self.read_bytes(digest), str(self.path(digest)))

    def read_bytes(self, digest: str) -> bytes:
        """A small blob, its digest verified. Raises NotFound, DigestMismatch."""
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                data = file.read(_DOCUMENT_LIMIT + 1)
        except FileNotFoundError as error:
            raise NotFound(
                f"blob {digest} is not in {self.root}", hint="build or fetch the image again", code="blob-missing"
            ) from error
        if len(data) > _DOCUMENT_LIMIT or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise DigestMismatch(
                f"{path} does not have the content that its name says", hint="remove it and build again"
            )
        return data

    def descriptors(self) -> list[Descriptor]:
        """What index.json lists. Raises InputError if this is not a layout."""
        try:
            document = manifest.parse((self.root / "index.json").read_bytes(), str(self.root / "index.json"))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.root} is not an OCI layout: it has no index.json",
                hint="make one with: whit build --target oci -o DIRECTORY, or skopeo copy … oci:DIRECTORY:NAME",
                code="layout-no-index",
            ) from error
        return [Descriptor.parse(item) for item in document.get("manifests") or ()]

    def names(self) -> dict[str, Descriptor]:
        return {item.annotations[manifest.REF_NAME]: item for item in self.descriptors() if _name(item)}

    def find(self, name: str) -> Descriptor | None:
        return self.names().get(name)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Give the manifest this name; it is taken from another that had it."""
        named = replace(descriptor, annotations=descriptor.annotations | {manifest.REF_NAME: name})
        with self._locked():
            present = self.descriptors()
            kept = [item for item in present if _name(item) not in (name, "")]
            wanted = sorted([*kept, named], key=_name)
            if wanted != present:
                self._write_index(wanted)

    def untag(self, name: str) -> None:
        """Take the name out of the index; blobs stay until garbage is collected. Raises NotFound."""
        with self._locked():
            present = self.descriptors()
            kept = [item for item in present if _name(item) != name]
            if kept == present:
                raise NotFound(f"there is no image {name}", hint="`whit image ls` lists what is stored")
            self._write_index(kept)

    def digests(self) -> list[str]:
        """Digests of all blobs."""
        return [f"sha256:{path.name}" for path in (self.root / "blobs" / "sha256").iterdir() if len(path.name) == 64]

    def remove_blob(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Blobs that were being written when a process was killed. Only while nothing is being written."""
        for path in (self.root / "blobs" / "sha256").glob(".new-*"):
            path.unlink(missing_ok=True)

    def _write_index(self, items: list[Descriptor]) -> None:
        documents = [item.document() for item in items]
        self._write("index.json", {"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": documents})

    def _write(self, name: str, document: dict[str, Any]) -> None:
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".new-", delete=False) as file:
            file.write(manifest.encode(document))
        temporary = Path(file.name)
        temporary.chmod(0o644)
        temporary.rename(self.root / name)

    @contextlib.contextmanager
    def _new_blob(self) -> Iterator[Any]:
        with tempfile.NamedTemporaryFile(dir=self.root / "blobs" / "sha256", prefix=".new-", delete=False) as file:
            try:
                os.fchmod(file.fileno(), 0o644)
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _name(item: Descriptor) -> str:
    return item.annotations.get(manifest.REF_NAME, "")
