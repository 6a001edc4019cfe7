"""A runtime that makes the control groups of its containers itself, beside agents that are cleaned away meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.cleaning_away import cleaned_away
from support.instances import Machine, make_spec

from whit.base.settings import Settings
from whit.kernel import cgroup
from whit.runtime.bundle.host import HostFacts
from whit.runtime.layout import Layout
from whit.runtime.oci import OciDriver, plan_start
from whit.runtime.operations import NetworkFiles
from whit.tools import oci_runtime

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]
STARTS = 6


class Alone(Settings):
    """With a group above it that is not Whit's, so that no real agent of this machine keeps it."""

    @property
    def cgroup(self) -> str:
        return f"/{self.id}/{self.id}"


@pytest.fixture
async def alone(settings: Settings, rootfs: Path) -> AsyncIterator[Machine]:
    own = Alone(settings.id, settings.run_root, settings.state_root)
    host = await HostFacts.read(own)
    found = Machine(OciDriver(own, replace(host, runtime=replace(host.runtime, makes_cgroup=True))), rootfs)
    try:
        yield found
    finally:
        await found.clean()


async def test_starts_beside_agents_that_are_cleaned_away(alone: Machine) -> None:
    """With them goes the group that all agents share, if it is empty."""
    settings = alone.driver.settings
    with cleaned_away(cgroup.find(), f"/{settings.id}"):
        for index in range(1, STARTS + 1):
            spec = await alone.start("true", index=index)
            assert (await alone.driver.exit_of(spec.name)).code == 0
            await alone.remove(spec.name)
    await alone.clean()
    assert cgroup.find().directories(f"/{settings.id}") == []


async def test_trials_beside_agents_that_are_cleaned_away(alone: Machine) -> None:
    settings = alone.driver.settings
    with cleaned_away(cgroup.find(), f"/{settings.id}"):
        for _ in range(STARTS):
            assert await oci_runtime.refusal_of(alone.driver.host.runtime, settings) is None
    assert cgroup.find().directories(f"/{settings.id}") == []


async def test_the_plan_says_what_is_kept(alone: Machine) -> None:
    spec = make_spec(alone.rootfs)
    lines = [one.describe() for one in plan_start(spec, alone.driver.settings, alone.driver.host, NetworkFiles())]
    layout = Layout(alone.driver.settings, spec.name)
    kept = f"keep cgroup {alone.driver.settings.cgroup} for what the runtime makes below it"
    assert lines.index(kept) < next(number for number, line in enumerate(lines) if "create container" in line)
    assert not any(layout.cgroup in line for line in lines)
