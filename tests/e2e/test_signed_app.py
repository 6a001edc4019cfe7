"""An app that asks for signatures, on a node that asks for more: nothing runs that nobody vouches for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.full, pytest.mark.timeout(300)]

APP = """
name: signed
services:
  web:
    build: {parts: [./root]}
    command: [/bin/busybox, sleep, "1000"]
    stop_signal: SIGKILL
trust:
  - {images: "signed-*", keys: [app.pub]}
"""


@pytest.fixture
def whit(tmp_path: Path) -> Iterator[Whit]:
    (tmp_path / "root/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "root/bin/busybox")
    (tmp_path / "whit.yaml").write_text(APP)
    settings = Settings(id=f"ts{free_port():05d}"[:7], state_root=tmp_path / "state")
    found = Whit(settings, {"COSIGN_PASSWORD": "secret", "WHIT_TRUST": ""})
    try:
        yield found
    finally:
        found.clean()
    assert not leftovers_after(settings)


def refusal(whit: Whit, *words: str) -> str:
    done = whit(*words, check=False)
    assert done.returncode == 8, (done.returncode, done.stderr)
    assert whit("--json", "ps", "signed", check=False).stdout.count('"state"') == 0
    return done.stderr


def test_nothing_runs_that_nobody_vouches_for(whit: Whit, tmp_path: Path) -> None:
    for name in ("app", "node", "stranger"):
        whit("image", "keygen", "-o", str(tmp_path / name))
    up = ("up", str(tmp_path), "--timeout", "20")
    assert "signed-web is not signed" in refusal(whit, *up)
    whit("image", "sign", "signed-web", "--key", str(tmp_path / "stranger.key"))
    assert "signed, but not by" in refusal(whit, *up)
    whit("image", "sign", "signed-web", "--key", str(tmp_path / "app.key"))
    assert "verify who vouches for image signed-web" in whit("up", str(tmp_path), "--dry-run").stdout
    whit(*up)
    whit("down", "signed")
    (tmp_path / "trust.yaml").write_text("trust: [{images: '*', keys: [node.pub]}]\n")
    whit.environment["WHIT_TRUST"] = str(tmp_path / "trust.yaml")
    whit.kill_agent()
    whit.start_agent()
    assert "signed, but not by" in refusal(whit, *up)
    whit("image", "sign", "signed-web", "--key", str(tmp_path / "node.key"))
    whit(*up)
    # The rules are asked anew for each instance, also after a restart of the agent.
    (tmp_path / "trust.yaml").write_text("trust: [{images: '*', keys: [stranger.pub, stranger.pub]}]\n")
    whit("restart", "signed")
    (tmp_path / "trust.yaml").unlink()
    assert "cannot be read" in whit(*up, check=False).stderr
