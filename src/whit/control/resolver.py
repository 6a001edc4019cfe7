"""Keeps the node's resolver running: a process of its own, which a new agent finds again and leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import whit
from whit.base.errors import NotFound
from whit.base.settings import Settings
from whit.kernel import pidfd
from whit.tools import process

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between a resolver's end and a look for the next: one that cannot start is not tried all the time."""
MODULE = "whit.mesh.dns.resolver"
FORM = "--form=2"
"""Of what the resolver and the agent tell each other. One of another form is started anew."""


def running(settings: Settings) -> int | None:
    """The resolver's pid, if it lives. The pid file may be old and the pid another's, so its words are looked at."""
    try:
        pid = int(_pid_file(settings).read_text())
        words = _words(pid)
    except (FileNotFoundError, ValueError):
        return None
    return pid if MODULE in words and settings.id in words else None


def _words(pid: int) -> list[str]:
    """Empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def ensure(settings: Settings) -> None:
    """Start the resolver unless it runs. Its state file must be there."""
    if (pid := running(settings)) is not None:
        if FORM in _words(pid):
            return
        log.info("the resolver, pid %d, is of another release", pid)
        stop(settings)
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-P", "-m", MODULE, "--id", settings.id, FORM]
    environment = {name: value for name, value in os.environ.items() if name.startswith("WHIT_")}
    environment["PYTHONPATH"] = str(Path(whit.__file__).resolve().parents[1])
    with (settings.logs_dir / "resolver.log").open("ab") as output:
        started = process.start(argv, stdout=output.fileno(), stderr=output.fileno(), env=environment, cwd="/")
    _pid_file(settings).write_text(f"{started.pid}\n")
    log.info("started the resolver, pid %d", started.pid)


async def watch(settings: Settings, ended: Callable[[], None]) -> None:
    """Until cancelled: say at once when the resolver is gone, as nobody resolves names meanwhile."""
    while True:
        pid = running(settings)
        if pid is None:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        with contextlib.suppress(NotFound), pidfd.opened(pid) as descriptor:
            await pidfd.wait_end(descriptor)
        ended()
        await asyncio.sleep(LOOK_SECONDS)


def stop(settings: Settings, patience: float = 2.0) -> bool:
    """End it. Returns whether there was one."""
    pid = running(settings)
    if pid is None:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + patience
        while running(settings) == pid and time.monotonic() < until:
            time.sleep(0.02)
    return True


def _pid_file(settings: Settings) -> Path:
    return settings.resolver_dir / "pid"
