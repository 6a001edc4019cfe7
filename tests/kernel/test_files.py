from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cleaning_away import removed_when_empty

from whit.base.errors import SystemCallError
from whit.kernel.files import make_path


def test_a_path_is_made_while_others_remove_what_is_empty_above(tmp_path: Path) -> None:
    shared = tmp_path / "whit"
    with removed_when_empty(shared):
        for number in range(50):
            wanted = shared / f"t{number}" / "v1" / "maps"
            for _ in range(2):
                make_path(wanted, mode=0o700)
            assert wanted.stat().st_mode & 0o777 == 0o700
            shutil.rmtree(shared / f"t{number}")


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemCallError, match="EEXIST"):
        make_path(tmp_path / "file")
    with pytest.raises(SystemCallError, match="ENOTDIR"):
        make_path(tmp_path / "file" / "below")
