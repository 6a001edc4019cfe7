"""A guest of Debian's kernel: it boots, speaks through a port, is stopped and ended through QMP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.guests import HAS_QEMU, QUIET, compiled, debian_kernel, first_root, program

from whit.base.errors import NotFound, Permanent, TimedOut
from whit.image.rootfs.tree import Entry
from whit.image.sources import kernel
from whit.tools import process, qemu, qmp

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]


@pytest.fixture
async def machine(tmp_path: Path) -> qemu.Machine:
    linux = await debian_kernel("stable")
    modules = await kernel.modules(linux, ["virtio_pci", "virtio_console"])
    names = "".join(f"/{entry.path}\n" for entry in modules)
    init = program("init", compiled(HERE / "echo.c", tmp_path / "echo"))
    root = await first_root(
        tmp_path / "root", init, *modules, Entry("modules", content=names.encode()), Entry("dev", "directory", 0o755)
    )
    return qemu.Machine(
        linux.image,
        root,
        QUIET,
        tmp_path / "console",
        ports=(qemu.Port("talk", tmp_path / "talk"),),
        qmp=tmp_path / "qmp",
    )


async def line_from(port: Path, process_: asyncio.subprocess.Process) -> tuple[bytes, asyncio.StreamWriter]:
    """The first line of the guest. QEMU makes the socket a moment after it began."""
    while not port.exists():
        assert process_.returncode is None
        await asyncio.sleep(0.02)
    reader, writer = await asyncio.open_unix_connection(port)
    return await reader.readline(), writer


async def test_a_guest_speaks_and_obeys(machine: qemu.Machine, tmp_path: Path) -> None:
    argv = qemu.command(machine, await qemu.accelerator(), await qemu.version())
    with (tmp_path / "errors").open("wb") as errors:
        running = await process.attach(argv, stdin=errors.fileno(), stdout=errors.fileno(), stderr=errors.fileno())
    try:
        async with asyncio.timeout(150):
            line, writer = await line_from(machine.ports[0].socket, running)
        assert line == b"ready\n"
        writer.close()
        assert machine.qmp is not None
        async with qmp.connected(machine.qmp) as control:
            assert (await control.execute("query-status"))["status"] == "running"
            await control.execute("stop")
            assert (await control.execute("query-status"))["status"] == "paused"
            with pytest.raises(Permanent, match="refused no-such-thing"):
                await control.execute("no-such-thing")
            await control.quit()
        async with asyncio.timeout(60):
            assert await running.wait() == 0
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    with pytest.raises(Permanent, match="no machine listens"):
        async with qmp.connected(machine.qmp):
            pass


async def test_a_guest_that_does_not_end_is_ended(machine: qemu.Machine) -> None:
    with pytest.raises(TimedOut, match="printed at last"):
        await qemu.run_to_end(machine, timeout=1.0)


async def test_only_modules_that_exist(machine: qemu.Machine) -> None:
    linux = await debian_kernel("stable")
    assert linux.image.stat().st_size > 5_000_000
    with pytest.raises(NotFound, match="no module whatever"):
        await kernel.modules(linux, ["whatever"])
    names = [Path(entry.path).name for entry in await kernel.modules(linux, ["erofs"])]
    assert names[-1] == "erofs.ko", "what it depends on comes before it"
    assert "libcrc32c.ko" in names
    assert all(entry.data()[:4] == b"\x7fELF" for entry in await kernel.modules(linux, ["overlay"]))
