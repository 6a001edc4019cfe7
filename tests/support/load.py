"""Load on an HTTP server: keep-alive connections, closed loop to find saturation, open loop at a fixed rate.

Every request is counted once, as a reply by status or as a failure with its cause; nothing is retried.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What became of the requests. Latencies in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    created: int = 0
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def replies(self) -> int:
        return sum(self.statuses.values())

    @property
    def rate(self) -> float:
        return self.replies / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)] if self.latencies else 0.0


class Connection:
    """One keep-alive connection. It is opened again only where the server closed it between two requests."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if self.writer is None or self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        head = [f"{method} {path} HTTP/1.1", "Host: shop", "Content-Type: application/json"]
        self.writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        raw = await self.reader.readuntil(b"\r\n\r\n")
        status = int(raw.split(b" ", 2)[1])
        headers = dict(line.lower().split(b": ", 1) for line in raw.split(b"\r\n")[1:] if b": " in line)
        payload = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        if headers.get(b"connection") == b"close":
            await self.close()
        return status, payload

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Load:
    """Requests against the shop: one in ten is an order, the others read orders back through the API and database."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.tally = Tally()
        self.count = 0
        self.last_order = 0

    async def one(self, connection: Connection) -> None:
        self.count += 1
        ordering = self.count % 10 == 1
        began = time.monotonic()
        try:
            if ordering:
                body = json.dumps({"item": "load", "quantity": 1}).encode()
                status, payload = await asyncio.wait_for(connection.request("POST", "/orders", body), 30)
            else:
                status, payload = await asyncio.wait_for(connection.request("GET", f"/orders/{self.last_order}"), 30)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.tally.failures[f"{type(error).__name__}: {error}"] += 1
            await connection.close()
            return
        self.tally.latencies.append(time.monotonic() - began)
        self.tally.statuses[status] += 1
        if status == 201:
            self.tally.created += 1
            self.last_order = json.loads(payload)["id"]
        elif status != 200:
            self.tally.failures[f"status {status}: {payload[:80]!r}"] += 1

    async def one_order(self) -> None:
        """So that there is an order to read."""
        self.count = 0
        connection = Connection(self.host, self.port)
        await self.one(connection)
        await connection.close()

    async def saturate(self, seconds: float, connections: int = 8) -> Tally:
        """As fast as `connections` clients can, each waiting for its reply."""
        began = time.monotonic()

        async def client() -> None:
            connection = Connection(self.host, self.port)
            while time.monotonic() - began < seconds:
                await self.one(connection)
            await connection.close()

        await self.one_order()
        await asyncio.gather(*(client() for _ in range(connections)))
        self.tally.seconds = time.monotonic() - began
        return self.tally

    async def at_rate(self, per_second: float, until: Callable[[], bool], connections: int = 16) -> Tally:
        """At a fixed rate, whether or not earlier replies have come, as long as a connection is free to carry it."""
        began = time.monotonic()
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(connections):
            free.put_nowait(Connection(self.host, self.port))

        async def send(connection: Connection) -> None:
            await self.one(connection)
            free.put_nowait(connection)

        async with asyncio.TaskGroup() as group:
            sent = 0
            while not until():
                due = int((time.monotonic() - began) * per_second)
                while sent < due:
                    group.create_task(send(await free.get()))
                    sent += 1
                await asyncio.sleep(0.002)
        while not free.empty():
            await free.get_nowait().close()
        self.tally.seconds = time.monotonic() - began
        return self.tally
