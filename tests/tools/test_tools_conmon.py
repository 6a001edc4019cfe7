"""The command line of the monitor, its files, and its errors."""

from __future__ import annotations

import itertools
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from whit.base.errors import CommandError
from whit.tools import conmon
from whit.tools.conmon import Monitored, arguments, creating, exit_status, exit_time, memory_ran_out, monitor_pid
from whit.tools.oci_runtime import Runtime


@pytest.fixture
def container(tmp_path: Path) -> Monitored:
    return Monitored("a-b-1", tmp_path, tmp_path / "exits", tmp_path, tmp_path / "log", 1 << 20)


def test_the_command_line(container: Monitored) -> None:
    words = arguments(container, Runtime("runc", Path("/usr/sbin/runc"), "1", Path("/run/r")).creating("a-b-1"))
    pairs = dict(itertools.pairwise(words))
    assert pairs["--cid"] == "a-b-1"
    assert pairs["--log-path"] == f"k8s-file:{container.log}"
    assert pairs["--runtime"] == "/usr/sbin/runc"
    start = words.index("--runtime-arg")
    assert words[start : start + 4] == ["--runtime-arg", "--root", "--runtime-arg", "/run/r"]


def test_exit_files(container: Monitored) -> None:
    assert exit_status(container) is None
    assert exit_time(container) is None
    container.exit_dir.mkdir()
    for text, status in {"0": 0, "255": 255, "-1": None, "": None, "x": None}.items():
        (container.exit_dir / "a-b-1").write_text(text)
        assert exit_status(container) == status
    assert exit_time(container) is not None
    assert not memory_ran_out(container)
    (container.persist_dir / "oom").touch()
    assert memory_ran_out(container)


def test_another_process_with_its_pid_is_not_the_monitor(container: Monitored) -> None:
    assert monitor_pid(container) is None
    for text in (str(os.getpid()), "4194304", "", "x"):
        container.monitor_pid_file.write_text(text)
        assert monitor_pid(container) is None


@pytest.mark.machine
async def test_the_runtime_says_why_not(container: Monitored, tmp_path: Path) -> None:
    container.exit_dir.mkdir()
    runtime = Runtime("runc", Path("/usr/sbin/runc"), "1", tmp_path / "root")
    with pytest.raises(CommandError, match=r"config\.json"):
        await conmon.create(container, runtime.creating(container.name))
    with pytest.raises(CommandError, match="conmon ended with"):
        await conmon.create(container, ["/no/such/runtime"])


@pytest.mark.root
def test_who_is_about_to_create(container: Monitored, tmp_path: Path) -> None:
    """Known by where it works: a child of the agent is no conmon yet."""
    assert creating(container) == set()
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path, start_new_session=True) as child:
        assert creating(container) == {child.pid}
        child.kill()
    assert creating(container) == set()
    person, terminal = pty.fork()
    if person == 0:
        os.chdir(tmp_path)
        os.execv("/bin/sleep", ["sleep", "60"])
    try:
        until = time.monotonic() + 45
        while Path(f"/proc/{person}/cwd").readlink() != tmp_path:
            assert time.monotonic() < until
        assert creating(container) == set(), "a person who looks around there"
    finally:
        os.kill(person, signal.SIGKILL)
        os.waitpid(person, 0)
        os.close(terminal)
