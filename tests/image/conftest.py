"""A store of its own for each test of images."""

from __future__ import annotations

from collections.abc import Callable

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
