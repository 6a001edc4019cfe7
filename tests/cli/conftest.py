"""An agent that speaks the documented REST interface from recorded documents, and the command as a person runs it.

The agent is a real HTTP server on a real unix socket, and its exec runs real commands on this machine with a real
pseudo-terminal; only what it knows of apps is recorded. What the real agent answers is tested with the real agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, StreamingResponse

from whit.base.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def instance(app: str, service: str, index: int = 1, **more: Any) -> dict[str, Any]:
    """An InstanceStatus document."""
    return {
        "name": f"{app}-{service}-{index}",
        "app": app,
        "service": service,
        "state": "running",
        "health": "healthy",
        "isolation": "container",
        "address": f"10.201.0.{index + 1}",
        "ports": [],
        "pid": 4000 + index,
        "image": f"{app}-{service}:latest",
        "started_at": "2025-01-31T12:00:00Z",
        "exit_code": None,
        "restarts": 0,
        "message": "",
        "runtime": "crun",
        "revision": "0123456789abcdef",
    } | more


def service(app: str, name: str, **more: Any) -> dict[str, Any]:
    """A ServiceStatus document."""
    document = {"app": app, "name": name, "state": "running", "health": "healthy", "wanted": 1, "running": 1}
    return document | {"address": "10.202.0.1", "ports": [], "image": "", "message": ""} | more


def app_document(name: str, *instances: dict[str, Any], ports: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """An AppStatus document."""
    names = sorted({one["service"] for one in instances})
    services = [service(name, each, ports=(ports or {}).get(each, [])) for each in names]
    return {
        "name": name,
        "mode": "declared",
        "state": "running",
        "services": services,
        "instances": list(instances),
    }


def shop_document() -> dict[str, Any]:
    ports = ["0.0.0.0:8080->8080/tcp"]
    return app_document(
        "shop",
        instance("shop", "api"),
        instance("shop", "api", 2),
        instance(
            "shop", "db", state="exited", health="none", exit_code=1, pid=None, message="exited with 1 three times"
        ),
        instance("shop", "web", ports=ports),
        ports={"web": ports},
    )


def flow_document(verdict: str = "deny", **more: Any) -> dict[str, Any]:
    return {
        "time": "2025-01-31T12:00:00.250000Z",
        "source": {"address": "10.201.0.2", "port": 40000, "identity": 257, "name": "shop/web"},
        "destination": {"address": "10.201.0.3", "port": 5432, "identity": 259, "name": "shop/db"},
        "service": "",
        "protocol": "tcp",
        "verdict": verdict,
        "reason": "POLICY_EGRESS" if verdict == "deny" else "",
        "reason_text": "the source may not reach it" if verdict == "deny" else "",
        "rule": 7,
        "rule_text": "web is declared: all else is denied (whit.yaml:8)",
        "hook": "ingress",
        "link": "w-whit-1",
        "undeclared": False,
    } | more


@dataclass
class RecordedAgent:
    """What it answers may be changed by a test; what it was asked is kept."""

    settings: Settings
    apps: list[dict[str, Any]] = field(default_factory=lambda: [shop_document()])
    work: list[dict[str, Any]] = field(default_factory=list)
    """The lines of the next PUT, DELETE or POST."""
    log: list[dict[str, Any]] = field(default_factory=list)
    flows: list[dict[str, Any]] = field(default_factory=list)
    edges: list[list[dict[str, Any]]] = field(default_factory=lambda: [[]])
    """The answers to the following calls; the last one stays."""
    trace: dict[str, Any] = field(default_factory=dict)
    problem: tuple[int, dict[str, Any]] | None = None
    """Answers every call but that for the agent itself."""
    endless: bool = False
    """Streams stay open after their last line."""
    cut: bool = False
    """Streams break off after their last line, as if the agent was killed."""
    asked: list[tuple[str, str, dict[str, list[str]], Any]] = field(default_factory=list)
    resized: list[list[int]] = field(default_factory=list)

    def last(self, method: str) -> tuple[str, dict[str, list[str]], Any]:
        path, query, body = [entry[1:] for entry in self.asked if entry[0] == method][-1]
        return path, query, body


class Refused(Exception):
    """The call is answered with the agent's problem."""


def recorded_app(agent: RecordedAgent) -> FastAPI:
    async def keep(connection: HTTPConnection) -> None:
        query = {key: connection.query_params.getlist(key) for key in connection.query_params}
        method, body = "WS", b""
        if isinstance(connection, Request):
            method, body = connection.method, await connection.body()
        agent.asked.append((method, connection.url.path, query, json.loads(body) if body else None))
        if agent.problem and connection.url.path != "/v1/agent":
            raise Refused

    api = FastAPI(dependencies=[Depends(keep)])

    @api.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> JSONResponse:
        assert agent.problem
        return JSONResponse(agent.problem[1], status_code=agent.problem[0])

    _add_what_is_told(api, agent)
    _add_what_is_done(api, agent)
    return api


def _add_what_is_told(api: FastAPI, agent: RecordedAgent) -> None:
    @api.get("/v1/agent")
    async def status() -> Any:
        return {"id": agent.settings.id, "version": "0.0.1", "pid": os.getpid(), "apps": len(agent.apps)}

    @api.get("/v1/apps")
    async def apps() -> Any:
        return agent.apps

    @api.get("/v1/instances")
    async def instances(app: str = "") -> Any:
        return [one for each in agent.apps if app in ("", each["name"]) for one in each["instances"]]

    @api.get("/v1/images")
    async def images() -> Any:
        digest = f"sha256:{'ab' * 32}"
        return [{"name": "shop-web:latest", "digest": digest, "size": 9_812_345, "created": "2025-01-31T12:00:00Z"}]

    @api.get("/v1/explain")
    async def explain() -> Any:
        flow = flow_document()
        hops = [
            {"step": "service", "decision": "10.202.0.3:5432 is shop/db"},
            {"step": "egress policy", "decision": "deny", "rule": 7, "rule_text": flow["rule_text"]},
        ]
        kept = ("source", "destination", "protocol", "verdict", "reason", "rule", "rule_text")
        return {key: flow[key] for key in kept} | {"hops": hops}

    @api.get("/v1/apps/{name}/logs")
    async def logs(name: str) -> StreamingResponse:
        return _stream(agent, agent.log)

    @api.get("/v1/flows")
    async def flows() -> StreamingResponse:
        return _stream(agent, agent.flows)

    @api.get("/v1/edges")
    async def edges() -> Any:
        return agent.edges.pop(0) if len(agent.edges) > 1 else agent.edges[0]

    @api.post("/v1/trace")
    async def trace() -> Any:
        return agent.trace


def _add_what_is_done(api: FastAPI, agent: RecordedAgent) -> None:
    @api.put("/v1/apps/{name}")
    @api.delete("/v1/apps/{name}")
    @api.post("/v1/apps/{name}/restart")
    @api.post("/v1/apps/{name}/build")
    async def work(name: str) -> StreamingResponse:
        return _stream(agent, agent.work)

    @api.websocket("/v1/instances/{name}/exec")
    async def execute(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        await Execution(agent, websocket).run()


def _stream(agent: RecordedAgent, documents: list[dict[str, Any]]) -> StreamingResponse:
    async def lines() -> Any:
        for document in documents:
            yield json.dumps(document).encode() + b"\n"
        while agent.endless:
            await asyncio.sleep(0.05)
        if agent.cut:
            raise ConnectionAbortedError

    return StreamingResponse(lines(), media_type="application/x-ndjson")


class Execution:
    """Runs the command on this machine and speaks the frames of the documented call."""

    def __init__(self, agent: RecordedAgent, websocket: WebSocket) -> None:
        self.agent, self.websocket = agent, websocket
        query = websocket.query_params
        self.tty = query.get("tty") == "true"
        self.environment = os.environ | dict(setting.split("=", 1) for setting in query.getlist("env"))
        self.argv = query.getlist("arg")
        self.size = int(query.get("rows", 24)), int(query.get("columns", 80))

    async def run(self) -> None:
        process, source, sink = self._start()
        tasks = [asyncio.create_task(self._send(descriptor, kind)) for descriptor, kind in source]
        receiver = asyncio.create_task(self._receive(process, sink))
        code = await asyncio.to_thread(process.wait)
        await asyncio.gather(*tasks)
        if not self.agent.cut and not receiver.done():
            await self.websocket.send_text(json.dumps({"exit": code}))
        receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await receiver
        for descriptor in {sink, *(descriptor for descriptor, _ in source)}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        with contextlib.suppress(RuntimeError):  # it is closed already
            await self.websocket.close()

    def _start(self) -> tuple[subprocess.Popen[bytes], list[tuple[int, int]], int]:
        if not self.tty:
            (inner_in, sink), (out, inner_out), (err, inner_err) = os.pipe()[:2], os.pipe(), os.pipe()
            process = subprocess.Popen(
                self.argv, stdin=inner_in, stdout=inner_out, stderr=inner_err, env=self.environment
            )
            for descriptor in (inner_in, inner_out, inner_err):
                os.close(descriptor)
            return process, [(out, 1), (err, 2)], sink
        main, inner = pty.openpty()
        self._resize(main, *self.size)
        process = subprocess.Popen(
            ["setsid", "--ctty", *self.argv], stdin=inner, stdout=inner, stderr=inner, env=self.environment
        )
        os.close(inner)
        return process, [(main, 1)], main

    async def _send(self, descriptor: int, kind: int) -> None:
        while data := await asyncio.to_thread(_read, descriptor):
            await self.websocket.send_bytes(bytes([kind]) + data)

    async def _receive(self, process: subprocess.Popen[bytes], sink: int) -> None:
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                process.kill()
                return
            if message.get("text"):
                rows, columns = json.loads(message["text"])["resize"]
                self.agent.resized.append([rows, columns])
                self._resize(sink, rows, columns)
            elif data := message["bytes"][1:]:
                await asyncio.to_thread(os.write, sink, data)
            else:
                os.close(sink)

    def _resize(self, descriptor: int, rows: int, columns: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


@pytest.fixture
def cli_settings(tmp_path: Path) -> Settings:
    """Short paths: a unix socket's name has at most 107 bytes."""
    return Settings(id="tcli", run_root=tmp_path / "r", state_root=tmp_path / "s")


@pytest.fixture
def recorded(cli_settings: Settings) -> Iterator[RecordedAgent]:
    """A recorded agent that listens on the socket of `cli_settings`."""
    agent = RecordedAgent(cli_settings)
    cli_settings.run_dir.mkdir(parents=True)
    config = uvicorn.Config(
        recorded_app(agent), uds=str(cli_settings.socket), ws="websockets-sansio", lifespan="off", log_level="critical"
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    yield agent
    agent.endless = False
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli_environment(cli_settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return kept | {
        "PYTHONPATH": str(ROOT / "src"),
        "WHIT_ID": cli_settings.id,
        "WHIT_RUN_ROOT": str(cli_settings.run_root),
        "WHIT_STATE_ROOT": str(cli_settings.state_root),
        "TERM": "xterm-256color",
    }


@pytest.fixture
def run_whit(cli_environment: dict[str, str], tmp_path: Path) -> Run:
    """`run_whit("ps", "--json")`: the command as a process, in an empty directory."""
    directory = tmp_path / "cwd"
    directory.mkdir()

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": directory, "env": cli_environment, "timeout": 120, "stdin": subprocess.DEVNULL} | more
        if "input" in options:
            del options["stdin"]
        argv = [sys.executable, "-m", "whit.cli", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, **options)

    return run
