"""Scans: what was seen in sources of Python, by their contents, so that a build that changes one file reads one.

They are a guess that is spared, and no more: what they say is of the same image's former builds, and checks prove it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from whit.image.linking.imports import Seen, scan

LARGEST = 64 << 20
"""Bytes of a file of scans that are read back."""


@dataclass
class Scans:
    """`known` was there before; `used` is what this run asked for."""

    known: dict[str, list[list[str]]] = field(default_factory=dict)
    used: dict[str, list[list[str]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Scans:
        """Of a file; none if there is no such file, or it is no such file."""
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return cls()
        return cls(document if isinstance(document, dict) else {})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.used, separators=(",", ":")))

    def scan(self, source: bytes, name: str, *, package: bool, standard: bool, main: bool) -> Seen:
        """As imports.scan."""
        said = f"{name} {package:d}{standard:d}{main:d} ".encode()
        key = hashlib.sha256(said + source).hexdigest()[:40]
        found = self.known.get(key)
        if found is None:
            seen = scan(source, name, package=package, standard=standard, main=main)
            found = [sorted(seen.imports), sorted(seen.texts), sorted(seen.starts)]
        self.used[key] = found
        imports, texts, starts = found
        return Seen(set(imports), set(texts), set(starts))
