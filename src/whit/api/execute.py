"""Commands inside an instance, over a web socket: bytes both ways, the window's size in, the exit status out.

Binary frames start with one byte: 0 input (empty: end of input), 1 standard output, 2 standard error. Text frames are
JSON: `{"resize": [rows, columns]}` from the client, `{"exit": status}` or `{"problem": …}` to it as the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated

from fastapi import FastAPI, Query, WebSocket, WebSocketDisconnect

from whit.api.stream import problem_of
from whit.control.agent import Agent
from whit.runtime.driver import Session
from whit.runtime.supervision.execute import ExecRequest

INPUT, STDOUT, STDERR = 0, 1, 2
CHANNEL = {"stdout": STDOUT, "stderr": STDERR}


def add(app: FastAPI, agent: Agent) -> None:
    @app.websocket("/v1/instances/{instance}/exec")
    async def execute(
        socket: WebSocket,
        instance: str,
        arg: Annotated[list[str], Query()],
        tty: bool = False,
        user: str = "",
        cwd: str = "",
        env: Annotated[list[str] | None, Query()] = None,
        rows: int = 24,
        columns: int = 80,
    ) -> None:
        await socket.accept()
        request = ExecRequest(
            args=arg,
            user=user,
            cwd=cwd,
            env=dict(pair.partition("=")[::2] for pair in env or []),
            terminal=(rows, columns) if tty else None,
        )
        try:
            async with agent.execute(instance, request) as session:
                await _relay(socket, session)
        except WebSocketDisconnect:
            return
        except Exception as error:
            await socket.send_text(json.dumps({"problem": problem_of(error).model_dump()}))
        with contextlib.suppress(RuntimeError):
            await socket.close()


async def _relay(socket: WebSocket, session: Session) -> None:
    """Until the command ends; if the client goes away first, the session's end kills the command."""
    incoming = asyncio.create_task(_take_input(socket, session))
    outgoing = asyncio.create_task(_give_output(socket, session))
    done, _ = await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
    if outgoing not in done:
        outgoing.cancel()
        await incoming
        return
    incoming.cancel()
    await socket.send_text(json.dumps({"exit": await session.wait()}))


async def _take_input(socket: WebSocket, session: Session) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        if (frame := message.get("bytes")) is not None:
            await (session.write(frame[1:]) if len(frame) > 1 else session.end_input())
        elif (text := message.get("text")) is not None:
            rows, columns = json.loads(text)["resize"]
            session.resize(rows, columns)


async def _give_output(socket: WebSocket, session: Session) -> None:
    async for stream, data in session.output():
        await socket.send_bytes(bytes([CHANNEL[stream]]) + data)
