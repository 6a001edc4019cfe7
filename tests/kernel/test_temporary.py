"""Directories for the time of one call: gone at its end, and at the next call if the process was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from whit.kernel import temporary

LEAVING = """
import os, pathlib
from whit.kernel import temporary
with temporary.directory("trial") as path:
    (path / "content").write_text("x")
    (path / "outside").symlink_to(os.environ["OUTSIDE"])
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's directory for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def leave(place: Path, outside: Path) -> Path:
    """What a killed process left two minutes ago."""
    before = set(place.iterdir())
    environment = os.environ | {"TMPDIR": str(place), "OUTSIDE": str(outside), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LEAVING], env=environment, check=False)
    assert done.returncode == -9
    (left,) = set(place.iterdir()) - before
    os.utime(left, (left.stat().st_atime, left.stat().st_mtime - 120))
    return left


def test_it_is_gone_with_all_that_is_in_it(place: Path) -> None:
    with temporary.directory("trial") as path:
        assert (path.parent, path.stat().st_mode & 0o777) == (place, 0o700)
        (path / "content").write_text("x")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    left = leave(place, outside)
    with temporary.directory("other"):
        assert left.exists()
    with temporary.directory("trial"):
        assert not left.exists()
    assert (outside / "kept").exists()


def test_what_is_in_use_young_or_no_directory_stays(place: Path, tmp_path: Path) -> None:
    young = leave(place, tmp_path)
    os.utime(young)
    (place / "whit-trial-file").write_text("x")
    (place / "whit-trial-link").symlink_to(tmp_path)
    with temporary.directory("trial") as used:
        os.utime(used, (0, 0))
        with temporary.directory("trial"):
            assert used.exists()
    assert {path.name for path in place.iterdir()} == {young.name, "whit-trial-file", "whit-trial-link"}
