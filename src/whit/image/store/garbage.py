"""Garbage: what no name leads to and nobody holds, and what a killed process left half done. Safe at any point: a name
leads to everything of its image, or is gone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from whit.image.building.records import Records
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.store.leases import Leases
from whit.image.trust import signing


@dataclass(frozen=True)
class Collected:
    """What garbage collection removed."""

    blobs: int
    layers: int
    bytes: int


def collect(layout: Layout, layers_dir: Path, records: Records, leases: Leases) -> Collected:
    """Remove blobs that no name leads to, and unpacked layers that moreover nobody leases."""
    _untag_orphans(layout)
    blobs, layers = _referenced(layout)
    gone = set(layout.digests()) - blobs
    freed = sum(layout.path(digest).stat().st_size for digest in gone)
    records.forget(gone)
    for digest in gone:
        layout.remove_blob(digest)
    unused = [path for path in layers_dir.iterdir() if path.name not in layers | leases.leased()]
    for path in unused:
        _remove_directory(path)
    return Collected(len(gone), len(unused), freed)


def remove_leftovers(layout: Layout, layers_dir: Path) -> None:
    """What was being written when a process was killed. Only while nothing is being written."""
    layout.remove_leftovers()
    for pattern in (".new-*", ".gone-*"):
        for path in layers_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _untag_orphans(layout: Layout) -> None:
    """Signatures go with the last name of their image."""
    named = layout.names()
    images = {item.digest for name, item in named.items() if not manifest.is_signature(name)}
    for name in named:
        if manifest.is_signature(name) and manifest.signed_digest(name) not in images:
            layout.untag(name)


def _referenced(layout: Layout) -> tuple[set[str], set[str]]:
    """Digests of blobs, and names of unpacked layers, that a name leads to."""
    blobs: set[str] = set()
    layers: set[str] = set()
    for name, descriptor in layout.names().items():
        if manifest.is_signature(name):
            blobs |= {item.digest for item in signing.blobs(layout, manifest.signed_digest(name))}
            continue
        document = manifest.parse_manifest(layout.read(descriptor.digest))
        blobs |= {descriptor.digest, document.config.digest, *(item.digest for item in document.layers)}
        ids = manifest.parse_diff_ids(layout.read(document.config.digest))
        layers |= {diff_id.removeprefix("sha256:") for diff_id in ids}
    return blobs, layers


def _remove_directory(path: Path) -> None:
    """Renamed first: a layer is there whole or not at all, also after a crash."""
    gone = path.with_name(f".gone-{path.name}")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
