"""Processes by descriptor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from whit.base.errors import NotFound
from whit.kernel import pidfd


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_a_process_is_awaited_by_many_and_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    with pidfd.opened(sleeper.pid) as descriptor:
        assert pidfd.is_alive(descriptor)
        assert not await pidfd.wait_end(descriptor, 0.01)
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(pidfd.wait_end(descriptor, 30)) for _ in range(3)]
            await asyncio.sleep(0)
            assert pidfd.send_signal(descriptor, signal.SIGTERM)
        assert [task.result() for task in waiting] == [True, True, True]
        assert not pidfd.is_alive(descriptor)
        assert await pidfd.wait_end(descriptor)
        sleeper.wait()
        assert not pidfd.send_signal(descriptor, signal.SIGTERM)
    with pytest.raises(NotFound):
        pidfd.open_process(sleeper.pid)
    with pytest.raises(NotFound):
        pidfd.start_time(sleeper.pid)


def test_a_thread_is_no_process() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(NotFound):
            pidfd.open_process(thread.native_id)
    finally:
        ended.set()
        thread.join()


async def test_no_descriptor_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pidfd.opened(sleeper.pid) as descriptor:
            await pidfd.wait_end(descriptor, 0.001)
        with pytest.raises(NotFound):
            pidfd.open_process(sleeper.pid, started=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_pid_with_its_start_time_names_one_process_for_good(sleeper: subprocess.Popen[bytes]) -> None:
    started = pidfd.start_time(sleeper.pid)
    now = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    assert now - 3000 < started <= now
    with pidfd.opened(sleeper.pid, started=started) as descriptor:
        assert pidfd.is_alive(descriptor)
    with pytest.raises(NotFound, match="is not the one"):
        pidfd.open_process(sleeper.pid, started=started - 1)


def test_the_name_of_a_program_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 2"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert pidfd.start_time(process.pid) >= pidfd.start_time(os.getpid())
        finally:
            process.kill()
