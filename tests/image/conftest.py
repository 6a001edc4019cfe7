"""A store of its own for each test of images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.image.store import ImageStore
from whit.model.progress import Progress


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    return ImageStore(settings)


@pytest.fixture
def steps() -> list[str]:
    """What `report` was told."""
    return []


@pytest.fixture
def report(steps: list[str]) -> Callable[[Progress], None]:
    return lambda progress: steps.append(progress.step)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where every user may go: each session of pytest closes the directory of tmp_path to others, also while we run."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="whit-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
