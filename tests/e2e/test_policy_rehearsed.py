"""Policy before it holds: flows are recorded by a real agent, replayed against other policies, and what is learned from
them lets exactly these through."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(300)]

SERVER = '["busybox", "httpd", "-f", "-p", "8080", "-h", "/tmp"]'
APP = f"""\
name: open
services:
  web:
    build: {{parts: [debian:busybox-static]}}
    command: {SERVER}
    stop_signal: SIGKILL
    uses: [api, db]   # much
  api:
    build: {{parts: [debian:busybox-static]}}
    command: {SERVER}
    stop_signal: SIGKILL
    uses: [db]
    expose: [{{name: http, port: 8080}}]
  db:
    build: {{parts: [debian:busybox-static]}}
    command: {SERVER}
    stop_signal: SIGKILL
    labels: {{tier: data}}
"""
POLICY = """\
policies:
  data:
    for: {labels: {tier: data}}
    ingress:
      - {deny: api}
  audited:
    for: api
    mode: audit
    ingress:
      - {deny: web, ports: [http]}
"""


@pytest.fixture(scope="module")
def whit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    directory = tmp_path_factory.mktemp("app")
    (directory / "whit.yaml").write_text(APP)
    settings = Settings(id=f"tp{free_port():05d}"[:7], state_root=directory / "state")
    found = Whit(settings, {"APP": str(directory)})
    try:
        found("up", str(directory), timeout=280)
        yield found
    finally:
        found("down", "open", check=False)
        found.clean()
    assert not leftovers_after(settings)


@pytest.fixture
def app(whit: Whit) -> Path:
    return Path(whit.environment["APP"])


def reaches(whit: Whit, source: str, destination: str, port: int = 8080, patience: int = 20) -> bool:
    """Whether a connection is made; busybox answers with a refusal where nobody listens."""
    done = whit("exec", source, "busybox", "nc", "-w", str(patience), destination, str(port), check=False)
    return done.returncode == 0


def test_flows_are_replayed_and_learned(whit: Whit, app: Path) -> None:
    assert reaches(whit, "web", "api")
    assert reaches(whit, "web", "api")
    assert reaches(whit, "api", "db")
    assert not reaches(whit, "db", "web", patience=1)

    candidate = app / "candidate.yaml"
    candidate.write_text(APP + POLICY)
    whit("policy", "replay", str(candidate), "--exit-code", check=False)
    found = whit.json("policy", "replay", str(candidate))
    changes = {(one["source"], one["destination"], one["now"], one["then"]): one for one in found["changes"]}
    assert changes.keys() == {
        ("open/api", "open/db", "allow", "deny"),
        ("open/web", "open/api", "allow", "audit"),
    }
    denied = changes["open/api", "open/db", "allow", "deny"]
    assert (denied["port"], denied["protocol"], denied["count"]) == (8080, "tcp", 1)
    assert denied["then_rule"].startswith("policy open/data rule 1: deny from services whit.service=api")
    assert changes["open/web", "open/api", "allow", "audit"]["count"] == 2
    assert whit("policy", "replay", str(candidate), "--exit-code", check=False).returncode == 1
    assert whit.json("policy", "replay", str(app))["changes"] == []

    checked = whit("policy", "check", str(candidate), check=False)
    assert checked.returncode == 1
    line = next(number for number, text in enumerate(APP.splitlines(), start=1) if "uses: [db]" in text)
    assert f"{candidate}:{line}" in checked.stdout
    assert "open/api to open/db" in checked.stdout

    candidate.write_text(APP.replace("uses: [db]", "uses: [{service: db, port: 5432}]"))
    (silent,) = json.loads(whit("--json", "policy", "check", str(candidate), check=False).stdout)
    assert (silent["kind"], silent["place"]) == ("no-listener", f"{candidate}:{line}")
    assert silent["text"] == "none of open/db listens at the port 5432/tcp now"

    fragment = whit("policy", "learn", "open").stdout
    assert "- {service: api, port: 8080}  # 2 times" in fragment
    assert "# declared and never seen: {service: db}" in fragment


def test_what_was_learned_is_written_and_allows_precisely_that(whit: Whit, app: Path) -> None:
    argv = ["policy", "learn", str(app), "--write"]
    refused = run(whit, argv, "n\n")
    assert (refused.returncode, (app / "whit.yaml").read_text()) == (1, APP)
    assert "-    uses: [api, db]   # much" in refused.stderr
    written = run(whit, argv, "y\n")
    assert written.returncode == 0, written.stderr
    assert "- {service: api, port: 8080}" in (app / "whit.yaml").read_text()

    whit("up", str(app))
    assert reaches(whit, "web", "api")
    assert reaches(whit, "api", "db")
    assert not reaches(whit, "web", "db", patience=1)
    assert denied(whit, "web", "api", 8081)
    assert denied(whit, "db", "api", 8080)
    assert not denied(whit, "web", "api", 8080)


def run(whit: Whit, argv: list[str], answer: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whit.cli", *argv]
    return subprocess.run(command, env=whit.env, input=answer, capture_output=True, text=True, timeout=60, check=False)


def denied(whit: Whit, source: str, destination: str, port: int) -> bool:
    return bool(whit.json("explain", source, destination, str(port))["verdict"] == "deny")


def test_policies_of_the_app_file_hold(whit: Whit, app: Path) -> None:
    """And those in audit only tell."""
    before = (app / "whit.yaml").read_text()
    (app / "whit.yaml").write_text(APP + POLICY)
    try:
        whit("up", str(app))
        assert not reaches(whit, "api", "db", patience=1)
        assert reaches(whit, "web", "db")
        assert reaches(whit, "web", "api")
        until = time.monotonic() + 30
        while not (audited := whit.lines("flows", "--verdict", "audit")) and time.monotonic() < until:
            time.sleep(0.1)
        assert audited[-1]["rule_text"].startswith("policy open/audited rule 1: deny from services whit.service=web")
        (drop,) = [
            one for one in whit.lines("flows", "--verdict", "deny") if one["rule_text"].startswith("policy open/data")
        ][:1]
        assert drop["reason"] == "POLICY_INGRESS"
        assert f"{app}/whit.yaml:" in drop["rule_text"]
    finally:
        (app / "whit.yaml").write_text(before)
        whit("up", str(app))


NETWORKS = f"""\
name: nets
services:
  front: {{build: {{parts: [debian:busybox-static]}}, command: {SERVER}, stop_signal: SIGKILL, networks: [one]}}
  both: {{build: {{parts: [debian:busybox-static]}}, command: {SERVER}, stop_signal: SIGKILL, networks: [one, two]}}
  back: {{build: {{parts: [debian:busybox-static]}}, command: {SERVER}, stop_signal: SIGKILL, networks: [two]}}
networks:
  one:
  two: {{internal: true}}
"""


def test_networks_of_compose_part_services(whit: Whit, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(NETWORKS)
    whit("up", str(tmp_path))
    try:
        assert reaches(whit, "front", "both")
        assert reaches(whit, "both", "back")
        assert not reaches(whit, "front", "back", patience=1)
        (drop, *_) = whit.lines("flows", "--from", "nets/front", "--verdict", "deny")
        assert drop["rule_text"].startswith("nets/front is open: it reaches its own networks (one) and the world")
        assert not denied(whit, "both", "world", 443)
        assert denied(whit, "back", "world", 443)
    finally:
        whit("down", "nets")
