"""Commands in running instances: status, output, terminals, and that nothing is left of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.instances import Machine
from support.slowness import patient

from whit.base.errors import Conflict, InputError, NotFound
from whit.model.instance import InstanceSpec
from whit.model.operation import carry_out
from whit.runtime.supervision.execute import ExecRequest

REAPS = ("sh", "-c", "sleep 1000 & wait")
"""A first process that takes note of the end of others, as servers do: what has ended leaves no zombie."""

pytestmark = [pytest.mark.machine, pytest.mark.timeout(60)]


async def started(machine: Machine) -> InstanceSpec:
    spec = await machine.start(*REAPS)
    async with asyncio.timeout(patient(30)):
        while len(await machine.processes(spec)) < 2:
            await asyncio.sleep(0.05)
    return spec


async def ran(
    machine: Machine, spec: InstanceSpec, *args: str, timeout: float = 60, **request: object
) -> tuple[int | None, str]:
    code, output = await machine.command(spec, *args, timeout=timeout, **request)
    assert not list(machine.layout(spec).execs.iterdir())
    return code, output


async def test_status_and_output(machine: Machine) -> None:
    spec = await machine.start(env={"KEY": "value"}, working_dir="/tmp", user="app")
    assert await ran(machine, spec, "sh", "-c", "echo $KEY; pwd; id -u; exit 9") == (9, "value\n/tmp\n1000\n")
    assert await ran(machine, spec, "sh", "-c", "printf end") == (0, "end")
    assert await ran(machine, spec, "sh", "-c", "kill -TERM $$") == (143, "")
    code, output = await ran(machine, spec, "sh", "-c", "echo $KEY; pwd; id", user="root", cwd="/", env={"KEY": "new"})
    assert code == 0
    assert output.startswith("new\n/\nuid=0(root)")
    _, output = await ran(machine, spec, "grep", "-E", "Seccomp:|NoNewPrivs", "/proc/self/status")
    if machine.differs("own-filter"):
        assert output.split() == ["NoNewPrivs:", "1", "Seccomp:", "0"]
    elif machine.differs("commands-filter"):
        assert output.split() == ["Seccomp:", "0"]
    else:
        assert output.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


async def test_what_cannot_be_started(machine: Machine) -> None:
    spec = await machine.start()
    code, output = await ran(machine, spec, "no-such-program")
    assert code == 127
    assert "no-such-program" in output
    assert (await ran(machine, spec, "/etc/passwd"))[0] == 126
    # The same statuses from a command that did run are its own.
    assert (await ran(machine, spec, "sh", "-c", "exit 127"))[0] == 127
    with pytest.raises(InputError):
        await ran(machine, spec, "true", user="nosuch")


async def test_only_in_running_instances(machine: Machine) -> None:
    spec = await machine.start()
    await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 5))
    await machine.driver.exit_of(spec.name)
    with pytest.raises(Conflict):
        await ran(machine, spec, "true")
    with pytest.raises(NotFound):
        await ran(machine, machine.spec(index=9), "true")


async def test_time_runs_out(machine: Machine) -> None:
    """Also for what it started, and what put itself into a session of its own."""
    spec = await started(machine)
    before = await machine.processes(spec)
    script = "setsid sleep 100 & sleep 100 & echo begun; sleep 100"
    assert await ran(machine, spec, "sh", "-c", script, timeout=2.5) == (None, "begun\n")
    assert await machine.processes(spec) == before


async def test_what_it_left_behind_is_ended(machine: Machine) -> None:
    """A background process that holds the output open does not hold us up."""
    spec = await started(machine)
    before = await machine.processes(spec)
    assert await ran(machine, spec, "sh", "-c", "sleep 100 & echo done") == (0, "done\n")
    left = await machine.processes(spec) - before
    assert len(left) == (1 if machine.differs("left-behind") else 0)


async def test_input_and_two_outputs(machine: Machine) -> None:
    spec = await machine.start()
    request = ExecRequest(["sh", "-c", "while read line; do echo got $line; echo err >&2; done; exit 4"])
    found: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async with machine.driver.execute(spec.name, request) as session:
        await session.write(b"one\n")
        await session.write(b"two\n")
        await session.end_input()
        async for stream, data in session.output():
            found[stream] += data
        assert await session.wait() == 4
    assert found == {"stdout": b"got one\ngot two\n", "stderr": b"err\nerr\n"}


async def test_much_data_both_ways(machine: Machine) -> None:
    """More than the pipes hold: neither side blocks the other for ever, nothing is lost."""
    spec = await machine.start()
    sent, got = b"0123456789abcdef" * 200_000, bytearray()
    async with machine.driver.execute(spec.name, ExecRequest(["cat"])) as session:

        async def feed() -> None:
            await session.write(sent)
            await session.end_input()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed())
            async for _, data in session.output():
                got += data
        assert await session.wait() == 0
    assert bytes(got) == sent


UNTIL_SIZE = b'for n in $(seq 300); do test "$(stty size)" = "%b" && break; sleep 0.1; done; echo it is $(stty size)\n'


async def test_a_terminal(machine: Machine) -> None:
    spec = await machine.start()
    got = b""
    async with machine.driver.execute(spec.name, ExecRequest(["sh"], terminal=(30, 100))) as session:

        async def until(text: bytes) -> None:
            nonlocal got
            async for _, data in output:
                got += data
                if text in got:
                    return

        output = session.output()
        # runc sets the size a moment after the command has begun.
        await session.write(UNTIL_SIZE % b"30 100" + b"tty; echo TERM=$TERM\n")
        await until(b"TERM=xterm")
        assert (b"/dev/pts/0" in got) != machine.differs("terminal-name")
        assert b"it is 30 100" in got
        session.resize(50, 132)
        await session.write(UNTIL_SIZE % b"50 132" + b"exit 6\n")
        await until(b"no such text: reads to the end")
        assert b"it is 50 132" in got
        assert await session.wait() == 6


async def test_leaving_ends_it(machine: Machine) -> None:
    spec = await started(machine)
    before = await machine.processes(spec)
    for terminal in (None, (24, 80)):
        request = ExecRequest(["sh", "-c", "trap '' HUP TERM; sleep 100; sleep 100"], terminal=terminal)
        async with machine.driver.execute(spec.name, request):
            async with asyncio.timeout(patient(30)):
                while len(await machine.processes(spec)) <= len(before):
                    await asyncio.sleep(0.05)
        assert await machine.processes(spec) == before
        assert not _runtime_calls(machine, spec)


async def test_leaving_ends_what_starts_others_all_the_time(machine: Machine) -> None:
    spec = await started(machine)
    before = await machine.processes(spec)
    request = ExecRequest(["sh", "-c", "while :; do sleep 1000 & sleep 0.02; done"])
    async with machine.driver.execute(spec.name, request), asyncio.timeout(patient(30)):
        while len(await machine.processes(spec)) <= len(before) + 2:
            await asyncio.sleep(0.05)
    assert await machine.processes(spec) == before


async def test_a_health_check(machine: Machine) -> None:
    spec = await machine.start()
    result = await machine.driver.check(spec.name, ("sh", "-c", "echo fine"), patient(30))
    assert (result.ok, result.output) == (True, "fine\n")
    result = await machine.driver.check(spec.name, ("sh", "-c", "echo bad; exit 1"), patient(30))
    assert (result.ok, result.output) == (False, "bad\n")
    result = await machine.driver.check(spec.name, ("sleep", "100"), 0.3)
    assert not result.ok
    assert "longer than 0.3 s" in result.output


async def test_an_instance_that_ends_ends_its_commands(machine: Machine) -> None:
    spec = await machine.start()
    before = await machine.processes(spec)
    async with machine.driver.execute(spec.name, ExecRequest(["sleep", "100"])) as session:
        async with asyncio.timeout(patient(30)):
            while len(await machine.processes(spec)) <= len(before):
                await asyncio.sleep(0.05)
        await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 5))
        assert await asyncio.wait_for(session.wait(), patient(30)) == 137


def _runtime_calls(machine: Machine, spec: InstanceSpec) -> list[str]:
    """Runtime processes that still serve a command."""
    place = str(machine.layout(spec).execs)
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if place in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
