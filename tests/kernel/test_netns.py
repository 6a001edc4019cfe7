"""Network namespaces kept at a path."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from whit.base.errors import Conflict, NotFound
from whit.base.settings import Settings
from whit.kernel import libc, mount
from whit.kernel.network import netns
from whit.kernel.network.netns import CreateNetns

pytestmark = [pytest.mark.root, pytest.mark.machine]


def _own() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _namespaces_of_threads() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.add((task / "ns/net").stat().st_ino)
    return found


def test_create_keeps_a_new_namespace_and_leaves_the_caller_where_it_was(node: Path) -> None:
    before = _own()
    assert netns.exists(node)
    assert netns.inode(node) != before
    assert netns.call_in(node, _own) == netns.inode(node)
    assert _own() == before
    until = time.monotonic() + 30
    while _namespaces_of_threads() != {before}:  # joined threads are seen for a moment longer
        assert time.monotonic() < until


def test_create_refuses_a_path_that_has_one(node: Path) -> None:
    with pytest.raises(Conflict):
        netns.create(node)


def test_an_empty_file_of_a_killed_create_is_taken_over(settings: Settings) -> None:
    path = settings.netns_dir / "half"
    path.parent.mkdir(parents=True)
    path.touch()
    assert not netns.exists(path)
    with pytest.raises(NotFound):
        netns.inode(path)
    netns.create(path)
    assert netns.exists(path)
    netns.remove(path)


def test_remove_is_safe_twice(node: Path) -> None:
    netns.remove(node)
    netns.remove(node)
    assert not node.exists()
    assert not mount.is_mounted(node)
    with pytest.raises(NotFound):
        netns.call_in(node, _own)


def test_a_namespace_ends_although_another_mount_namespace_copied_its_mount(node: Path) -> None:
    with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"]) as copier:
        try:
            table = f"/proc/{copier.pid}/mountinfo"
            until = time.monotonic() + 30
            while Path(f"/proc/{copier.pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert str(node) in Path(table).read_text()
            netns.remove(node)
            assert str(node) not in Path(table).read_text()
        finally:
            copier.kill()


def test_entered_is_for_the_calling_thread_only_and_goes_back(node: Path) -> None:
    elsewhere: list[int] = []
    before = _own()

    def inside() -> int:
        with netns.entered(node):
            other = threading.Thread(target=lambda: elsewhere.append(netns.inode(node)))
            other.start()
            other.join()
            found = _own()
        assert _own() == before
        return found

    results: list[int] = []
    worker = threading.Thread(target=lambda: results.append(inside()))
    worker.start()
    worker.join()
    assert results == [netns.inode(node)]
    assert _own() == before


def test_entered_goes_back_after_an_error(node: Path) -> None:
    before = _own()
    with pytest.raises(ZeroDivisionError), netns.entered(node):
        raise ZeroDivisionError
    assert _own() == before


def test_call_in_raises_what_the_function_raised(node: Path) -> None:
    def fail() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        netns.call_in(node, fail)


def test_a_socket_stays_in_the_namespace_that_it_was_opened_in(node: Path) -> None:
    with netns.call_in(node, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as inside:
        raw = inside.getsockopt(socket.SOL_SOCKET, 71, 8)
    assert int.from_bytes(raw, sys.byteorder) == netns.call_in(node, netns.cookie)
    assert netns.call_in(node, netns.cookie) != netns.cookie()


async def test_the_operation_is_undone_twice(settings: Settings) -> None:
    operation = CreateNetns(settings.netns_dir / "one")
    await operation.undo()
    await operation.do()
    assert netns.exists(operation.path)
    await operation.undo()
    await operation.undo()
    assert netns.kept_in(settings.netns_dir) == []


async def test_a_cancelled_operation_has_ended_before_it_is_undone(settings: Settings) -> None:
    for delay in (0, 0.0001, 0.0005, 0.001, 0.003):
        operation = CreateNetns(settings.netns_dir / "one")
        task = asyncio.create_task(operation.do())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await operation.undo()
        await asyncio.sleep(0.02)
        assert netns.kept_in(settings.netns_dir) == []


_CREATE_FOR_EVER = """
import sys
from pathlib import Path
from whit.kernel.network import netns
number = 0
print("ready", flush=True)
while True:
    netns.create(Path(sys.argv[1]) / str(number))
    number += 1
"""


def test_a_killed_create_leaves_nothing_that_remove_does_not_take(settings: Settings) -> None:
    source = Path(libc.__file__).parents[2]
    for delay in (0.002, 0.011, 0.023, 0.05):
        argv = [sys.executable, "-c", _CREATE_FOR_EVER, str(settings.netns_dir)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env={"PYTHONPATH": str(source)}) as creator:
            try:
                assert creator.stdout is not None
                assert creator.stdout.readline() == b"ready\n"
                time.sleep(delay)
            finally:
                creator.send_signal(signal.SIGKILL)
        for path in netns.kept_in(settings.netns_dir):
            netns.remove(path)
        assert netns.kept_in(settings.netns_dir) == []
        assert not [point for point in mount.table() if point.path.is_relative_to(settings.run_dir)]
