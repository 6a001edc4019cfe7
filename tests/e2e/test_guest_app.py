"""An app with a service in a virtual machine: its peers, the world and whoever kills the agent see no difference."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guests import HAS_QEMU
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [
    pytest.mark.machine,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

APP = """
name: mixed
services:
  guest:
    isolation: microvm
    build: {parts: [debian:busybox-static, ./site]}
    command: [busybox, httpd, -f, -v, -p, "[::]:80", -h, /srv]
    ports: ["${PORT}:80"]
    uses: [{service: plain, port: 80}]
    healthcheck:
      test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1/name"]
      interval: 2s
      start_period: 60s
    volumes: ["kept:/srv/kept"]
    mem_limit: 128m
  plain:
    build: {parts: [debian:busybox-static, ./site]}
    command: [busybox, httpd, -f, -p, "[::]:80", -h, /srv]
    uses: [{service: guest, port: 80}]
  stranger:
    build: {parts: [debian:busybox-static]}
    command: [busybox, sleep, "100000"]
volumes: {kept: }
"""


@pytest.fixture
def whit(tmp_path: Path) -> Iterator[Whit]:
    (tmp_path / "whit.yaml").write_text(APP)
    (tmp_path / "site/srv").mkdir(parents=True)
    (tmp_path / "site/srv/name").write_text("hello\n")
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path / "state")
    found = Whit(settings, {"PORT": str(free_port())})
    try:
        yield found
    finally:
        found("down", "mixed", check=False)
        found.clean()
    assert not (left := leftovers_after(settings)), left


def fetched(whit: Whit, service: str, url: str, patience: int = 60) -> str:
    # busybox's own time limit (wget -T) crashes in Debian's static build.
    words = ("busybox", "timeout", str(patience), "busybox", "wget", "-q", "-O", "-", url)
    done = whit("exec", service, *words, check=False)
    return done.stdout if done.returncode == 0 else "no"


def from_outside(whit: Whit) -> bytes:
    address = f"http://127.0.0.1:{whit.environment['PORT']}/name"
    with urllib.request.urlopen(address, timeout=60) as reply:
        return bytes(reply.read())


def test_a_service_in_a_virtual_machine(whit: Whit, tmp_path: Path) -> None:
    whit("up", str(tmp_path))
    seen = {one["service"]: one for one in whit.json("ps")}
    assert seen["guest"]["isolation"] == "microvm"
    assert seen["guest"]["state"] == "running"
    addresses = seen["guest"]["addresses"]

    assert fetched(whit, "plain", "http://guest/name") == "hello\n"
    for address in addresses:
        literal = f"[{address}]" if ":" in address else address
        assert fetched(whit, "plain", f"http://{literal}/name") == "hello\n", address
    assert fetched(whit, "guest", "http://plain/name") == "hello\n", "and from the guest, by a service's address"
    assert from_outside(whit) == b"hello\n"
    assert fetched(whit, "stranger", "http://guest/name", patience=3) == "no"
    denied = whit.lines("flows", "--verdict", "deny")
    pairs = {(flow["source"]["name"], flow["destination"]["name"]) for flow in denied}
    assert ("mixed/stranger", "mixed/guest") in pairs
    surface = whit.json("inspect", "guest", "--surface")
    assert (surface["kernel"], surface["machine_devices"][0]) == ("own", "/dev/net/tun")
    assert "mixed/plain" in {one["peer"] for one in surface["reached_by"]}

    whit("exec", "guest", "busybox", "sh", "-c", "echo data > /srv/kept/file")
    pid = seen["guest"]["pid"]
    whit.kill_agent()
    assert from_outside(whit) == b"hello\n"
    whit("up", str(tmp_path))
    assert {one["service"]: one["pid"] for one in whit.json("ps")}["guest"] == pid, "it was adopted"

    whit("restart", "mixed", "guest")
    assert fetched(whit, "plain", "http://guest/kept/file") == "data\n"
    app = tmp_path / "whit.yaml"
    app.write_text(app.read_text().replace("isolation: microvm", "isolation: container"))
    whit("up", str(tmp_path))
    (guest,) = [one for one in whit.json("ps") if one["service"] == "guest"]
    assert (guest["isolation"], guest["addresses"]) == ("container", addresses)
    assert fetched(whit, "plain", "http://guest/kept/file") == "data\n", "one word changed the wall, and nothing else"
    began = time.monotonic()
    whit("down", "mixed")
    assert time.monotonic() - began < 30
