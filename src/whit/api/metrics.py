"""/metrics: on the agent's socket, and on a loopback port where one is asked for, which Prometheus can scrape."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address

from fastapi import FastAPI, Response

from whit.base.errors import Conflict, InputError
from whit.control.observing.metrics import exposition
from whit.control.observing.observation import Observation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATIENCE = 10.0
LONGEST = 16384


def add(app: FastAPI, observation: Observation) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await exposition(observation), media_type=CONTENT_TYPE)


def place_of(text: str) -> tuple[str, int]:
    """`127.0.0.1:9464`, `[::1]:9464`. Raises InputError for all that is not loopback: there is no secret to ask for."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        if not address.is_loopback or not 0 < int(port) < 65536:
            raise ValueError(text)
    except ValueError:
        raise InputError(
            f"WHIT_METRICS_LISTEN: {text} is no loopback address with a port",
            hint="write 127.0.0.1:9464; who scrapes from elsewhere puts a proxy with TLS in front",
        ) from None
    return str(address), int(port)


async def serve(place: tuple[str, int], observation: Observation) -> asyncio.Server:
    """Raises Conflict if the port is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(request, observation))
                await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(answer, *place, limit=LONGEST)
    except OSError as error:
        raise Conflict(f"WHIT_METRICS_LISTEN: {place[0]}:{place[1]} cannot be used: {error.strerror}") from error


async def _answer(request: bytes, observation: Observation) -> bytes:
    words = request.split(b" ", 2)
    if words[0] != b"GET" or words[1].partition(b"?")[0] != b"/metrics":
        return _response("404 Not Found", b"ask for /metrics\n")
    return _response("200 OK", await exposition(observation))


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
