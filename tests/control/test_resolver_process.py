"""The resolver as a process that the agent keeps: found again, replaced when of another release, missed at once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.service_site import until

import whit
from whit.base.settings import Settings
from whit.control import resolver
from whit.mesh.dns import names
from whit.mesh.dns.names import NameTable

pytestmark = [
    pytest.mark.root,
    pytest.mark.machine,
    pytest.mark.timeout(180),
]

LISTEN = f"127.77.{random.randrange(1, 250)}.2"
ENVIRONMENT = {"PYTHONPATH": str(Path(whit.__file__).resolve().parents[1]), "PATH": os.environ["PATH"]}


@pytest.fixture
def node(settings: Settings) -> Iterator[Settings]:
    names.write_state(settings, NameTable(LISTEN))
    try:
        yield settings
    finally:
        resolver.stop(settings)


def ensure(settings: Settings) -> None:
    """By an agent that has ended then: it outlives who started it."""
    code = (
        "import sys; from pathlib import Path;"
        "from whit.base.settings import Settings; from whit.control import resolver;"
        "resolver.ensure(Settings(sys.argv[1], *map(Path, sys.argv[2:])))"
    )
    argv = [sys.executable, "-c", code, settings.id, str(settings.run_root), str(settings.state_root)]
    subprocess.run(argv, env=ENVIRONMENT, check=True, timeout=60)


def has_ended(pid: int) -> bool:
    """Nobody may have waited for it yet: then it has no words any more."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_that_runs_is_left_alone_and_one_of_another_release_is_replaced(node: Settings) -> None:
    argv = [sys.executable, "-P", "-m", resolver.MODULE, "--id", node.id]
    with subprocess.Popen(argv, env=ENVIRONMENT) as old:
        try:
            (node.resolver_dir / "pid").write_text(f"{old.pid}\n")
            assert until(lambda: resolver.running(node) == old.pid), "once it has its words"
            ensure(node)
            assert old.wait(30) is not None
        finally:
            old.kill()
    new = resolver.running(node)
    assert new not in (None, old.pid)
    ensure(node)
    assert resolver.running(node) == new


def test_its_end_is_seen_at_once(node: Settings) -> None:
    took = []
    while not took or took[-1] > 0.4:
        assert len(took) < 5, took
        ensure(node)
        pid = resolver.running(node)
        assert pid is not None
        took.append(seconds_until_seen(node, pid))
        assert has_ended(pid)


def seconds_until_seen(node: Settings, pid: int) -> float:
    async def killed() -> float:
        ended = asyncio.Event()
        watching = asyncio.create_task(resolver.watch(node, ended.set))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(ended.wait(), 30)
        watching.cancel()
        return time.monotonic() - began

    return asyncio.run(killed())
