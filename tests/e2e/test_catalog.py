"""Every app of the catalogue: linked by closure, proven, started by its name, and asked over its published port.

A run without --full starts one of them, as the base of an app; all are part of the full one.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dnslib import DNSRecord
from support.booted import booted
from support.guests import HAS_QEMU
from support.leftovers import leftovers_after
from support.upgrades import until
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.formats import catalog
from whit.runtime import programs

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

_GET = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""PostgreSQL answers one letter (protocol-message-formats, SSLRequest)."""
_QUESTION = DNSRecord.question("works.whit.test").pack()
ASKED = {
    "static-web": (_GET, b"It works"),
    "redis": (b"PING\r\n", b"+PONG"),
    "nginx": (_GET, b"It works"),
    "memcached": (b"version\r\n", b"VERSION 1."),
    "haproxy": (_GET, b"haproxy works"),
    "python": (_GET, b"It works"),
    "unbound": (len(_QUESTION).to_bytes(2, "big") + _QUESTION, b"\xc0\x00\x02\x01"),
    "postgresql": (_SSL_REQUEST, b"N"),
    "tomcat": (_GET, b"42 on Java 17"),
}
"""What is sent to each, and what its answer contains."""
_PATIENCE = 60.0


@pytest.fixture(scope="module")
def whit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    found = Whit(settings, {"PORT": str(free_port())})
    try:
        yield found
    finally:
        found.clean()
    assert not (left := leftovers_after(settings)), left


def answer(port: int, question: bytes, expected: bytes) -> bytes:
    """What comes back, until it contains what is expected or nothing more comes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(question)
        while expected not in received and (data := connection.recv(65536)):
            received += data
    return received


def eventually(port: int, question: bytes, expected: bytes) -> None:
    until = time.monotonic() + _PATIENCE
    received: bytes | OSError = b""
    while time.monotonic() < until:
        try:
            received = answer(port, question, expected)
            if expected in received:
                return
        except OSError as error:
            received = error
        time.sleep(0.2)
    raise AssertionError(f"not {expected!r}, but {received!r}")


def test_the_test_asks_every_app() -> None:
    assert set(ASKED) == {entry.name for entry in catalog.entries() if entry.kind == "app"}


@pytest.mark.full
@pytest.mark.parametrize("name", ASKED)
def test_it_runs_by_its_name(name: str, whit: Whit, record_number: Callable[[str, object], None]) -> None:
    try:
        whit("up", f"catalog:{name}", timeout=400)
        eventually(int(whit.environment["PORT"]), *ASKED[name])
        stored = {one["name"]: one["size"] for one in whit.json("image", "ls")}
        record_number(f"catalogue: {name}, MB", round(stored[f"{name}-{name}"] / 1e6, 1))
        bill = whit.json("image", "inspect", f"{name}-{name}")
        assert {part["link"] for part in bill["parts"]} <= {"closure", "whole"}
        assert bill["checks"]
    finally:
        whit("down", f"catalog:{name}", check=False)


MACHINES = {"nginx-machine": "It works"}
"""What each answers at its port 8080."""


def test_the_test_boots_every_machine() -> None:
    assert set(MACHINES) == {entry.name for entry in catalog.entries() if entry.kind == "machine"}


@pytest.mark.full
@pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed")
@pytest.mark.parametrize("name", MACHINES)
def test_it_boots_by_its_name(name: str, whit: Whit, tmp_path: Path) -> None:
    programs.build()
    with booted(whit, f"catalog:{name}", tmp_path) as machine:
        assert MACHINES[name] in machine.get()
        until(machine, lambda: "the machine is up" in machine.printed)
        assert machine.stop() == 0
    assert "power off" in machine.printed


def test_an_app_builds_on_an_entry(whit: Whit, tmp_path: Path) -> None:
    (tmp_path / "site/srv/www").mkdir(parents=True)
    (tmp_path / "site/srv/www/index.html").write_text("my own page")
    (tmp_path / "whit.yaml").write_text("""
name: mine
services:
  web:
    extends: catalog:static-web
    build:
      parts: [./site]
      check: [{start: [busybox, httpd, -f, -p, "8080", -h, /srv/www], http: "http://127.0.0.1:8080/", contains: my own}]
    ports: ["${PORT}:8080"]
""")
    try:
        whit("up", str(tmp_path))
        eventually(int(whit.environment["PORT"]), _GET, b"my own page")
    finally:
        whit("down", "mine", check=False)
