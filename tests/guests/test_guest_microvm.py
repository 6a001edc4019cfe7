"""What is a virtual machine's own: tests/contract holds it to what every isolation promises."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.guests import HAS_QEMU
from support.instances import Machine

from whit.base.settings import Settings
from whit.control.machines import guests
from whit.model.instance import ResolvedMount
from whit.model.service import LimitsSpec
from whit.runtime import programs
from whit.runtime.microvm.driver import MicrovmDriver
from whit.runtime.oci import OciDriver

pytestmark = [
    pytest.mark.machine,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]


@pytest.fixture
async def machine(settings: Settings, tiny_root: Path) -> AsyncIterator[Machine]:
    programs.build()
    driver = await MicrovmDriver.open(await OciDriver.open(settings), guests.obtain)
    found = Machine(driver, tiny_root, "qemu")
    try:
        yield found
    finally:
        await found.clean()


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
