"""Two agents on one machine do not touch each other."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers, leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(300)]

APP = """
name: hello
services:
  web:
    build: {parts: [debian:busybox-static, ./site]}
    command: [busybox, httpd, -f, -p, "8080", -h, /site]
    ports: ["${PORT}:8080"]
    healthcheck:
      test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8080/"]
      start_interval: 100ms
      start_period: 10s
"""


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[Whit]]:
    """The same app under two ids."""
    (tmp_path / "site" / "site").mkdir(parents=True)
    (tmp_path / "whit.yaml").write_text(APP)
    found = [
        Whit(Settings(id=f"t2{letter}{free_port():05d}"[:7], state_root=tmp_path / letter), {"PORT": str(free_port())})
        for letter in "ab"
    ]
    try:
        for whit in found:
            (tmp_path / "site" / "site" / "index.html").write_text(whit.settings.id)
            whit("up", str(tmp_path))
        yield found
    finally:
        for whit in found:
            whit.clean()
    assert not [left for whit in found for left in leftovers_after(whit.settings)]


def answer(whit: Whit) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{whit.environment['PORT']}/", timeout=30) as reply:
        return str(reply.read().decode())


def processes(whit: Whit) -> list[tuple[str, int, str]]:
    return [(seen["instance"], seen["pid"], seen["state"]) for seen in whit.json("ps")]


def test_cleaning_one_leaves_the_other_whole(agents: list[Whit]) -> None:
    first, second = agents
    assert (answer(first), answer(second)) == (first.settings.id, second.settings.id)
    before = processes(second)
    first.clean()
    assert not leftovers_after(first.settings)
    assert leftovers(second.settings)
    assert answer(second) == second.settings.id
    assert processes(second) == before
