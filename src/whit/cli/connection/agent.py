"""Finding the agent, and starting it where none runs: under systemd if that is PID 1, else as a detached process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import whit
from whit.base.errors import Conflict, Permanent, TimedOut, Unavailable, Unreachable, WhitError
from whit.base.settings import Settings
from whit.cli.connection import systemd, transport
from whit.cli.display.output import remark

log = logging.getLogger(__name__)

ANSWERS_WITHIN = 90.0
"""Seconds that a new agent has until it answers, if it does not end before: half of one on most machines."""


def ensure_agent(settings: Settings) -> None:
    """Return when an agent answers; start one if none does.

    Raises:
        Unavailable: the person is not root.
        Permanent: the agent ended; the message has the tail of its log.
        TimedOut: it did not answer in time.
    """
    if answers(settings):
        return
    if os.geteuid() != 0:
        raise Unavailable("the agent needs root to set up instances and their network", hint="use sudo")
    if systemd.in_charge(settings):
        remark(f"starting {systemd.unit_name(settings)}")
        systemd.start(settings, agent_argv("%i"), source_root())
        _wait(settings, lambda: systemd.failure(settings), f"journalctl -u {systemd.unit_name(settings)}")
    else:
        log_file = settings.logs_dir / "whitd.log"
        started = _start_detached(settings, log_file)
        _wait(settings, lambda: _failure(started, log_file), str(log_file))


def answers(settings: Settings) -> bool:
    """An agent answers on the socket. A socket that may not be opened is an error, not an answer."""
    try:
        transport.call(settings.socket, "GET", "/v1/agent")
    except Unreachable as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        return False
    return True


def agent_argv(agent_id: str) -> list[str]:
    """The agent's command line. -P keeps the person's current directory out of its module path."""
    return [sys.executable, "-P", "-m", "whit.api.daemon", "--id", agent_id]


def source_root() -> Path | None:
    """The directory that PYTHONPATH must name when Whit runs from a checkout; None if it is installed."""
    root = Path(whit.__file__).resolve().parent.parent
    return None if "site-packages" in root.parts or "dist-packages" in root.parts else root


def _start_detached(settings: Settings, log_file: Path) -> subprocess.Popen[bytes]:
    from whit.tools.process import start

    environment = {name: value for name, value in os.environ.items() if name.startswith("WHIT_")}
    if root := source_root():
        environment["PYTHONPATH"] = str(root)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        return start(agent_argv(settings.id), stdout=output.fileno(), stderr=output.fileno(), env=environment, cwd="/")


def _wait(settings: Settings, failure: Callable[[], WhitError | None], log_name: str) -> None:
    """`failure` says why there is nothing to wait for any more."""
    began = time.monotonic()
    while not answers(settings):
        if error := failure():
            raise error
        waited = time.monotonic() - began
        if waited > ANSWERS_WITHIN:
            raise TimedOut(f"the agent does not answer after {ANSWERS_WITHIN:g} s", hint=f"its log: {log_name}")
        # Asking costs processes, and where an agent takes long the processor is what it lacks.
        time.sleep(0.02 if waited < 1 else 0.5)


def _failure(process: subprocess.Popen[bytes], log_file: Path) -> WhitError | None:
    if process.poll() in (None, Conflict.exit_code):
        # Conflict: another command started an agent at the same moment; that one will answer.
        return None
    lines = log_file.read_text(errors="replace").splitlines()[-12:]
    tail = "\n".join(f"  {line}" for line in lines) or "  (it wrote nothing)"
    return Permanent(
        f"the agent ended with {process.returncode}; the end of its log {log_file}:\n{tail}",
        hint="`whit doctor` says what is missing",
    )


def version_of_agent(settings: Settings) -> dict[str, Any] | None:
    """The agent's own account of itself; None if none runs."""
    try:
        document: dict[str, Any] = transport.call(settings.socket, "GET", "/v1/agent")
    except Unreachable as error:
        log.debug("%s", error)
        return None
    log.debug("%s", json.dumps(document))
    return document
