"""Every driver that works on this machine, each with a machine that runs instances and takes all of them away again."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import get_args

import pytest
from support.instances import DriverName, Machine, make_rootfs, open_driver

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.runtime.exceptions import EXCEPTIONS
from whit.tools import runsc

ON_QEMU = (
    *("test_status_and_output", "test_a_terminal", "test_stop_asks_first", "test_killed_for_memory"),
    *("test_a_user_by_name", "test_another_agent_finds_what_runs_and_what_ended"),
)
"""What is asked of virtual machines unless all is asked: without KVM each takes some seconds to boot."""
STEP = 3
"""Of what cuts in at many places, how many lie from one to the next that is tried unless all are."""
_left_out = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("WHIT_TEST_FULL"):
        return
    left_out = [item for item in items if _is_for_full(item)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_left_out] = Counter(_driver(item.nodeid) for item in left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_for_full(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or "machine" not in callspec.params:
        return False
    if callspec.params["machine"] == "qemu":
        return getattr(item, "originalname", "") not in ON_QEMU
    return any(callspec.indices.get(name, 0) % STEP for name in ("steps", "seconds"))


def _driver(nodeid: str) -> str:
    """The driver in a test's id, as of `test_x[runc-3]` or `test_x[3-runc]`."""
    words = nodeid.rpartition("[")[2].rstrip("]").split("-") if "tests/contract/" in nodeid else []
    return next((word for word in words if word in get_args(DriverName)), "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of the contract: what each driver passed, and the promises that it is excused from."""
    counts = {kind: Counter(map(_driver, _ids(terminalreporter, kind))) for kind in ("passed", "failed", "skipped")}
    rows = [name for name in get_args(DriverName) if any(count[name] for count in counts.values())]
    if not rows:
        return
    terminalreporter.section("contract")
    terminalreporter.write_line("driver  passed  failed  skipped  only with --full")
    for name in rows:
        passed, failed, skipped = (counts[kind][name] for kind in ("passed", "failed", "skipped"))
        left_out = config.stash[_left_out][name]
        terminalreporter.write_line(f"{name:6}  {passed:6}  {failed:6}  {skipped:7}  {left_out:16}")
    for one in EXCEPTIONS:
        terminalreporter.write_line(f'{one.isolation}, {one.key}: not "{one.promise}"; {one.instead}')


def _ids(reporter: pytest.TerminalReporter, kind: str) -> list[str]:
    return [report.nodeid for report in reporter.stats.get(kind, []) if kind == "skipped" or report.when == "call"]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(scope="session")
def gvisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of an agent that makes gVisor ready once, for all tests."""
    program = Path(os.environ["WHIT_RUNSC"]) if "WHIT_RUNSC" in os.environ else None
    settings = Settings(f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("gvisor"), runsc=program)
    yield settings
    shutil.rmtree(settings.run_dir, ignore_errors=True)


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
