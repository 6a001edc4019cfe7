"""Archives that no honest tool would write, and what a merged tree looks like."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.rootfs import layer
from whit.image.sources.directory import scan
from whit.model.image import ImageConfig


class Tar:
    """Writes archives that no honest tool would."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", **values: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in values.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def bytes(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


@contextlib.contextmanager
def overlay(layers: Sequence[Path], mount_point: Path) -> Iterator[Path]:
    """The merged tree of `layers`, lowest first. Read-only; overlayfs wants two lower layers at least."""
    empty = mount_point.with_name(mount_point.name + "-empty")
    empty.mkdir()
    mount_point.mkdir()
    lower = ":".join(str(path) for path in [*reversed(layers), empty])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", mount_point], check=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a layer can say about each file: kind, mode, owner, link, content, xattrs, link group."""
    groups: dict[tuple[int, int], str] = {}
    seen: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(directory) / name
            relative = str(path.relative_to(root))
            status = path.lstat()
            group = groups.setdefault((status.st_dev, status.st_ino), relative) if status.st_nlink > 1 else relative
            link = str(path.readlink()) if path.is_symlink() else ""
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            named = [key for key in os.listxattr(path, follow_symlinks=False) if not key.startswith("trusted.overlay")]
            xattrs = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in sorted(named))
            directory_group = "" if path.is_dir() else group
            seen[relative] = (status.st_mode, status.st_uid, status.st_gid, link, content, xattrs, directory_group)
    return seen


def image_layout(path: Path, name: str, root: Path, labels: dict[str, str]) -> Path:
    """An OCI layout of one image: a directory as its one layer, with labels, as another tool would have made it."""
    made = Layout(path)
    made.create()
    tar = path.with_suffix(".tar")
    written = layer.write(scan(root).entries(), tar)
    with tar.open("rb") as file:
        digest, size = made.put(file)
    item = manifest.Layer(manifest.Descriptor(manifest.LAYER, digest, size), written.digest)
    config = made.put_document(manifest.CONFIG, manifest.config_document(ImageConfig(), [item], [""], labels))
    made.tag(name, made.put_document(manifest.MANIFEST, manifest.manifest_document(config, [item.descriptor], {})))
    return path
