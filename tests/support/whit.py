"""The whit command, run as a person runs it: a process, with an agent id of its own."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from support.slowness import patient
from whit.base.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
_GIVEN: set[int] = set()
SHOP = ROOT / "examples" / "shop"


def free_port() -> int:
    """None that the kernel gives to whoever asks for any (net.ipv4.ip_local_port_range): until it is used, a test may
    take minutes, and others run beside it. What an agent publishes nobody has bound: those beside take odd numbers."""
    while True:
        port = secrets.choice(range(10_000 + bool(os.environ.get("WHIT_TEST_BESIDE")), 18_000, 2))
        if port not in _GIVEN and all(map(_is_free, repeat(port), (socket.SOCK_STREAM, socket.SOCK_DGRAM))):
            _GIVEN.add(port)
            return port


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


@dataclass
class Whit:
    """Calls of one agent id."""

    settings: Settings
    environment: dict[str, str] = field(default_factory=dict)
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Those that `start_agent` started: our children, to be waited for."""
    prefix: list[str] = field(default_factory=list)
    """Put before each command, as nsenter with a namespace."""

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "WHIT_ID": self.settings.id,
            "WHIT_RUN_ROOT": str(self.settings.run_root),
            "WHIT_STATE_ROOT": str(self.settings.state_root),
            **self.environment,
        }

    def __call__(self, *words: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        argv = [*self.prefix, sys.executable, "-m", "whit.cli", *words]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=patient(timeout), check=False)
        assert not check or done.returncode == 0, (
            f"whit {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self("--json", *words).stdout)

    def lines(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self("--json", *words).stdout.splitlines()]

    @property
    def agent_pid(self) -> int:
        return int((self.settings.run_dir / "agent.lock").read_text())

    def kill_agent(self) -> None:
        """kill -9, and wait until it is gone."""
        descriptor = os.pidfd_open(self.agent_pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], patient(30))
        finally:
            os.close(descriptor)
        for agent in self.agents:
            agent.wait(patient(30))
        self.agents.clear()

    def start_agent(self, patience: float = 60) -> None:
        """Start whitd as a supervisor would, and wait until it answers."""
        log = self.settings.logs_dir / "whitd.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            argv = [sys.executable, "-m", "whit.api.daemon", "--id", self.settings.id]
            self.agents.append(
                subprocess.Popen(argv, env=self.env, stdout=output, stderr=output, start_new_session=True)
            )
        until = time.monotonic() + patient(patience)
        while self("--json", "ps", check=False).returncode != 0:
            assert time.monotonic() < until, f"the agent does not answer:\n{log.read_text()[-2000:]}"
            time.sleep(0.05)

    def clean(self) -> None:
        self("doctor", "--clean", "--yes", timeout=120)
        for agent in self.agents:
            agent.wait(patient(30))
        self.agents.clear()

    def resolves(self, asker: str, name: str, patience: float = 20) -> bool:
        """Ask the node's resolver, not /etc/hosts, for a name from inside the network namespace of an instance."""
        netns = self.settings.netns_dir / asker
        script = (
            "import sys; from dnslib import DNSRecord;"
            "server, name, patience = sys.argv[1:];"
            "reply = DNSRecord.parse(DNSRecord.question(name).send(server, 53, timeout=float(patience)));"
            "sys.exit(0 if reply.rr else 1)"
        )
        hosts = (self.settings.instances_dir / asker / "resolv.conf").read_text()
        server = next(line.split()[1] for line in hosts.splitlines() if line.startswith("nameserver"))
        argv = ["nsenter", f"--net={netns}", sys.executable, "-c", script, server, name, str(patience)]
        done = subprocess.run(argv, env=self.env, capture_output=True, timeout=patience + 20, check=False)
        return done.returncode == 0
