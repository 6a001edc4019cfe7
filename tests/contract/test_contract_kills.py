"""kill -9 of whatever serves an instance, at moments that are drawn: what is said of it is true again within two
seconds, the exit status is told or said to be unknown and why, and nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.instances import Machine
from support.leftovers import left_by_instances
from support.slowness import patient

from whit.base.errors import WhitError
from whit.kernel.network import netns
from whit.model.instance import ExitRecord, InstanceSpec
from whit.model.operation import carry_out
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision import processes

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PATIENCE = patient(2.0 if os.environ.get("WHIT_TEST_FULL") else 20.0)
"""Seconds until the truth is told: two, where the machine does nothing else."""
STARTER = """
import asyncio, sys
from pathlib import Path
from support.instances import open_driver
from support.slowness import patient
from whit.base.settings import Settings
from whit.model.instance import InstanceSpec
from whit.model.operation import carry_out
from whit.runtime.operations import NetworkFiles

async def main():
    driver = await open_driver(Settings(id=sys.argv[1], state_root=Path(sys.argv[2])), sys.argv[3])
    spec = InstanceSpec.model_validate_json(sys.argv[4])
    print("ready", flush=True)
    await carry_out(driver.plan_start(spec, NetworkFiles()))
    await driver.exit_of(spec.name)

asyncio.run(main())
"""


async def test_killed_at_any_moment(machine: Machine, sample: Callable[[int, int], int]) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    for round_ in range(sample(4, 200)):
        kill = draw.choice([_kill_agent, _kill_part, _kill_part])
        spec = machine.spec("sleep", "1000", service=f"k{round_}")
        machine.network(spec)
        try:
            said = await kill(machine, spec, draw)
            await _check_truth(machine, spec, said)
            await machine.remove(spec.name)
            assert machine.leftovers() == [], left_by_instances(machine.driver.settings)
            netns.remove(machine.layout(spec).netns)
            assert not left_by_instances(machine.driver.settings), left_by_instances(machine.driver.settings)
        except BaseException as error:
            error.add_note(f"round {round_} of seed {seed}: {kill.__name__}")
            raise


async def test_killed_while_it_waits_to_be_started(machine: Machine, sample: Callable[[int, int], int]) -> None:
    """Whatever is found then, it can be started, and how it ends is told."""
    if machine.name == "qemu":
        pytest.skip("a virtual machine that waits has booted: see test_killed_at_any_moment")
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    for round_ in range(sample(1, 100)):
        spec = machine.spec("sleep", "1000", service=f"w{round_}")
        machine.network(spec)
        try:
            said = await _kill_prepared(machine, spec, draw)
            async with asyncio.timeout(PATIENCE):
                (found,) = await machine.adopt()
            assert found.status.state in ("created", "stopped", "failed"), (said, found.status)
            await _check_start(machine, spec, created=found.status.state == "created")
            await machine.remove(spec.name)
            netns.remove(machine.layout(spec).netns)
            assert not left_by_instances(machine.driver.settings), left_by_instances(machine.driver.settings)
        except BaseException as error:
            error.add_note(f"round {round_} of seed {seed}")
            raise


async def _kill_prepared(machine: Machine, spec: InstanceSpec, draw: random.Random) -> str:
    driver = machine.driver
    await carry_out(driver.plan_start(spec, NetworkFiles()))
    machine.layout(spec).asleep.write_text("created")
    await carry_out(driver.plan_stop(spec.name, "SIGKILL", 0))
    await carry_out(driver.plan_prepare(spec, NetworkFiles(), restarts=1))
    parts = _parts(machine, spec)
    victim = draw.choice([0, *sorted(parts)])
    if not victim:
        return "the agent was killed"
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(draw.uniform(0, 0.2))
    return f"killed {parts[victim]}"


async def _check_start(machine: Machine, spec: InstanceSpec, *, created: bool) -> None:
    """As it is, or from the beginning, it starts, and its end is told."""
    if created:
        try:
            await carry_out(machine.driver.plan_begin(spec))
        except WhitError:
            created = False
    if not created:
        await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1))
    pid = machine.driver.pid_of(spec.name)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        record = await machine.driver.exit_of(spec.name)
    assert record.code == 137, record


async def _kill_agent(machine: Machine, spec: InstanceSpec, draw: random.Random) -> str:
    """While it starts the instance, or watches it."""
    settings = machine.driver.settings
    words = [settings.id, str(settings.state_root), machine.name, spec.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", STARTER, *words], env=environment, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert await asyncio.to_thread(agent.stdout.readline) == b"ready\n"
        await asyncio.sleep(draw.uniform(0, 0.6))
        agent.kill()
    return "the agent was killed"


async def _kill_part(machine: Machine, spec: InstanceSpec, draw: random.Random) -> str:
    """One of the processes that make up the instance, its monitor among them."""
    await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
    waiting = asyncio.create_task(machine.driver.exit_of(spec.name))
    try:
        await asyncio.sleep(draw.uniform(0, 0.4))
        parts = _parts(machine, spec)
        victim = draw.choice(sorted(parts))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        said = f"killed {parts[victim]}"
        await asyncio.wait([waiting], timeout=patient(2.0))
        if waiting.done():
            _check_record(waiting.result(), said)
        return said
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def _parts(machine: Machine, spec: InstanceSpec) -> dict[int, str]:
    """By pid, the command line: what is in its cgroup, or works on its files."""
    layout = machine.layout(spec)
    places = (str(layout.bundle), str(machine.driver.settings.run_dir / "runsc" / spec.name))
    found = {pid: _command(pid) for pid in processes.of(layout)}
    for path in Path("/proc").glob("[0-9]*"):
        words = _command(int(path.name))
        if any(place in words for place in places):
            found[int(path.name)] = words
    return {pid: words for pid, words in found.items() if words}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:500]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _check_record(record: ExitRecord, said: str) -> None:
    assert record.cause, said
    assert record.code is None or record.code != 0, (record, said)
    assert record.code is not None or "conmon" in record.cause, (record, said)


async def _check_truth(machine: Machine, spec: InstanceSpec, said: str) -> None:
    """As a new agent finds it: what it calls running serves, and of what has ended nothing runs."""
    async with asyncio.timeout(PATIENCE):
        found = await machine.adopt()
    pid = machine.driver.pid_of(spec.name)
    for one in found:
        if one.status.state == "running":
            checked = await machine.driver.check(spec.name, ("true",), timeout=patient(60))
            assert checked.ok, (said, checked)
        elif one.status.state == "exited":
            assert one.ended is not None
            _check_record(one.ended, said)
            assert pid is None, said
        else:
            assert said == "the agent was killed", (said, one.status)
