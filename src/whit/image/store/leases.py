"""Leases: who needs which unpacked layers, whatever happens to the names of their images. They survive restarts."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whit.image.building.records import write_whole


@dataclass(frozen=True)
class Leases:
    """A small JSON file for each holder, in `root`."""

    root: Path

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    def lease(self, holder: str, layers: Iterable[str]) -> None:
        """`holder` needs the layers with these names until it lets go."""
        write_whole(self._path(holder), json.dumps({"holder": holder, "layers": sorted(layers)}).encode())

    def release(self, holder: str) -> None:
        self._path(holder).unlink(missing_ok=True)

    def leased(self) -> set[str]:
        """Layers that someone holds."""
        found: set[str] = set()
        for path in self.root.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found.update(json.loads(path.read_bytes())["layers"])
        return found

    def _path(self, holder: str) -> Path:
        return self.root / f"{hashlib.sha256(holder.encode()).hexdigest()[:32]}.json"
