"""What was seen in sources before is what would be seen again, and nothing else changes by remembering it."""

from __future__ import annotations

import json
from pathlib import Path

from whit.image.linking.imports import scan
from whit.image.linking.scans import Scans

SOURCE = b"import os.path\nfrom . import x\nname = 'a.b'\nimport_module(f'y.{name}')\n"


def test_remembered_scans_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "scans.json"
    first = Scans()
    for flags in ({"package": True}, {"package": False}):
        seen = first.scan(SOURCE, "p.q", standard=False, main=False, **flags)
        assert seen == scan(SOURCE, "p.q", standard=False, main=False, **flags)
    first.write(path)
    again = Scans.read(path)
    assert len(again.known) == 2
    for flags in ({"package": True}, {"package": False}):
        assert again.scan(SOURCE, "p.q", standard=False, main=False, **flags) == scan(
            SOURCE, "p.q", standard=False, main=False, **flags
        )
    assert again.used == again.known


def test_only_what_was_asked_for_is_kept(tmp_path: Path) -> None:
    first = Scans()
    first.scan(SOURCE, "a", package=False, standard=False, main=False)
    again = Scans(first.used)
    again.scan(SOURCE + b"#", "a", package=False, standard=False, main=False)
    assert len(again.used) == 1
    assert not again.used.keys() & first.used.keys()


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "scans.json"
    for text in (None, "", "{", json.dumps([1])):
        if text is not None:
            path.write_text(text)
        assert Scans.read(path).known == {}
