"""A closure under the agent: it runs as the checks said, and its image is held while its instances are there."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(300)]

APP = """
name: closed
services:
  web:
    build:
      parts: [debian:nginx]
      link: closure
      check:
        - {start: [nginx, -e, stderr, -g, "daemon off;"], http: "http://127.0.0.1/", contains: Welcome to nginx}
    command: [nginx, -e, stderr, -g, "daemon off;"]
    tmpfs: [/var/lib/nginx, /var/log/nginx]
    ports: ["${PORT}:80"]
"""


@pytest.fixture
def whit(tmp_path: Path) -> Iterator[Whit]:
    (tmp_path / "whit.yaml").write_text(APP)
    settings = Settings(id=f"tc{free_port():05d}"[:7], state_root=tmp_path / "state")
    found = Whit(settings, {"PORT": str(free_port())})
    try:
        yield found
    finally:
        found.clean()
    assert not leftovers_after(settings)


def answer(whit: Whit) -> str:
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{whit.environment['PORT']}/", timeout=20) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_closed_app_runs_and_is_held(whit: Whit, tmp_path: Path) -> None:
    whit("up", str(tmp_path))
    assert "Welcome to nginx" in answer(whit)
    image = whit.json("image", "ls")[0]
    assert image["size"] < 12_000_000
    whit("image", "rm", image["name"])
    whit("image", "gc")
    whit("restart", "closed")
    assert "Welcome to nginx" in answer(whit)
    whit("down", "closed")
    assert whit.json("image", "gc")["layers"] == 1
