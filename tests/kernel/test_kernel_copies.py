"""Copies of files that have holes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whit.kernel.files import copy_sparse

MIB = 1 << 20


@pytest.mark.parametrize("places", [(), (0,), (5 * MIB,), (0, 3 * MIB, 63 * MIB)], ids=str)
def test_a_copy_is_the_same_and_has_the_same_holes(tmp_path: Path, places: tuple[int, ...]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        for place in places:
            file.seek(place)
            file.write(os.urandom(MIB))
    copy_sparse(source, target, mode=0o600)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy_sparse(tmp_path / "source", tmp_path / "target", mode=0o600)
    assert (tmp_path / "target").read_bytes() == b"old"
