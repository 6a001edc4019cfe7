"""What a kill -9 at any moment may not lose, and may not leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.instances import ISOLATIONS, Machine, open_driver
from support.leftovers import left_by_instances
from support.slowness import patient

from whit.base.errors import CommandError, WhitError
from whit.kernel import cgroup, freezer
from whit.model.instance import InstanceSpec
from whit.model.operation import Operation, carry_out
from whit.runtime import operations
from whit.runtime.drivers import Drivers
from whit.runtime.oci import OciDriver
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision import logs
from whit.tools import conmon

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
START_STEPS = 9
REMOVE_STEPS = 5
RESTART_STEPS = 6

AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
from whit.base.settings import Settings
from whit.model.instance import InstanceSpec
from support.instances import open_driver
from support.slowness import patient
from whit.runtime.operations import NetworkFiles

async def main():
    settings = Settings(id=sys.argv[1], state_root=Path(sys.argv[2]))
    driver = await open_driver(settings, sys.argv[7])
    spec = InstanceSpec.model_validate_json(sys.argv[4])
    operations = driver.plan_start(spec, NetworkFiles())
    if sys.argv[3] == "remove":
        operations = driver.plan_remove(spec.name)
    if "restart" in sys.argv[3]:
        operations = driver.plan_restart(spec, NetworkFiles(), restarts=1)
    for operation in operations[: int(sys.argv[5])]:
        await operation.do()
    if "during" in sys.argv[3]:
        # Killed while the operation is under way, as far as it gets in the given time.
        asyncio.get_running_loop().call_later(float(sys.argv[6]), os.kill, os.getpid(), signal.SIGKILL)
        await operations[int(sys.argv[5])].do()
    if sys.argv[3] == "exec":
        script = "touch /tmp/begun; exec sleep 1000"
        going_on = asyncio.create_task(driver.check(spec.name, ("sh", "-c", script), timeout=1000))
        while not (await driver.check(spec.name, ("test", "-e", "/tmp/begun"), timeout=100)).ok:
            assert not going_on.done()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def killed_agent(machine: Machine, what: str, spec: InstanceSpec, steps: int, seconds: float = 0) -> None:
    """An agent that does some steps and is killed."""
    settings = machine.driver.settings
    words = [
        settings.id,
        str(settings.state_root),
        what,
        spec.model_dump_json(),
        str(steps),
        str(seconds),
        machine.name,
    ]
    done = subprocess.run(
        [sys.executable, "-c", AGENT, *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patient(60)):
        while not condition():
            await asyncio.sleep(0.02)


async def test_another_agent_finds_what_runs_and_what_ended(machine: Machine) -> None:
    running = machine.spec("sh", "-c", "echo up; while ! test -e /tmp/go; do sleep 0.05; done; printf bye; exit 7")
    ended = machine.spec("sh", "-c", "echo over; exit 3", service="job")
    for spec in (running, ended):
        machine.network(spec)
        killed_agent(machine, "start", spec, START_STEPS)
    await until(lambda: logs.has_ended(machine.layout(ended)))

    driver = await open_driver(machine.driver.settings, machine.name)
    by_name = {found.status.name: found for found in await driver.adopt([running.name, ended.name])}
    assert set(by_name) == {running.name, ended.name}
    status = by_name[running.name].status
    assert (status.state, status.app, status.service, status.revision) == ("running", "test", "web", "one")
    assert status.pid == driver.pid_of(running.name)
    assert status.runtime == driver.runtime
    assert status.started_at is not None
    assert by_name[running.name].spec == running
    assert by_name[ended.name].status.state == "exited"
    assert by_name[ended.name].status.exit_code == 3
    assert machine.printed(ended) == "over"

    assert (await driver.check(running.name, ("true",), timeout=patient(60))).ok
    await driver.check(running.name, ("touch", "/tmp/go"), timeout=patient(60))  # which may be over after its instance
    assert (await driver.exit_of(running.name)).code == 7
    assert machine.printed(running) == "up\nbye"


async def test_commands_of_a_killed_agent_are_ended(machine: Machine) -> None:
    spec = machine.spec()
    machine.network(spec)
    killed_agent(machine, "exec", spec, START_STEPS)
    layout = machine.layout(spec)
    first = await machine.processes(spec)
    assert len(first) == 2
    assert list(layout.execs.iterdir())
    [found] = await machine.adopt()
    assert found.status.state == "running"
    assert await machine.processes(spec) == {min(first)}
    assert not list(layout.execs.iterdir())


@pytest.mark.parametrize("steps", range(START_STEPS + 1))
async def test_nothing_stays_of_a_start_that_was_cut_short(machine: Machine, steps: int) -> None:
    spec = machine.spec()
    machine.network(spec)
    killed_agent(machine, "start", spec, steps)
    await check_nothing_stays(machine, spec, steps)


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05])
async def test_nothing_stays_of_a_create_that_was_cut_short(machine: Machine, seconds: float) -> None:
    """The monitor and the runtime are on their own in the midst of creating."""
    spec = machine.spec()
    machine.network(spec)
    before = len(machine.driver.plan_start(spec, NetworkFiles())) - steps_to_begin(machine)
    killed_agent(machine, "during", spec, before, seconds)
    await check_nothing_stays(machine, spec, before)


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.01, 0.02, 0.03, 0.04])
async def test_nothing_stays_of_a_restart_that_was_cut_short(machine: Machine, seconds: float) -> None:
    """What the first monitor left must not be taken for the second one's."""
    spec = await machine.start("sh", "-c", "test -e /kept && exec sleep 1000; touch /kept")
    assert (await machine.driver.exit_of(spec.name)).code == 0
    before = len(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1)) - steps_to_begin(machine)
    killed_agent(machine, "during restart", spec, before, seconds)
    await check_nothing_stays(machine, spec, START_STEPS)


@pytest.mark.parametrize("steps", range(RESTART_STEPS + 1))
async def test_after_a_restart_that_was_cut_short(machine: Machine, steps: int) -> None:
    spec = await machine.start("sh", "-c", "test -e /kept && exec sleep 1000; touch /kept")
    assert (await machine.driver.exit_of(spec.name)).code == 0
    killed_agent(machine, "restart", spec, steps)
    [found] = await machine.adopt()
    left = max(0, len(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1)) - steps)
    created = steps_to_begin(machine)
    assert found.status.state == ("running" if left == 0 else "failed" if left < created else "exited")
    assert found.status.restarts == (1 if left < created else 0)
    await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=2))
    [found] = await machine.adopt()
    assert (found.status.state, found.status.restarts) == ("running", 2)


def steps_to_begin(machine: Machine) -> int:
    """The last ones of a start: to create and to begin, which a sandbox does in one."""
    return 1 if machine.name == "runsc" else 2


async def check_nothing_stays(machine: Machine, spec: InstanceSpec, steps: int) -> None:
    found = await machine.adopt()
    assert [(one.status.name, one.status.state) for one in found] == [] or steps > 0
    assert steps == 0 or found[0].status.state in ("failed", "running", "frozen")
    await machine.remove(spec.name)
    assert machine.leftovers() == []
    assert not [name for name in left_by_instances(machine.driver.settings) if "netns" not in name]
    # And the name can be used again.
    await carry_out(machine.driver.plan_start(machine.spec(), NetworkFiles()))
    assert machine.driver.pid_of(spec.name) is not None


@pytest.mark.parametrize("steps", range(REMOVE_STEPS))
async def test_a_removal_that_was_cut_short_is_done_again(machine: Machine, steps: int) -> None:
    spec = await machine.start()
    killed_agent(machine, "remove", spec, steps)
    await machine.remove(spec.name)
    assert machine.leftovers() == []
    assert not [name for name in left_by_instances(machine.driver.settings) if "netns" not in name]


class _Fails:
    def describe(self) -> str:
        return "fail"

    async def do(self) -> None:
        raise CommandError(["false"], 1, "")

    async def undo(self) -> None:
        return


@pytest.mark.parametrize("steps", range(START_STEPS + 1))
async def test_a_failing_start_is_undone(machine: Machine, steps: int) -> None:
    spec = machine.spec()
    machine.network(spec)
    operations: list[Operation] = [*machine.driver.plan_start(spec, NetworkFiles())[:steps], _Fails()]
    with pytest.raises(CommandError):
        await carry_out(operations)
    assert await machine.adopt() == []
    assert not machine.layout(spec).bundle.exists()
    assert not machine.layout(spec).disk.exists()
    assert not [name for name in left_by_instances(machine.driver.settings) if "netns" not in name]
    for operation in reversed(operations):
        await operation.undo()


async def test_who_knows_only_the_name_asks_its_own_runtime_first(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another runtime would wait for the monitor of what it does not end."""
    monkeypatch.setattr(operations, "MONITOR_PATIENCE", 1000.0)
    isolation = ISOLATIONS[machine.name]
    spec = await machine.start(isolation=isolation)
    containers = await OciDriver.open(machine.driver.settings)
    drivers = Drivers(machine.driver.settings, {"container": containers, isolation: machine.driver})
    async with asyncio.timeout(patient(20)):
        await carry_out(drivers.plan_remove(spec.name))
    assert machine.leftovers() == []


async def test_after_a_reboot(machine: Machine) -> None:
    """The run directory has gone; what is on disk is found and taken away."""
    spec = machine.spec()
    machine.layout(spec).upper.mkdir(parents=True)
    (machine.layout(spec).logs).mkdir(parents=True)
    assert await machine.adopt() == []
    assert machine.leftovers() == [spec.name]
    await machine.remove(spec.name)
    assert machine.leftovers() == []


async def test_a_killed_monitor_is_named(machine: Machine) -> None:
    spec = await machine.start()
    waiting = asyncio.create_task(machine.driver.exit_of(spec.name))
    await asyncio.sleep(0.1)
    monitor = conmon.monitor_pid(machine.layout(spec).monitored)
    assert monitor is not None
    os.kill(monitor, signal.SIGKILL)
    record = await asyncio.wait_for(waiting, patient(60))
    assert record.code is None
    assert "monitor (conmon) was killed" in record.cause
    assert machine.driver.pid_of(spec.name) is None


async def test_a_monitor_killed_while_no_agent_lived(machine: Machine) -> None:
    spec = await machine.start()
    monitor = conmon.monitor_pid(machine.layout(spec).monitored)
    assert monitor is not None
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: conmon.monitor_pid(machine.layout(spec).monitored) is None)
    [found] = await machine.adopt()
    assert found.status.state == "exited"
    assert found.status.exit_code is None
    assert "monitor (conmon) was killed" in found.status.message
    assert machine.driver.pid_of(spec.name) is None


async def test_a_spec_that_cannot_be_read(machine: Machine) -> None:
    spec = await machine.start()
    machine.layout(spec).spec.write_text('{"from": "a release to come"}')
    [found] = await machine.adopt()
    assert found.spec is None
    assert found.status.state == "failed"
    assert "cannot be read" in found.status.message


@pytest.mark.timeout(1200)
async def test_many_at_once(machine: Machine, sample: Callable[[int, int], int]) -> None:
    """Every exit status and every last byte."""
    count = sample(8, 100)
    specs = [machine.spec("sh", "-c", f"printf 'tail {n}'; exit {n}", index=n) for n in range(1, count + 1)]
    gate = asyncio.Semaphore(8)

    async def one(spec: InstanceSpec) -> int | None:
        async with gate:
            machine.network(spec)
            await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
            return (await machine.driver.exit_of(spec.name)).code

    assert await asyncio.gather(*map(one, specs)) == list(range(1, count + 1))
    assert [machine.printed(spec) for spec in specs] == [f"tail {spec.index}" for spec in specs]


def stands_still(machine: Machine, spec: InstanceSpec) -> bool:
    return freezer.is_frozen(cgroup.find(), machine.layout(spec).cgroup)


async def test_a_sandbox_that_waits_is_looked_into(machine: Machine) -> None:
    """Its program does not run, and who looks out there leaves when somebody listens."""
    if machine.name != "runsc":
        pytest.skip("nothing has to be in the instance for that")
    spec = await machine.start("sh", "-c", "echo runs; exec nc -l -p 80")
    await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 0))
    await machine.driver.exit_of(spec.name)
    machine.layout(spec).asleep.write_text("created")
    await carry_out(machine.driver.plan_prepare(spec, NetworkFiles(), restarts=1))
    assert stands_still(machine, spec)
    assert await machine.driver.listening(spec.name) == set()
    machine.driver.resume(spec.name)
    assert len(await machine.processes(spec)) == 2
    assert await machine.driver.listening(spec.name) == set()
    assert machine.printed(spec) == "runs"
    [found] = await machine.adopt()
    assert found.status.state == "created"
    assert found.status.pid == machine.driver.pid_of(spec.name)
    assert stands_still(machine, spec), "whoever comes has it stand still again"
    assert await (await open_driver(machine.driver.settings, machine.name)).listening(spec.name) == set()
    await carry_out(machine.driver.plan_begin(spec))
    async with asyncio.timeout(patient(60)):
        while not (there := await machine.driver.listening(spec.name)):
            await asyncio.sleep(0.01)
        assert there == {(6, 80)}
        while len(await machine.processes(spec)) > 1:
            await asyncio.sleep(0.05)
    assert await machine.driver.listening(spec.name) == {(6, 80)}
    assert machine.printed(spec) == "runs\nruns"
    [found] = await machine.adopt()
    assert found.status.state == "running"


async def test_a_sandbox_that_is_killed_while_it_stands_still_is_not_let_go(machine: Machine) -> None:
    """By the v1 freezer it does not die before it goes on."""
    if machine.name != "runsc":
        pytest.skip("nothing else stands still while it waits to be started")
    spec = await machine.start("sh", "-c", "echo runs; exec sleep 1000")
    await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 0))
    await machine.driver.exit_of(spec.name)
    machine.layout(spec).asleep.write_text("created")
    await carry_out(machine.driver.plan_prepare(spec, NetworkFiles(), restarts=1))
    pid = machine.driver.pid_of(spec.name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WhitError):
        await carry_out(machine.driver.plan_begin(spec))
    await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=2))
    assert machine.driver.pid_of(spec.name) not in (None, pid)
    await until(lambda: machine.printed(spec) == "runs\nruns")
