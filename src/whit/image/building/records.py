"""Records: small JSON files that say which layers a key stands for, and what an image is made of.

They are a cache beside the layout, since no other tool has a use for them. Written by rename.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whit.image.oci.manifest import Descriptor, Layer
from whit.image.provenance.bill import Bill, Package
from whit.model.lock import Locked

_SCANS_MAX_AGE = 30 * 86400.0


@dataclass(frozen=True)
class StepResult:
    """The layers that a step made, and what it tells about the image."""

    layers: tuple[Layer, ...]
    env: dict[str, str] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    skipped_scripts: tuple[str, ...] = ()
    locked: Locked = field(default_factory=Locked)
    """What a lock file says of it."""
    base: dict[str, Any] = field(default_factory=dict)
    """The configuration of an image that was taken over."""

    def document(self) -> dict[str, Any]:
        layers = [{"blob": layer.descriptor.document(), "diff_id": layer.diff_id} for layer in self.layers]
        return {
            "layers": layers,
            "env": self.env,
            "packages": [asdict(package) for package in self.packages],
            "skipped_scripts": self.skipped_scripts,
            "locked": self.locked.document(),
            "base": self.base,
        }

    @classmethod
    def parse(cls, document: dict[str, Any]) -> StepResult:
        layers = [Layer(Descriptor.parse(item["blob"]), item["diff_id"]) for item in document["layers"]]
        packages, skipped = tuple(map(Package.parse, document["packages"])), tuple(document["skipped_scripts"])
        locked = Locked.parse(document.get("locked", {}))
        return cls(tuple(layers), document["env"], packages, skipped, locked, document["base"])


@dataclass(frozen=True)
class Records:
    root: Path

    def prepare(self) -> None:
        for name in ("steps", "origins", "images", "bills", "scans"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def step(self, key: str) -> StepResult | None:
        document = self._read("steps", key)
        return StepResult.parse(document) if document else None

    def keep_step(self, key: str, result: StepResult) -> None:
        self._write("steps", key, result.document())

    def keep_origins(self, key: str, origins: dict[str, str]) -> None:
        """Which package brought each path of the layer that a step made."""
        self._write("origins", key, origins)

    def origins(self, key: str) -> dict[str, str]:
        return self._read("origins", key) or {}

    def keep_bill(self, digest: str, bill: Bill) -> None:
        """Of the image with this manifest."""
        self._write("bills", digest.removeprefix("sha256:"), bill.document())

    def bill(self, digest: str) -> Bill | None:
        document = self._read("bills", digest.removeprefix("sha256:"))
        return Bill.parse(document) if document else None

    def keep_scans(self, key: str, data: bytes) -> None:
        """What linking saw in the sources of a plan."""
        write_whole(self.root / "scans" / f"{key}.json", data)

    def scans(self, key: str) -> bytes:
        try:
            return (self.root / "scans" / f"{key}.json").read_bytes()
        except FileNotFoundError:
            return b"{}"

    def image(self, key: str) -> Descriptor | None:
        """The manifest that a plan was made into."""
        document = self._read("images", key)
        return Descriptor.parse(document) if document else None

    def keep_image(self, key: str, manifest: Descriptor) -> None:
        self._write("images", key, manifest.document())

    def forget(self, digests: set[str]) -> None:
        """Remove the records of blobs that are gone."""
        for path, document in self._all("steps"):
            if any(item["blob"]["digest"] in digests for item in document["layers"]):
                path.unlink(missing_ok=True)
                (self.root / "origins" / path.name).unlink(missing_ok=True)
        for path in (self.root / "scans").glob("*.json"):
            if time.time() - path.stat().st_mtime > _SCANS_MAX_AGE:
                path.unlink(missing_ok=True)
        for path, document in self._all("images"):
            if document["digest"] in digests:
                path.unlink(missing_ok=True)
        for digest in digests:
            (self.root / "bills" / f"{digest.removeprefix('sha256:')}.json").unlink(missing_ok=True)

    def _all(self, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted((self.root / kind).glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                yield path, json.loads(path.read_bytes())

    def _read(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((self.root / kind / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return document

    def _write(self, kind: str, name: str, document: dict[str, Any]) -> None:
        write_whole(self.root / kind / f"{name}.json", json.dumps(document).encode())


def write_whole(path: Path, data: bytes) -> None:
    """The file appears complete or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            Path(file.name).rename(path)
        finally:
            Path(file.name).unlink(missing_ok=True)
