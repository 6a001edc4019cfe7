"""A tiny root file system, and a machine that runs containers of it and takes all of them away again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.instances import Machine, make_rootfs

from whit.base.settings import Settings
from whit.runtime.oci import OciDriver


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture
async def machine(settings: Settings, rootfs: Path) -> AsyncIterator[Machine]:
    found = Machine(await OciDriver.open(settings), rootfs)
    try:
        yield found
    finally:
        await found.clean()
