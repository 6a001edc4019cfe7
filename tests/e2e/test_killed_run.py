"""kill -9 of everything that a test run started, at a moment of chance; then `doctor --clean` leaves nothing."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

APP = """
name: several
services:
  one:
    build: {parts: [debian:busybox-static]}
    command: [busybox, sleep, "1000"]
    replicas: 1
  two:
    build: {parts: [debian:busybox-static]}
    command: [busybox, httpd, -f, -p, "8080"]
    ports: ["${PORT}:8080"]
    volumes: ["data:/data"]
    deploy: {replicas: 3}
    depends_on: [one]
volumes: {data: }
""".replace("    replicas: 1\n", "")


def test_nothing_stays_after_a_killed_run(tmp_path: Path, sample: Callable[[int, int], int]) -> None:
    (tmp_path / "whit.yaml").write_text(APP)
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    for number in range(sample(4, 50)):
        settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path / "state")
        whit = Whit(settings, {"PORT": str(free_port())})
        argv = [sys.executable, "-m", "whit.cli", "up", str(tmp_path)]
        run = subprocess.Popen(
            argv, env=whit.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(0.3, 5.0))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        if (settings.run_dir / "agent.lock").exists() and (settings.run_dir / "agent.lock").read_text().strip():
            whit.kill_agent()
        whit.clean()
        assert not (left := leftovers_after(settings)), f"round {number} of seed {seed}: {left}"
