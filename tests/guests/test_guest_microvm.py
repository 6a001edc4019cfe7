"""Instances in virtual machines: what an instance may rely on is the same as in a container, and nothing is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.guests import HAS_QEMU
from support.instances import Machine

from whit.base.settings import Settings
from whit.control import guests
from whit.model.instance import InstanceSpec, ResolvedMount
from whit.model.operation import carry_out
from whit.model.service import LimitsSpec
from whit.runtime.execute import ExecRequest
from whit.runtime.microvm import build
from whit.runtime.microvm.driver import MicrovmDriver
from whit.runtime.oci import OciDriver
from whit.runtime.operations import NetworkFiles

pytestmark = [
    pytest.mark.machine,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]


@pytest.fixture
async def machine(settings: Settings, tiny_root: Path) -> AsyncIterator[Machine]:
    build.build()
    driver = await MicrovmDriver.open(await OciDriver.open(settings), guests.obtain)
    found = Machine(driver, tiny_root)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        await found.clean()


async def said(machine: Machine, spec: InstanceSpec, *args: str, **request: object) -> tuple[int, str, str]:
    """Exit status and both outputs of a command."""
    output = {"stdout": b"", "stderr": b""}
    wanted = ExecRequest(args, **request)  # type: ignore[arg-type]
    async with asyncio.timeout(60), machine.driver.execute(spec.name, wanted) as running:
        if wanted.terminal is None:
            await running.write(b"typed\n")
            await running.end_input()
        async for stream, data in running.output():
            output[stream] += data
        return await running.wait(), output["stdout"].decode(), output["stderr"].decode()


async def until_printed(machine: Machine, spec: InstanceSpec, text: str) -> None:
    async with asyncio.timeout(60):
        while text not in machine.printed(spec):
            await asyncio.sleep(0.05)


LIFE = """
echo out; echo err >&2; echo once >> /home/kept; cat /home/kept
trap 'echo asked; exit 9' TERM; sleep 99 & wait
"""


async def test_a_life(machine: Machine) -> None:
    spec = await machine.start("sh", "-c", LIFE, env={"NAME": "a value\nof two lines"})
    assert await said(machine, spec, "sh", "-c", "cat; echo bad >&2; exit 7") == (7, "typed\n", "bad\n")
    assert (await said(machine, spec, "no-such-program"))[0] == 127
    code, output, _ = await said(
        machine, spec, "sh", "-c", "readlink /proc/self/fd/0; stty size; id -u", terminal=(33, 99)
    )
    assert (code, output.split()) == (0, ["/dev/pts/0", "33", "99", "0"])
    code, output, _ = await said(machine, spec, "head", "-c", "2000000", "/dev/zero")
    assert (code, len(output)) == (0, 2_000_000)
    checked = await machine.driver.check(spec.name, ("sh", "-c", "echo $NAME; hostname"), 30)
    assert (checked.ok, checked.output) == (True, "a value of two lines\ntiny\n")
    late = await machine.driver.check(spec.name, ("sleep", "60"), 0.5)
    assert "took longer" in late.output
    assert "sleep 60" not in (await said(machine, spec, "ps"))[1], "it is ended inside, too"

    (found,) = await machine.adopt()
    assert (found.status.state, found.spec) == ("running", spec)
    await carry_out(machine.driver.plan_stop(spec.name, "SIGTERM", 20))
    ended = await machine.driver.exit_of(spec.name)
    assert ended.code == 9
    assert machine.printed(spec).split() == ["out", "err", "once", "asked"]

    await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1))
    await until_printed(machine, spec, "once\nonce")
    await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 20))
    assert (await machine.driver.exit_of(spec.name)).code == 137


async def test_powers_and_places(machine: Machine, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 1000, 1000)
    script = """
        id; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; pwd; ulimit -n
        touch /refused || echo read-only
        echo data > /var/data/file; touch /scratch/file && echo memory; ls -l /var/data/file
        grep MemTotal /proc/meminfo; cat /etc/hostname; ls /dev/vport* /dev/vda 2>&1 | grep -c 'No such'
        test -r /etc/shadow-of-host || echo nothing else
    """
    record, printed = await machine.shell(
        script,
        user="app",
        read_only=True,
        working_dir="/home/app",
        capabilities=("CAP_CHOWN", "CAP_NET_BIND_SERVICE"),
        limits=LimitsSpec(memory=160 << 20),
        mounts=(
            ResolvedMount(kind="bind", source=volume, target="/var/data"),
            ResolvedMount(kind="tmpfs", target="/scratch", size=1 << 20),
        ),
    )
    assert record.code == 0, printed
    lines = printed.splitlines()
    assert lines[0].startswith("uid=1000(app) gid=1000(app) groups=")
    assert [line.split()[1] for line in lines[1:4]] == ["0000000000000000", "0000000000000401", "1"]
    assert "/home/app" in lines
    assert "read-only" in lines
    assert "memory" in lines
    assert "nothing else" in lines
    memory = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 100_000 < memory < 160 << 10
    assert (volume / "file").read_text() == "data\n"
    assert (volume / "file").stat().st_uid == 1000
    assert not (machine.rootfs / "refused").exists()


async def test_what_is_told_of_a_machine_that_does_not_come_up(machine: Machine) -> None:
    record, printed = await machine.run("/no/such/program")
    assert record.code == 127
    assert "/no/such/program: No such file or directory" in printed
