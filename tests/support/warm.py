"""An app whose service sleeps while nobody asks for it: a small server by TCP and UDP, and a client beside it."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from support.whit import ROOT, Whit, free_port
from whit.cli.connection.client import Client
from whit.model.instance import InstanceStatus

RESPONDER = ROOT / "tests" / "conformance" / "responder.c"
APP = """
name: warm
services:
  web:
    build: {parts: [./server]}
    command: [/late, "${LATE}", /responder, 8080/tcp, 8053/udp]
    environment: {NAME: "here"}
    ports: ["${PORT}:8080", "${PORT}:8053/udp"]
    scale: {min: 0, idle: ${IDLE}, after: ${AFTER}}
    ${MORE}
  client:
    build: {parts: [./server]}
    command: [/responder, 1/tcp]
    environment: {NAME: "client"}
    uses: [web]
"""


LATE = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static char ballast[4 << 20];
int main(int count, char **words)
{
	int late = atoi(words[1]);

	usleep(late * 1000);
	if (late && write(open("/tmp/ballast", O_CREAT | O_WRONLY, 0600), ballast, sizeof(ballast)) < 0)
		return 1;
	return count > 2 ? execv(words[2], words + 2) : 0;
}
"""
"""Waits for so many milliseconds, fills 4 MiB of memory if these are any, and becomes the rest of its arguments."""


def build_server(server: Path) -> None:
    """The programs of the image, in a directory that is a part."""
    server.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-static", "-s", "-o", server / "responder", RESPONDER], check=True, timeout=120)
    argv = ["gcc", "-O2", "-static", "-s", "-x", "c", "-o", server / "late", "-"]
    subprocess.run(argv, input=LATE.encode(), check=True, timeout=120)


def write_app(directory: Path, idle: str, after: str, more: str = "", late: int = 0) -> int:
    """The app file and what it is built of. Returns the published port. `late` are milliseconds until it listens."""
    build_server(directory / "server")
    port = free_port()
    text = APP
    for name, value in {"PORT": str(port), "IDLE": idle, "AFTER": after, "MORE": more, "LATE": str(late)}.items():
        text = text.replace(f"${{{name}}}", value)
    (directory / "whit.yaml").write_text(text)
    return port


class Asked(NamedTuple):
    """What a connection took to its first byte, and how often something was sent again for it, as the kernel has
    counted: a packet that is lost is sent again after a second, but a busy machine may take as long without a loss."""

    seconds: float
    sent_again: int

    @property
    def at_once(self) -> bool:
        return self.sent_again == 0


TOTAL_RETRANS = 100
"""Where tcpi_total_retrans stands in struct tcp_info of <linux/tcp.h>: that of SYNs too."""


def connect(port: int, timeout: float = 30, host: str = "127.0.0.1") -> Asked:
    began = time.monotonic()
    with socket.create_connection((host, port), timeout=timeout) as stream:
        assert stream.recv(100) == b"here"
        seconds = time.monotonic() - began
        info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
        return Asked(seconds, struct.unpack_from("=I", info, TOTAL_RETRANS)[0])


def ask_port(port: int, timeout: float = 10, host: str = "127.0.0.1") -> float:
    """A connection. Returns the seconds to the first byte."""
    return connect(port, timeout, host).seconds


def ask_by_datagram(port: int, timeout: float = 10) -> float:
    """One datagram, sent once. Returns the seconds to the answer."""
    began = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(timeout)
        own.connect(("127.0.0.1", port))
        own.send(b"who is there?")
        assert own.recv(100) == b"here"
    return time.monotonic() - began


class Warm:
    """The app, up."""

    def __init__(
        self, whit: Whit, directory: Path, idle: str, after: str = "100ms", more: str = "", late: int = 0
    ) -> None:
        self.whit, self.directory, self.idle = whit, directory, idle
        self.port = write_app(directory, idle, after, more, late)
        whit("up", str(directory), timeout=300)

    def status(self, name: str = "warm-web-1") -> InstanceStatus:
        return next(one for one in Client(self.whit.settings).instances() if one.name == name)

    @property
    def group(self) -> Path:
        """The cgroup of the service's instance, as the kernel shows whether it stands still."""
        v1 = Path("/sys/fs/cgroup/freezer")
        base = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
        return base / self.whit.settings.cgroup.lstrip("/") / "warm-web-1"

    def is_frozen(self) -> bool:
        state = self.group / "freezer.state"
        if state.exists():
            return state.read_text().strip() == "FROZEN"
        return "frozen 1" in (self.group / "cgroup.events").read_text()

    def wait_until(self, state: str, patience: float = 60) -> None:
        until = time.monotonic() + patience
        while (found := self.status()).state != state:
            assert time.monotonic() < until, f"it is not {state} but {found}"
            time.sleep(0.02)

    def wait_until_asleep(self, patience: float = 60) -> None:
        if self.idle == "frozen":
            self.wait_until_frozen(patience)
        else:
            self.wait_until(self.idle, patience)

    def wait_until_frozen(self, patience: float = 60) -> None:
        """Asks the kernel, which takes no time."""
        until = time.monotonic() + patience
        while not self.is_frozen():
            assert time.monotonic() < until, f"it does not fall asleep: {self.status()}"
            time.sleep(0.005)

    def ask(self, timeout: float = 30, host: str = "127.0.0.1") -> Asked:
        """A connection."""
        try:
            return connect(self.port, timeout, host)
        except OSError as error:
            log = (self.whit.settings.logs_dir / "whitd.log").read_text()
            seen = f"frozen: {self.is_frozen()}; {self.whit('flows', '--limit', '9', check=False).stdout}"
            raise AssertionError(f"{error}; {self.status()}; {seen}; the agent said:\n{log[-3000:]}") from error

    def ask_datagram(self, timeout: float = 30) -> float:
        """One datagram, sent once."""
        return ask_by_datagram(self.port, timeout)
