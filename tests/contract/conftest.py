"""Every driver that works on this machine, each with a machine that runs instances and takes all of them away again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
from support.instances import DriverName, Machine, make_rootfs, open_driver

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.tools import runsc


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A sandbox takes ten times as long to start: of what cuts in half way, every third unless all is asked."""
    if os.environ.get("WHIT_TEST_FULL"):
        return
    left_out = [item for item in items if _is_third(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_third(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or callspec.params.get("machine") != "runsc":
        return False
    return any(callspec.indices.get(name, 0) % 3 for name in ("steps", "seconds"))


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(scope="session")
def gvisor(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of an agent that makes gVisor ready once, for all tests."""
    program = os.environ.get("WHIT_RUNSC")
    return Settings("tgv", state_root=tmp_path_factory.mktemp("gvisor"), runsc=Path(program) if program else None)


async def make_ready(gvisor: Settings, settings: Settings) -> None:
    for operation in runsc.of(gvisor).preparation():
        await operation.do()
    settings.state_dir.mkdir(parents=True)
    settings.programs_dir.symlink_to(gvisor.programs_dir)


@pytest.fixture(params=get_args(DriverName))
async def machine(settings: Settings, rootfs: Path, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    try:
        if request.param == "runsc":
            await make_ready(request.getfixturevalue("gvisor"), settings)
        found = Machine(await open_driver(settings, request.param), rootfs, request.param)
    except Unavailable as error:
        pytest.skip(error.message)
    try:
        yield found
    finally:
        await found.clean()
