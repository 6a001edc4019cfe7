"""The REST interface of a real agent, over its unix socket: what it lists, refuses, and whom it lets in."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from support.leftovers import leftovers_after
from support.whit import ROOT, Whit

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self.path))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    whit = Whit(Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state")))
    try:
        whit.start_agent()
        yield whit
    finally:
        whit.clean()
    assert not (left := leftovers_after(whit.settings)), left


def call(agent: Whit, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    connection = UnixConnection(agent.settings.socket)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, target, json.dumps(body) if body is not None else None, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read() or b"null")
    finally:
        connection.close()


def test_every_call_of_the_readme_is_in_the_openapi_document(agent: Whit) -> None:
    _, document = call(agent, "GET", "/v1/openapi.json")
    listed = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    named = set()
    for line in (ROOT / "src/whit/api/README.md").read_text().splitlines():
        for word in line.split("`")[1:2] + line.split("`")[3:4]:
            method, _, target = word.partition(" ")
            if method in ("GET", "PUT", "POST", "DELETE") and target.startswith("/v1/"):
                named.add(f"{method} {target.partition('?')[0]}".replace("{app}", "{name}"))
    assert named <= listed
    assert len(named) >= 10


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("GET", "/v1/apps/nothing", None, 404, "not-found"),
        ("DELETE", "/v1/apps/nothing", None, 404, "not-found"),
        ("POST", "/v1/apps/nothing/restart", None, 404, "not-found"),
        ("POST", "/v1/apps/nothing/start", None, 404, "not-found"),
        ("POST", "/v1/apps/nothing/stop", None, 404, "not-found"),
        ("GET", "/v1/explain?source=nobody&destination=world&port=80", None, 404, "not-found"),
        ("GET", "/v1/explain?source=world&destination=world&port=80&protocol=gre", None, 400, "input"),
        (
            "PUT",
            "/v1/apps/other",
            {"name": "this", "directory": "/", "services": {"a": {"image": "i"}}},
            400,
            "input",
        ),
    ],
)
def test_refusals_have_a_status_a_code_and_a_text(
    agent: Whit, method: str, target: str, body: Any, status: int, code: str
) -> None:
    found, problem = call(agent, method, target, body)
    assert (found, problem["code"]) == (status, code)
    assert problem["message"]


def test_a_document_that_is_no_app_is_refused_with_its_places(agent: Whit) -> None:
    status, document = call(agent, "PUT", "/v1/apps/a", {"name": "a", "directory": "/", "services": {"x": {}}, "y": 1})
    assert status == 422
    assert {tuple(error["loc"]) for error in document["detail"]} >= {("body", "y")}


def test_the_agent_says_who_it_is(agent: Whit) -> None:
    status, document = call(agent, "GET", "/v1/agent")
    assert (status, document["id"], document["apps"]) == (200, agent.settings.id, 0)
    assert document["pid"] == agent.agent_pid


def test_a_dry_run_lists_operations_and_does_none(agent: Whit) -> None:
    spec = {"name": "a", "directory": "/", "services": {"x": {"image": "oci:/nowhere", "command": ["run"]}}}
    connection = UnixConnection(agent.settings.socket)
    connection.request("PUT", "/v1/apps/a?dry_run=1", json.dumps(spec), {"Content-Type": "application/json"})
    lines = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    connection.close()
    operations = lines[-1]["result"]["operations"]
    assert operations[0] == "obtain the image oci:/nowhere for x"
    assert any(line.startswith("create network namespace") for line in operations)
    assert operations[-1] == "start container a-x-1"
    assert call(agent, "GET", "/v1/apps") == (200, [])
    assert not list(agent.settings.instances_dir.glob("*"))


def test_the_socket_is_for_root_alone(agent: Whit) -> None:
    assert agent.settings.socket.stat().st_mode & 0o777 == 0o600
    assert agent.settings.run_dir.stat().st_mode & 0o777 == 0o700


def test_a_peer_that_is_not_root_is_refused_whatever_the_permissions(agent: Whit) -> None:
    """Descriptors opened by root, used by nobody: the kernel tells the credentials of who connected."""
    script = (
        "import os, socket, sys\n"
        "directory = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(f'/proc/self/fd/{directory}/' + os.path.basename(sys.argv[1]))\n"
        "client.sendall(b'GET /v1/agent HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "print(client.recv(100))\n"
    )
    path = agent.settings.socket
    path.chmod(0o666)
    agent.settings.run_dir.chmod(0o755)
    try:
        argv = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
        assert "200" not in done.stdout
        assert done.stdout.strip() in ("", "b''") or "reset" in done.stderr.lower()
        assert "PermissionError" not in done.stderr
    finally:
        path.chmod(0o600)
        agent.settings.run_dir.chmod(0o700)


def test_only_one_agent_for_an_id(agent: Whit) -> None:
    argv = [sys.executable, "-m", "whit.api.daemon", "--id", agent.settings.id]
    second = subprocess.run(argv, env=agent.env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 4
    assert str(agent.agent_pid) in second.stderr
    assert call(agent, "GET", "/v1/agent")[0] == 200


def test_features_are_found_by_trying(agent: Whit) -> None:
    status, features = call(agent, "GET", "/v1/features")
    assert status == 200
    assert all(feature["hint"] for feature in features if feature["state"] == "missing")
    names = [feature["name"] for feature in features]
    assert len(names) == len(set(names)), "a feature is named twice"
