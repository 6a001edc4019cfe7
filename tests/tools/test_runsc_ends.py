"""What is removed stays removed: also a call of runsc that has not become runsc yet."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.tools import runsc

pytestmark = pytest.mark.root


@pytest.fixture
def held_up(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A call that an agent made before it was killed: it hides what gVisor mistakes, and that takes its time."""
    slow = tmp_path / "mount"
    slow.write_text(f"#!/bin/sh\n: >{tmp_path}/waits\nexec sleep 100\n")
    slow.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = runsc.of(settings).starting("web", "start", "web", hide=True)
    with subprocess.Popen(argv, env=environment, start_new_session=True) as call:
        try:
            until = time.monotonic() + 45
            while not (tmp_path / "waits").exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            yield call
        finally:
            with suppress(ProcessLookupError):
                os.killpg(call.pid, signal.SIGKILL)


async def test_a_call_that_is_about_to_become_runsc(settings: Settings, held_up: subprocess.Popen[bytes]) -> None:
    """It is ended with its sandbox, and would not start the next one of that name."""
    runtime = runsc.of(settings)
    await runtime.delete("other")
    assert held_up.poll() is None
    await runtime.delete("web")
    assert held_up.wait(30) == -signal.SIGKILL
